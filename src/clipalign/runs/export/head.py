"""The linear classifier exported next to the towers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ...methods import LinearHead, Method, SupportsLinearHead, text_head

TENSORS, FACTS = "classifier.safetensors", "classifier.json"
OTHER_CLASSES = {
    "text": "Any other class list works too: features of its prompts, as above.",
    "prompts": "The text features come from learned context vectors, which the towers do not hold: other class "
    "lists get the zero-shot features of the text tower.",
    "linear": "The layer scores the trained classes only; for others the towers' zero-shot predictions remain, "
    "which are not the method's.",
}


def rule(head: LinearHead) -> str:
    """Return the formula of the logits, with f for the image features."""
    features = "f / |f|" if head.normalise else "f"
    bias = "" if head.bias is None else " + bias"
    return f"logits = {head.scale:.9g} * ({features}) @ weight.T{bias}"


def write_head(head: LinearHead, folder: Path) -> None:
    """Write the tensors and a description of a head."""
    tensors = {"weight": head.weight, "logit_scale": torch.tensor(head.scale)}
    if head.bias is not None:
        tensors["bias"] = head.bias
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / TENSORS)
    facts = {
        "class_names": list(head.class_names),
        "templates": list(head.templates),
        "kind": head.kind,
        "logit_scale": head.scale,
        "unit_image_features": head.normalise,
        "rule": f"{rule(head)}, f: image features",
        "other_classes": OTHER_CLASSES[head.kind],
    }
    (folder / FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@torch.no_grad()
def head_of(
    method: Method, class_names: Sequence[str], templates: Sequence[str], images: Tensor
) -> LinearHead | None:
    """Return the method's classifier as a linear map of the image tower's features, if it is one.

    Args:
        method: with trained weights.
        class_names: C names; a trained layer needs training classes.
        templates: prompt templates.
        images: [n, 3, H, W], on which the map is compared with the method's classifier. The comparison covers methods
            from other packages, too.

    Returns:
        None if predictions need more than the image tower: adapters, caches, prompts inside the image tower or computed
        from the image.

    Raises:
        UnseenClasses: the method cannot score one of the classes.
    """
    expected = method.classifier(class_names, templates)(images).float()  # [n, C]
    if isinstance(method, SupportsLinearHead):
        head = method.linear_head(class_names, templates)
    else:
        head = text_head(method, class_names, templates)
    logits = head.logits(method.backbone.encode_image(images).float())  # [n, C]
    close = (logits - expected).abs().max() <= 1e-3 * expected.abs().max().clamp(min=1)
    return head if bool(close) else None
