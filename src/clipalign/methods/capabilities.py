"""Optional capabilities of methods, as protocols.

A caller tests `isinstance(method, SupportsMasks)`; a method gains a capability by defining its members, with any base
class. Contrastive losses are the exception: they need `shared.contrastive.ContrastiveMethod`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from ..backbone.text.features import text_features
from ..core.full_precision import full_precision
from ..core.types import CaptionUse
from ..losses import unit_features

if TYPE_CHECKING:
    from ..backbone.attention import AttentionOver
    from .base import Method


@runtime_checkable
class SupportsCaptions(Protocol):
    """A method trained on captions."""

    @property
    def caption_use(self) -> CaptionUse:
        """The part of a caption that a training step draws."""
        ...

    @property
    def captions_per_image(self) -> int | None:
        """The number of captions of an image to draw from, from the first; None for all."""
        ...


@runtime_checkable
class SupportsMasks(Protocol):
    """A method that gives every text a mask over the dimensions of the joint space."""

    def encode_captions(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return L2-normalised features and masks in [0, 1] of T texts, both [T, d] float32, without gradient."""
        ...


@runtime_checkable
class SupportsExplain(Protocol):
    """A method that encodes texts with learned prompts, so that the plain text tower would misrepresent it."""

    def explain_text_features(self, texts: Sequence[str], images: Tensor) -> Tensor:
        """Return the text features that `explain` compares with an image. Call it outside `hooks`.

        Args:
            texts: T texts, prompted as class names are.
            images: [1, 3, H, W], for prompts that depend on the image.

        Returns:
            [T, d] float32, L2-normalised.
        """
        ...


def explain_text_features(method: Method[Any], texts: Sequence[str], images: Tensor) -> Tensor:
    """Return what `explain` compares with an image: the method's text features, or those of the plain text tower.

    Arguments and result are those of `SupportsExplain.explain_text_features`.
    """
    if isinstance(method, SupportsExplain):
        return method.explain_text_features(texts, images)
    return text_features(method.backbone, texts)


@runtime_checkable
class SupportsHooks(Protocol):
    """A method whose predictions need tokens inserted between the blocks of the towers."""

    def hooks(self) -> AbstractContextManager[None]:
        """Return a context in which the towers run as in predictions."""
        ...


class RunningAverage(Protocol):
    """The moving average of a run's weights, as the engine keeps it."""

    def copy_to(self, parameters: Iterable[Tensor]) -> None:
        """Copy the average into tensors in the order of `Method.parameters`."""
        ...


@runtime_checkable
class SupportsRunningAverage(Protocol):
    """A method whose loss may use the moving average of its own weights."""

    def check_average(self, kind: str) -> None:
        """Raise UserError if the loss needs an average and `kind` has none during training."""
        ...

    def use_average(self, average: RunningAverage) -> None:
        """Store the average of the run; called once before the first step."""
        ...


@dataclass(frozen=True)
class MapSettings:
    """Settings of attention and similarity maps.

    Attributes:
        layers: layers whose class-token attention is averaged, from 0.
        dual_blocks: number of last blocks with a second path.
        guide: attention structure of the second path.
        attention_over: softmax over the "patches" or over all "tokens".
        keep_mlp: whether the second path applies MLPs.
        class_mean: mean text feature that is subtracted from the texts of the guide map, [d]; None for none.
    """

    layers: tuple[int, ...]
    dual_blocks: int
    guide: str = "dv"
    attention_over: AttentionOver = "patches"
    keep_mlp: bool = False
    class_mean: tuple[float, ...] | None = None


@runtime_checkable
class SupportsMapSettings(Protocol):
    """A method that trains attention or a guide, and whose maps are drawn with the same settings."""

    def map_settings(self) -> MapSettings:
        """Return the layers and the guide that the loss uses."""
        ...


@dataclass(frozen=True)
class JointClassifier:
    """A classifier whose logits of an image depend on the images that it receives together with it.

    Evaluation calls it with images of one domain, drawn in an order that does not depend on their classes.

    Attributes:
        logits: images [B, 3, H, W] -> float32 logits [B, C].
        batch_size: most images per call in evaluation.
    """

    logits: Callable[[Tensor], Tensor]
    batch_size: int

    def __call__(self, images: Tensor) -> Tensor:
        return self.logits(images)


@dataclass(frozen=True)
class LinearHead:
    """A classifier that is linear in the image features: logits = scale * f @ weight.T + bias.

    Attributes:
        kind: "text" (text features of class prompts), "prompts" (text features of learned prompts) or "linear" (a
            trained layer).
        class_names: C names, in the order of the logits.
        templates: prompt templates; empty unless `kind` is "text".
        weight: [C, d]; L2-normalised if it holds text features.
        bias: [C] or None.
        scale: CLIP's logit scale; 1 for a trained layer.
        normalise: whether the image features f are L2-normalised first.
    """

    kind: Literal["text", "prompts", "linear"]
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    weight: Tensor
    bias: Tensor | None
    scale: float
    normalise: bool

    @full_precision
    def logits(self, features: Tensor) -> Tensor:
        """Return the logits of image features as the tower gives them: [B, d] -> [B, C] float32."""
        features = unit_features(features) if self.normalise else features
        logits = self.scale * (features @ self.weight.T)  # [B, C]
        return logits if self.bias is None else logits + self.bias


@runtime_checkable
class SupportsLinearHead(Protocol):
    """A method with a linear classifier other than the text features of class prompts."""

    def linear_head(self, class_names: Sequence[str], templates: Sequence[str]) -> LinearHead:
        """Return the classifier over C class names.

        Raises:
            UnseenClasses: the method cannot score a class that it was not trained on.
        """
        ...


def text_head(method: Method[Any], class_names: Sequence[str], templates: Sequence[str]) -> LinearHead:
    """Return the zero-shot classifier: text features of the class prompts, times the logit scale."""
    text = method.text_features(class_names, templates)  # [C, d]
    return LinearHead("text", tuple(class_names), tuple(templates), text, None, float(method.scale), True)
