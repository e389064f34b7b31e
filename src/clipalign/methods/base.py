"""What a method is: the parts of a training run that differ between publications, and nothing else.

A method composes `losses` on a `Backbone`; batches, optimiser, schedule, averaging, precision, checkpoints
and files belong to the engine. A new method is one new file in this folder (or an entry point of the group
`clipalign.methods` in another package):

    @register("mine")
    class Mine(Method):
        summary = "one line for `clipalign list methods`"
        source = "Author et al., Venue Year"
        trains = "image tower"

        def setup(self, backbone, episode, templates):
            super().setup(backbone, episode, templates)
            self.train_image_tower()
            self.text = self.text_features(episode.class_names)

        def loss(self, batch):
            features = self.image_features(batch.images)
            return {"loss_ce": F.cross_entropy(self.scale * features @ self.text.T, batch.labels)}
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..backbone.text.features import class_text_features, text_features
from ..core.errors import UserError

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Batch, Episode

Classifier = Callable[[Tensor], Tensor]
EXTRA = "method."  # prefix of the method's own tensors, beside open_clip's names


@dataclass(frozen=True)
class NoOptions:
    """For methods without hyper-parameters."""


class Validation(Protocol):
    """What a method may look at outside of its loss: source rows only, never those of a test."""

    def batches(self) -> Iterator[Batch]:
        """All source validation rows in fixed views, in order."""
        ...

    def training(self, augmented: int = 0) -> Iterator[Batch]:
        """All training rows in fixed views; or `augmented` training views of each, all rows once per pass."""
        ...

    def measure(self, classifier: Classifier) -> dict[str, float]:
        """validation_accuracy and validation_loss (cross-entropy) over the training classes."""
        ...

    def accuracy(self, classifier: Classifier) -> float:
        """Share of views whose highest logit over the training classes is right, in [0, 1]."""
        ...


class Method:
    """One way of fine-tuning.

    Life of an object: `setup`, `start` once in a run, then per step `loss` and `after_step`, at the end
    `finish`; `classifier` at any time after `setup`. Methods that do not iterate have `setup` and `finish`
    alone. Randomness inside `loss` must come from torch's global generator, which the engine
    seeds for each step: that is why a resumed run needs no generator state.

    Attributes:
        name: value of --method.
        summary, source, trains: what `clipalign list methods` prints.
        towers: kinds of `Backbone` it works on.
        Config: dataclass of its hyper-parameters; they become flags of `clipalign train`.
        average: default of --average.
        iterates: False where there is nothing to optimise.
        learns_from: "classes" or "captions": what its batches have to carry.
        mean_over_rows: whether each loss is a mean over the rows of a batch, so that a batch may be split
            between processes and micro-batches.
        uses_templates: whether predictions go through prompt templates, so that --template has a meaning.
        published: options of the run it was published with, by field name of `TrainConfig`.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    trains: ClassVar[str]
    towers: ClassVar[tuple[str, ...]] = ("vit", "resnet")
    Config: ClassVar[type] = NoOptions
    average: ClassVar[str] = "none"
    iterates: ClassVar[bool] = True
    learns_from: ClassVar[Literal["classes", "captions"]] = "classes"
    mean_over_rows: ClassVar[bool] = True
    uses_templates: ClassVar[bool] = True
    published: ClassVar[Mapping[str, Any]] = {}

    backbone: Backbone
    episode: Episode
    templates: tuple[str, ...]

    def __init__(self, config: Any = None) -> None:
        self.config: Any = self.Config() if config is None else config
        self.extra = nn.ModuleDict()  # modules of the method's own; saved under "method."

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        """Build what is trained. Here: freeze the backbone, in evaluation mode, and remember the three.

        Evaluation mode stays on in training, as CLIPood and AlignCLIP released it: batch-norm statistics of
        ResNet towers are not touched; layer norms have no such mode.

        Args:
            backbone: changed in place.
            episode: class names and rows of training; test rows are not to be looked at.
            templates: prompt templates with {} for the class name.

        Raises:
            UserError: the method does not work on this kind of tower.
        """
        if backbone.kind not in self.towers:
            raise UserError(
                f"--method {self.name} works on {' and '.join(self.towers)} towers; "
                f"--backbone {backbone.spec} has a {backbone.kind}"
            )
        self.backbone, self.episode, self.templates = backbone, episode, tuple(templates)
        backbone.eval()
        backbone.requires_grad_(False)

    @classmethod
    def check_template(cls, given: Sequence[str]) -> None:
        """Refuse templates that the user chose and the method would ignore.

        Args:
            given: value of --template; those of the data are not the user's choice.

        Raises:
            UserError: there are some, and predictions do not go through templates.
        """
        if given and not cls.uses_templates:
            raise UserError(
                f"--template does not apply to --method {cls.name}, whose predictions use no prompt templates "
                f"(it trains its {cls.trains}); drop the option"
            )

    def resolved(self) -> dict[str, Any]:
        """Hyper-parameters after `setup`: what None stood for on this backbone."""
        return {}

    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        return [p for group in self.param_groups() for p in group["params"]]

    def param_groups(self) -> list[dict[str, Any]]:
        """Groups for the optimiser: "params"; optionally "lr_factor" (1.0) or "lr" (instead of the run's),
        "weight_decay" (the run's), "warmup" (True; False starts at the peak), "eps" (PyTorch's)."""
        return [{"params": [p for _, p in self._named_tensors() if p.requires_grad]}]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars by name: those named "loss..." are summed and descended, the others logged."""
        raise NotImplementedError

    def start(self, validation: Validation) -> None:
        """Called once before the first step: what is made from images and does not fit into `setup`, which
        runs again whenever weights are loaded. Shapes of parameters may not change here."""

    def after_step(self, step: int) -> None:
        """Called after optimiser step number `step` (from 1)."""

    def finish(self, validation: Validation) -> dict[str, Any]:
        """Last choices, made on source validation; what is returned goes to metrics.jsonl."""
        return {}

    def classifier(self, class_names: Sequence[str], templates: Sequence[str] | None = None) -> Classifier:
        """Logits for any class list. Here: scaled cosine with the classes' text features (zero-shot head).

        Returns:
            A function of images [B, 3, H, W] to logits [B, C] in float32.
        """
        text = self.text_features(class_names, templates)

        def logits(images: Tensor) -> Tensor:
            return self.scale * self.image_features(images).float() @ text.T

        return logits

    def hooks(self) -> AbstractContextManager[None]:
        """The towers as predictions run them, within a `with`. Here: as they are."""
        return nullcontext()

    @torch.no_grad()
    def spoken(self, texts: Sequence[str], images: Tensor) -> Tensor:
        """What this method compares with an image where it looks for a text; not within `hooks`.

        Args:
            texts: T of them. Here taken as they are; prompt learners put their vectors around them, as around
                class names.
            images: [1, 3, H, W], for methods whose prompts depend on it.

        Returns:
            [T, d] unit rows in float32.
        """
        return F.normalize(self.backbone.encode_text(list(texts)).float(), dim=-1)

    def caption_features(self, texts: Sequence[str]) -> Tensor:
        """Texts -> unit rows [T, d] float32 for retrieval, without gradient."""
        return text_features(self.backbone, texts)

    def caption_masks(self, texts: Sequence[str]) -> Tensor | None:
        """Which dimensions each text speaks about, [T, d] in [0, 1]; None for methods without masks."""
        return None

    def caption_encodings(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """`caption_features` and `caption_masks`, for methods that make both in one pass of the text tower."""
        return self.caption_features(texts), self.caption_masks(texts)

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors that predictions need: the backbone's by open_clip's names, its own after "method."."""
        own = {EXTRA + name: tensor for name, tensor in self.extra.state_dict().items()}
        return {**self.backbone.model.state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`, after `setup`.

        Raises:
            UserError: names or shapes do not fit.
        """
        parts: tuple[tuple[nn.Module, dict[str, Tensor]], ...] = (
            (self.backbone.model, {k: v for k, v in state.items() if not k.startswith(EXTRA)}),
            (self.extra, {k.removeprefix(EXTRA): v for k, v in state.items() if k.startswith(EXTRA)}),
        )
        try:
            for module, tensors in parts:
                module.load_state_dict(tensors)
        except RuntimeError as error:
            first = " ".join(str(error).split())[:300]
            raise UserError(
                f"the weights do not fit --method {self.name} on this backbone: {first}"
            ) from None

    # What most methods share.

    @property
    def scale(self) -> Tensor:
        """s, CLIP's factor on cosines, a scalar."""
        return self.backbone.logit_scale.detach()

    def train_image_tower(self) -> None:
        """Let the whole vision tower be trained."""
        for parameter in self.backbone.image_parameters():
            parameter.requires_grad_(True)

    def image_features(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> unit rows [B, d]."""
        return F.normalize(self.backbone.encode_image(images), dim=-1)

    def text_features(self, class_names: Sequence[str], templates: Sequence[str] | None = None) -> Tensor:
        """Class names -> unit rows [C, d], no gradient."""
        with torch.no_grad():
            return class_text_features(self.backbone, class_names, templates or self.templates)

    def _named_tensors(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self.backbone.model.named_parameters()
        for name, parameter in self.extra.named_parameters():
            yield EXTRA + name, parameter
