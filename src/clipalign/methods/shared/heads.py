"""Methods with a linear classifier over the training classes, and helpers for image features of whole data sets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...backbone.text.features import clean_class_names
from ...core.config import Options, facts
from ...core.errors import UnseenClasses, UserError
from ...core.full_precision import full_precision
from ...losses import cosine_logits, unit_features
from ..base import Classifier, ConfigT, Method
from ..capabilities import LinearHead, text_head

if TYPE_CHECKING:
    from ...backbone import Backbone
    from ...core.types import Batch, Episode

HeadKind = Literal["random", "zero-shot", "text"]


class HeadLayer(nn.Linear):
    """z = W f + b over the training classes in float32, f L2-normalised if `normalise` is set."""

    def __init__(self, width: int, classes: int, normalise: bool) -> None:
        super().__init__(width, classes)
        self.normalise = normalise

    @full_precision
    def forward(self, features: Tensor) -> Tensor:
        """[B, d] -> [B, C]."""
        return super().forward(unit_features(features) if self.normalise else features)


class HeadMethod(Method[ConfigT]):
    """A method that classifies image features with a linear layer or with the frozen class prompts.

    Call `add_head` in `setup`; `head_logits` then scores the training classes.
    """

    text: Tensor | None = None  # [C, d], the frozen class prompts; None with a linear layer

    def add_head(self, kind: HeadKind, normalise: bool | None = None) -> None:
        """Create the classifier.

        Args:
            kind: "random": PyTorch's default initialisation, on features as the tower gives them (DomainBed).
                "zero-shot": W = s T, b = 0, on L2-normalised features, so that training starts from zero-shot
                predictions (WiSE-FT). "text": no layer, but the frozen s T, which scores any class list.
            normalise: whether the layer L2-normalises features; None for the convention of `kind`.
        """
        class_names = self.episode.class_names
        if kind != "random":
            text = self.text_features(class_names)  # [C, d]
        if kind == "text":
            self.text = text
            return
        normalise = kind == "zero-shot" if normalise is None else normalise
        layer = HeadLayer(self.backbone.embed_dim, len(class_names), normalise)
        self.extra["head"] = layer.to(self.backbone.device)
        if kind == "zero-shot":
            self.set_head(self.scale * text, torch.zeros(len(class_names)))

    @property
    def head(self) -> HeadLayer:
        """The linear layer, unless the class prompts classify."""
        head = self.extra["head"]
        assert isinstance(head, HeadLayer)
        return head

    @torch.no_grad()
    def set_head(self, weight: Tensor, bias: Tensor) -> None:
        """Overwrite weight [C, d] and bias [C] of the layer."""
        self.head.weight.copy_(weight)
        self.head.bias.copy_(bias)

    def head_logits(self, features: Tensor) -> Tensor:
        """Return logits of the training classes for features as the tower gives them: [B, d] -> [B, C]."""
        if self.text is None:
            return self.head(features)
        return cosine_logits(unit_features(features), self.text, self.scale)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        features = self.backbone.encode_image(batch.images)  # [B, d]
        logits = self.head_logits(features)  # [B, C]
        return {"loss_ce": F.cross_entropy(logits, batch.labels)}

    def classifier(self, class_names: Sequence[str], templates: Sequence[str] | None = None) -> Classifier:
        """Return the classifier over training classes in any order; the class prompts score any class list.

        Raises:
            UnseenClasses: a linear layer, and a class that it was not trained on.
        """
        if self.text is not None:
            return super().classifier(class_names, templates)
        columns = self.columns(class_names)
        return lambda images: self.head(self.backbone.encode_image(images))[:, columns]  # [B, C]

    def linear_head(self, class_names: Sequence[str], templates: Sequence[str]) -> LinearHead:
        if self.text is not None:
            return text_head(self, class_names, templates)
        columns = self.columns(class_names)
        weight, bias = self.head.weight.detach()[columns], self.head.bias.detach()[columns]  # [C, d], [C]
        return LinearHead("linear", tuple(class_names), (), weight, bias, 1.0, self.head.normalise)

    def columns(self, class_names: Sequence[str]) -> list[int]:
        """Return the columns of the layer's logits that belong to each class.

        Raises:
            UnseenClasses: one has none.
        """
        columns = positions(class_names, self.episode.class_names)
        if None in columns:
            raise UnseenClasses(
                f"--method {self.name} has a linear head over the {len(self.episode.class_names)} classes it "
                f'was trained on and cannot score others, such as "{class_names[columns.index(None)]}"'
            )
        return [column for column in columns if column is not None]


@dataclass(frozen=True)
class HeadConfig(Options):
    """Classifier of a `TrainedHeadMethod`."""

    head: HeadKind = "random"
    """Classifier: random, zero-shot or text. random: linear layer with PyTorch's default initialisation
    (published); zero-shot: linear layer initialised from the class prompts; text: the frozen class prompts, for any
    class list."""
    unit_features: bool | None = field(default=None, metadata=facts(unset="if zero-shot"))
    """L2-normalise features of a linear head. random: off, as DomainBed; zero-shot: on, as WiSE-FT."""


HeadConfigT = TypeVar("HeadConfigT", bound=HeadConfig)


class TrainedHeadMethod(HeadMethod[HeadConfigT]):
    """A method that trains the image tower together with the classifier chosen by --head."""

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        self.train_image_tower()
        self.add_head(self.config.head, self.config.unit_features)


def positions(class_names: Sequence[str], known: Sequence[str]) -> list[int | None]:
    """Return the position of each class in `known`, or None. Case, hyphens and underscores do not matter."""
    index = {name.lower(): i for i, name in enumerate(clean_class_names(known))}
    return [index.get(name.lower()) for name in clean_class_names(class_names)]


@torch.no_grad()
def encode_all(backbone: Backbone, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """Return the image features [n, d] float32 of all batches, not normalised, and their labels [n]."""
    parts = [(backbone.encode_image(batch.images).float(), batch.labels) for batch in batches]
    return torch.cat([features for features, _ in parts]), torch.cat([labels for _, labels in parts])


def require_all_classes(labels: Tensor, class_names: Sequence[str], method: str) -> None:
    """Check that every class has a training image.

    Raises:
        UserError: a class has none; the message names the first.
    """
    counts = torch.bincount(labels.cpu(), minlength=len(class_names))  # [C]
    if not bool(counts.all()):
        missing = class_names[int((counts == 0).nonzero()[0])]
        raise UserError(
            f'--method {method} needs a training image of each class; "{missing}" has none under this '
            "--protocol and --target"
        )
