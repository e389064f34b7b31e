"""What methods with a linear classifier share, and methods on stored features. Not a method itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...backbone.text.features import clean_class_names
from ...core.errors import UnseenClasses, UserError
from ..base import Classifier, Method

if TYPE_CHECKING:
    from ...backbone import Backbone
    from ...core.types import Batch, Episode

HeadKind = Literal["random", "zero-shot", "text"]

# Settings of Gulrajani and Lopez-Paz, ICLR 2021, which the methods measured in their frame keep.
DOMAINBED: Mapping[str, Any] = {
    "lr": 5e-5,
    "weight_decay": 0.0,
    "optimizer": "adam",
    "schedule": "constant",
    "steps": 5000,  # DomainBed counts 5001
    "batch_size": 96,  # 32 of each of three source domains
}


class LinearHead(nn.Linear):
    """z = W f + b over the training classes, in float32; with `unit`, of features of length 1."""

    def __init__(self, width: int, classes: int, unit: bool) -> None:
        super().__init__(width, classes)
        self.unit = unit

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            features = F.normalize(features.float(), dim=-1) if self.unit else features.float()
            return super().forward(features)


class HeadMethod(Method):
    """A method whose classifier is a linear layer on image features, or CLIP's class prompts.

    Call `add_head` in `setup`; then `logits` gives those of the training classes from raw image features.
    """

    text: Tensor | None = None

    def add_head(self, kind: HeadKind, unit: bool | None = None) -> None:
        """Make the classifier.

        Args:
            kind: "random": PyTorch's default initialisation, on features as the tower gives them (DomainBed).
                "zero-shot": W = s T, b = 0, on features of length 1 (WiSE-FT), which starts from zero-shot
                predictions. "text": no layer of its own, but s T itself, frozen, for any class list.
            unit: whether features are normalised for the layer; None as said above.
        """
        names = self.episode.class_names
        if kind != "random":
            text = self.text_features(names)
        if kind == "text":
            self.text = text
            return
        unit = kind == "zero-shot" if unit is None else unit
        head = LinearHead(self.backbone.embed_dim, len(names), unit).to(self.backbone.device)
        self.extra["head"] = head
        if kind == "zero-shot":
            self.set_head(self.scale * text, torch.zeros(len(names)))

    @property
    def linear_head(self) -> LinearHead:
        """The layer, where there is one."""
        head = self.extra["head"]
        assert isinstance(head, LinearHead)
        return head

    @torch.no_grad()
    def set_head(self, weight: Tensor, bias: Tensor) -> None:
        """Overwrite the layer's weight [C, d] and bias [C]."""
        self.linear_head.weight.copy_(weight)
        self.linear_head.bias.copy_(bias)

    def logits(self, features: Tensor) -> Tensor:
        """Raw image features [B, d] -> logits of the training classes [B, C]."""
        if self.text is None:
            return self.linear_head(features)
        return (self.scale * F.normalize(features, dim=-1) @ self.text.T).float()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.logits(self.backbone.encode_image(batch.images))
        return {"loss_ce": F.cross_entropy(logits, batch.labels)}

    def classifier(self, class_names: Sequence[str], templates: Sequence[str] | None = None) -> Classifier:
        """Logits for some of the training classes, in any order; of a text head, for any classes.

        Raises:
            UnseenClasses: a linear head, and a class that it was not trained on.
        """
        if self.text is not None:
            return super().classifier(class_names, templates)
        columns = columns_of(class_names, self.episode.class_names)
        if None in columns:
            stranger = class_names[columns.index(None)]
            raise UnseenClasses(
                f"--method {self.name} has a linear head over the {len(self.episode.class_names)} classes it "
                f'was trained on and cannot score others, such as "{stranger}"'
            )

        def logits(images: Tensor) -> Tensor:
            return self.linear_head(self.backbone.encode_image(images))[:, columns]

        return logits


class TrainedHeadMethod(HeadMethod):
    """A method that trains the image tower together with the classifier that --head and --unit-features name."""

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        self.train_image_tower()
        self.add_head(self.config.head, self.config.unit_features)


def columns_of(class_names: Sequence[str], known: Sequence[str]) -> list[int | None]:
    """Where each class stands among the known ones, spelling of blanks and case apart; None for new ones."""
    position = {name.lower(): i for i, name in enumerate(clean_class_names(known))}
    return [position.get(name.lower()) for name in clean_class_names(class_names)]


@torch.no_grad()
def encode_all(backbone: Backbone, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """Image features [n, d], not normalised, float32, and labels [n] of all batches."""
    parts = [(backbone.encode_image(batch.images).float(), batch.labels) for batch in batches]
    return torch.cat([features for features, _ in parts]), torch.cat([labels for _, labels in parts])


def require_all_classes(labels: Tensor, class_names: Sequence[str], method: str) -> None:
    """Refuse training rows that leave a class without an image.

    Raises:
        UserError: naming the first such class.
    """
    counts = torch.bincount(labels.cpu(), minlength=len(class_names))
    if not bool(counts.all()):
        missing = class_names[int((counts == 0).nonzero()[0])]
        raise UserError(
            f'--method {method} needs a training image of each class; "{missing}" has none under this '
            "--protocol and --target"
        )
