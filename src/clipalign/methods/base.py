"""The contract of a method: the part of a training run that differs between publications.

A method combines `losses` with a `Backbone`. Batches, optimiser, schedule, weight averaging, precision, checkpoints
and files belong to the engine. A new method is one file in this folder, or a class in another package registered
through the entry point group `clipalign.methods`:

    @dataclass(frozen=True)
    class MineConfig:
        epsilon: float = 0.1
        \"\"\"Label smoothing (published: 0.1).\"\"\"

    @register("mine")
    class Mine(Method[MineConfig]):
        summary = "one line for `clipalign list methods`"
        source = "Author et al., Title, Venue Year"
        trains = "image tower"
        Config = MineConfig

        def setup(self, backbone, episode, templates):
            super().setup(backbone, episode, templates)  # freezes the backbone
            self.train_image_tower()
            self.text = self.text_features(episode.class_names)  # [C, d]

        def loss(self, batch):
            image = self.image_features(batch.images)  # [B, d]
            logits = cosine_logits(image, self.text, self.scale)  # [B, C]
            return {"loss_ce": F.cross_entropy(logits, batch.labels, label_smoothing=self.config.epsilon)}

Everything optional, such as learned prompts or caption masks, is a protocol in `capabilities`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypedDict, TypeVar

import torch
from torch import Tensor, nn

from ..backbone.text.features import class_text_features
from ..core.errors import UserError
from ..core.search import SearchSpace
from ..losses import cosine_logits, unit_features

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from ..backbone import Backbone
    from ..backbone.families import Capability
    from ..core.types import Batch, Episode

Classifier = Callable[[Tensor], Tensor]  # images [B, 3, H, W] -> float32 logits [B, C]
PublishedOptions = Mapping[str, int | float | str]  # options of a run, by field name of its config
ConfigT = TypeVar("ConfigT", bound="DataclassInstance")

PREFIX = "method."  # of the method's own tensors in a state dict, next to open_clip's names


@dataclass(frozen=True)
class NoOptions:
    """Config of a method without hyper-parameters."""


class _Parameters(TypedDict):
    params: list[nn.Parameter]


class ParamGroup(_Parameters, total=False):
    """Parameters with their own optimiser settings; a missing key means the run's setting.

    Attributes:
        params: parameters to train.
        lr: peak learning rate.
        lr_factor: factor on the run's peak learning rate.
        weight_decay: weight decay.
        eps: epsilon of Adam and AdamW.
        warmup: False to start at the peak learning rate.
    """

    lr: float
    lr_factor: float
    weight_decay: float
    eps: float
    warmup: bool


class Validation(Protocol):
    """Source images a method may use outside its loss; test images are out of reach."""

    def batches(self) -> Iterator[Batch]:
        """Yield all source validation rows as fixed views, in order."""
        ...

    def training(self, augmented: int = 0) -> Iterator[Batch]:
        """Yield all training rows as fixed views or, if `augmented` > 0, that many passes of training views."""
        ...

    def measure(self, classifier: Classifier) -> dict[str, float]:
        """Return validation_accuracy in [0, 1] and validation_loss (cross-entropy) over the training classes."""
        ...

    def accuracy(self, classifier: Classifier) -> float:
        """Return the top-1 accuracy in [0, 1] over the training classes."""
        ...


class Method(Generic[ConfigT]):
    """A way to fine-tune a backbone.

    Call order: `setup`; `start` once per run; `loss` and `after_step` per step; `finish` at the end. `classifier`
    works at any time after `setup`. Methods that do not iterate implement only `setup` and `finish`. Draw random
    numbers in `loss` from torch's global generator: the engine seeds it for every step, so a resumed run needs no
    generator state.

    Attributes:
        name: value of --method.
        summary: one line for `clipalign list methods`.
        source: publication.
        trains: what is trained, in words.
        trains_image_tower: whether parameters of the image tower are trained; reports draw maps of such methods.
        needs: what it uses of a backbone beyond image and text features, by the names of
            `backbone.families.CAPABILITIES`.
        Config: frozen dataclass of its hyper-parameters; the fields become options of `clipalign train`.
        average: default of --average.
        iterates: False if there is nothing to optimise.
        learns_from: whether training batches need classes or captions.
        mean_over_rows: whether each loss is a mean over the rows of a batch; such a batch may be split between
            processes and micro-batches.
        uses_templates: whether predictions use prompt templates; otherwise --template is an error.
        published: options of the published run, for methods of other packages; those of this package have a file in
            `configs/recipes/published`.
        search: options that `clipalign tune` chooses, besides or instead of those in `core.search.COMMON_SPACE`.
        config: the hyper-parameters.
        extra: modules of the method; trained, averaged, saved and loaded with the backbone.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    trains: ClassVar[str]
    trains_image_tower: ClassVar[bool] = False
    needs: ClassVar[tuple[Capability, ...]] = ()
    average: ClassVar[str] = "none"
    iterates: ClassVar[bool] = True
    learns_from: ClassVar[Literal["classes", "captions"]] = "classes"
    mean_over_rows: ClassVar[bool] = True
    uses_templates: ClassVar[bool] = True
    published: ClassVar[PublishedOptions] = {}
    search: ClassVar[SearchSpace] = {}
    Config: type[ConfigT] = NoOptions  # type: ignore[assignment]

    backbone: Backbone
    episode: Episode
    templates: tuple[str, ...]

    def __init__(self, config: ConfigT | None = None) -> None:
        self.config: ConfigT = self.Config() if config is None else config
        self.extra = nn.ModuleDict()

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        """Build what is trained. The base class freezes the backbone and puts it into evaluation mode.

        Evaluation mode stays on during training, as in CLIPood's and AlignCLIP's released code: it keeps the
        batch-norm statistics of ResNet towers, and CLIP's ViTs have no dropout.

        Args:
            backbone: modified in place.
            episode: class names and training rows; do not look at its test rows.
            templates: prompt templates with {} for the class name.

        Raises:
            UserError: the towers do not offer what the method needs.
        """
        backbone.check_offers(self.needs, f"--method {self.name}")
        self.backbone, self.episode, self.templates = backbone, episode, tuple(templates)
        backbone.eval()
        backbone.requires_grad_(False)

    def resolved(self) -> dict[str, object]:
        """Return the hyper-parameters that `setup` derived from the backbone or the data."""
        return {}

    def parameters(self) -> list[nn.Parameter]:
        """Return the trained parameters."""
        return [parameter for group in self.param_groups() for parameter in group["params"]]

    def param_groups(self) -> list[ParamGroup]:
        """Return the trained parameters in groups for the optimiser."""
        return [{"params": [p for _, p in self.named_parameters() if p.requires_grad]}]

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield all parameters, trained or not, under their names in `state_dict`."""
        yield from self.backbone.model.named_parameters()
        for name, parameter in self.extra.named_parameters():
            yield PREFIX + name, parameter

    def start(self, validation: Validation) -> None:
        """Prepare for the first step of a new run, for example fit a head to image features.

        Not for opened or resumed runs, which load the result. Parameter shapes must not change here.
        """

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return scalars by name; the sum of those named "loss..." is minimised, the others are logged."""
        raise NotImplementedError

    def after_step(self, step: int) -> None:
        """Run after optimiser step number `step`, counted from 1."""

    def finish(self, validation: Validation) -> dict[str, object]:
        """Make final choices on the source validation rows; return facts for metrics.jsonl."""
        return {}

    def classifier(self, class_names: Sequence[str], templates: Sequence[str] | None = None) -> Classifier:
        """Return the classifier over any class list. The base class scores scaled cosines (zero-shot).

        Returns:
            Function from images [B, 3, H, W] to float32 logits [B, C].

        Raises:
            UnseenClasses: the method cannot score a class that it was not trained on.
        """
        text = self.text_features(class_names, templates)  # [C, d]
        return lambda images: cosine_logits(self.image_features(images), text, self.scale)  # [B, C]

    def state_dict(self) -> dict[str, Tensor]:
        """Return all tensors that predictions need: the backbone's under open_clip's names, then its own."""
        own = {PREFIX + name: tensor for name, tensor in self.extra.state_dict().items()}
        return {**self.backbone.model.state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load the result of `state_dict`, after `setup`.

        Raises:
            UserError: names or shapes do not match.
        """
        towers = {name: tensor for name, tensor in state.items() if not name.startswith(PREFIX)}
        own = {name.removeprefix(PREFIX): t for name, t in state.items() if name.startswith(PREFIX)}
        try:
            self.backbone.model.load_state_dict(towers)
            self.extra.load_state_dict(own)
        except RuntimeError as error:
            first = " ".join(str(error).split())[:300]
            raise UserError(
                f"the weights do not fit --method {self.name} on this backbone: {first}"
            ) from None

    # Building blocks for subclasses

    @property
    def scale(self) -> Tensor:
        """CLIP's logit scale s, the factor on cosines; a scalar without gradient."""
        return self.backbone.logit_scale.detach()

    def train_image_tower(self) -> None:
        """Make all parameters of the image tower trainable."""
        for parameter in self.backbone.image_parameters():
            parameter.requires_grad_(True)

    def image_features(self, images: Tensor) -> Tensor:
        """Return L2-normalised image features in float32: [B, 3, H, W] -> [B, d]."""
        return unit_features(self.backbone.encode_image(images))

    @torch.no_grad()
    def text_features(self, class_names: Sequence[str], templates: Sequence[str] | None = None) -> Tensor:
        """Return L2-normalised text features of the class prompts, [C, d], without gradient."""
        return class_text_features(self.backbone, class_names, templates or self.templates)


def check_template(method: type[Method[Any]], given: Sequence[str]) -> None:
    """Reject prompt templates that the method would ignore.

    Args:
        method: class of the method.
        given: value of --template, without the templates of the data set.

    Raises:
        UserError: templates were given and the method's predictions use none.
    """
    if given and not method.uses_templates:
        raise UserError(
            f"--template does not apply to --method {method.name}, whose predictions use no prompt templates "
            f"(it trains its {method.trains}); drop the option"
        )
