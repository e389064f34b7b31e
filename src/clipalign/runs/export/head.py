"""The classifier that goes along with exported towers: one linear map of image features."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from ...methods import Method
from ...methods.coop import CoOp
from ...methods.shared.heads import HeadMethod, columns_of

TENSORS, FACTS = "classifier.safetensors", "classifier.json"
OTHERS = {
    "text": "Any other class list works too: features of its prompts, as above.",
    "prompts": "The text features come from learned context vectors, which the towers do not hold: other class "
    "lists get the zero-shot features of the text tower.",
    "linear": "The layer knows the trained classes alone; for others the towers' zero-shot predictions remain, "
    "which are not the method's.",
}


@dataclass(frozen=True)
class Head:
    """logits = scale * f @ weight.T + bias, f the image features, of unit length where `unit` is set.

    Attributes:
        kind: "text" (text features of the classes), "prompts" (of learned prompts), "linear" (a trained layer).
        class_names: C names.
        templates: of the prompts; none for a linear layer.
        weight: [C, d]; unit rows where it holds text features.
        bias: [C] or None.
        scale: CLIP's logit scale; 1 for a linear layer.
        unit: whether image features are normalised first.
    """

    kind: str
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    weight: Tensor
    bias: Tensor | None
    scale: float
    unit: bool

    def logits(self, features: Tensor) -> Tensor:
        """Raw image features [B, d] -> [B, C]."""
        features = F.normalize(features, dim=-1) if self.unit else features
        logits = self.scale * features @ self.weight.T
        return logits if self.bias is None else logits + self.bias

    @property
    def rule(self) -> str:
        """What a reader has to compute."""
        features = "f / |f|" if self.unit else "f"
        return f"logits = {self.scale:.9g} * ({features}) @ weight.T" + (
            "" if self.bias is None else " + bias"
        )

    @property
    def others(self) -> str:
        """What to do for other class lists."""
        return OTHERS[self.kind]

    def write(self, folder: Path) -> None:
        """Write tensors and facts."""
        tensors = {"weight": self.weight, "logit_scale": torch.tensor(self.scale)}
        if self.bias is not None:
            tensors["bias"] = self.bias
        save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / TENSORS)
        facts = {
            "class_names": list(self.class_names),
            "templates": list(self.templates),
            "kind": self.kind,
            "logit_scale": self.scale,
            "unit_image_features": self.unit,
            "rule": f"{self.rule}, f: image features",
            "other_classes": self.others,
        }
        (folder / FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@torch.no_grad()
def head_of(
    method: Method, class_names: Sequence[str], templates: Sequence[str], images: Tensor
) -> Head | None:
    """The method's predictions as a linear map of the image tower's features, if they are one.

    Args:
        method: with its trained weights.
        class_names: C names; a linear head needs trained ones.
        templates: of the prompts.
        images: [n, 3, H, W] on which the map is compared with the method's own classifier; that makes it right
            for methods this package has never seen.

    Returns:
        None where predictions need more than the image tower: adapters, caches, prompts inside the image tower
        or made from the image.

    Raises:
        UnseenClasses: classes that the method cannot score.
    """
    expected = method.classifier(class_names, templates)(images).float()
    if isinstance(method, HeadMethod) and method.text is None:
        layer = method.linear_head
        order = _columns(method, class_names)
        head = Head(
            "linear",
            tuple(class_names),
            (),
            layer.weight.detach()[order],
            layer.bias.detach()[order],
            1.0,
            layer.unit,
        )
    else:
        features = method.text_features(class_names, templates)
        head = Head(
            "text", tuple(class_names), tuple(templates), features, None, float(method.scale), unit=True
        )
        if isinstance(method, CoOp):
            context: Tensor = method.context
            if method.config.class_specific:
                context = context[method.trained_rows(class_names)]
            features = method.prompt_features(method.class_prompts(class_names), context)
            head = replace(head, kind="prompts", weight=features, templates=())
    found = head.logits(method.backbone.encode_image(images).float())
    close = (found - expected).abs().max() <= 1e-3 * expected.abs().max().clamp(min=1)
    return head if bool(close) else None


def _columns(method: HeadMethod, class_names: Sequence[str]) -> list[int]:
    return [c for c in columns_of(class_names, method.episode.class_names) if c is not None]
