"""AlignCLIP: attention alignment and semantic label smoothing on the image tower, with a beta moving
average."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor
from torch.nn import functional as F

from .. import losses
from ..backbone.attention import check_structure
from ..core.errors import UserError
from . import register
from .base import Method
from .erm import Erm

if TYPE_CHECKING:
    from ..backbone import Backbone, DenseFeatures
    from ..core.types import Batch, Episode

log = logging.getLogger(__name__)

UNIFORM = 0.01  # nats; a guide closer to uniform than this names no place
LOOK_EVERY = 50  # steps between looks at the guide, for each of which a GPU has to be waited for


@dataclass(frozen=True)
class AlignClipConfig:
    """Every published part as an option. A default of None means: as --variant has it, on this backbone."""

    variant: Literal["paper", "released"] = "paper"
    """Where paper and released code differ: whose form options that are not given take."""

    aal_weight: float | None = None
    """Weight of the attention alignment loss, both terms. paper: 1, released: 10; 0 turns it off."""
    al_weight: float = 1.0
    """Weight of its first term AL (class-token attention against the guide); 0 turns it off."""
    as_weight: float = 1.0
    """Weight of its second term AS (patch similarity against the guide); 0 turns it off."""
    aligned_layers: int | None = None
    """Layers, from the first, whose class-token attention is aligned. paper: a third of the blocks (4 of 12),
    released: 5/12 of them."""
    attention_over: Literal["patches", "tokens"] | None = None
    """paper: "patches", softmax without the class key. released: "tokens", softmax over all, class token
    dropped, normalised again."""
    al_direction: Literal["paper", "released"] | None = None
    """paper: KL(attention || guide), released: KL(guide || attention)."""
    as_direction: Literal["paper", "released"] | None = None
    """paper: KL(similarity || guide), released: KL(guide || similarity)."""
    as_classes: Literal["true", "sum", "mean"] | None = None
    """Classes in AS. paper: the true one. released: the sum over all; mean does not grow with their
    number."""
    temperature: float | None = None
    """Temperature of similarity and guide distributions over patches. paper: 1/s of the backbone (0.01 for
    OpenAI's weights), released: 1, which makes the guide nearly uniform."""
    guide: str = "dv"
    """Attention structure of the guide's path: dv (identity), vvv, qqv, kkv, or any other of q, k, v."""
    dual_blocks: int | None = None
    """Last blocks that have the guide's path. Default: half of them (6 of 12)."""
    keep_mlp: bool = False
    """Give the guide's path the blocks' MLPs too."""
    detach_guide: bool = True
    """The guide takes no gradient."""

    smoothing: Literal["paper", "paper-raw", "released", "uniform", "none"] | None = None
    """Targets of the cross-entropy. paper: (1 - epsilon) one-hot + epsilon * row softmax of class similarity;
    paper-raw: the similarity itself, as equation (9) prints it; released: 1 - epsilon for the true class,
    the softmax of sharpness * similarity for others; uniform: label smoothing; none: one-hot."""
    epsilon: float = 0.1
    """Share of the smoothing; the released code calls 1 - epsilon its epsilon."""
    sharpness: float | None = None
    """Factor on class similarities before their softmax. paper: 1, released: 0.35 s (35 for OpenAI's
    weights)."""
    normalise_targets: bool | None = None
    """Scale each class's targets to sum to 1. Off in both variants; changes released and paper-raw."""
    margin: float | None = None
    """CLIPood's margin in cosines, taken from the true class in training. paper: 0, released: 30 / s, at most 1
    (0.3 for OpenAI's weights)."""

    def __post_init__(self) -> None:
        for name in ("aal_weight", "al_weight", "as_weight", "sharpness", "margin"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise UserError(f"--{name.replace('_', '-')} must be at least 0, not {value:g}")
        if not 0 <= self.epsilon <= 1:
            raise UserError(f"--epsilon must be in [0, 1], not {self.epsilon:g}")
        if self.temperature is not None and not self.temperature > 0:
            raise UserError(f"--temperature must be above 0, not {self.temperature:g}")


def resolve(config: AlignClipConfig, scale: float, blocks: int) -> AlignClipConfig:
    """Fill in what is None.

    Constants that the publication ties to CLIP's scale of 100 and to 12 blocks are carried over in
    proportion.

    Args:
        config: options as given.
        scale: s of the backbone.
        blocks: attention layers of its vision tower.

    Raises:
        UserError: more layers than there are.
    """
    variants: dict[str, tuple[Any, Any]] = {
        "aal_weight": (1.0, 10.0),
        "aligned_layers": (max(1, round(blocks / 3)), max(1, round(5 * blocks / 12))),
        "attention_over": ("patches", "tokens"),
        "al_direction": ("paper", "released"),
        "as_direction": ("paper", "released"),
        "as_classes": ("true", "sum"),
        "temperature": (1 / scale, 1.0),
        "dual_blocks": (max(1, blocks // 2),) * 2,
        "smoothing": ("paper", "released"),
        "sharpness": (1.0, 0.35 * scale),
        "normalise_targets": (False, False),
        "margin": (0.0, losses.published_margin(scale)),
    }
    column = ("paper", "released").index(config.variant)
    chosen = {name: values[column] for name, values in variants.items() if getattr(config, name) is None}
    resolved = replace(config, **chosen)
    for name in ("aligned_layers", "dual_blocks"):
        if not 1 <= getattr(resolved, name) <= blocks:
            raise UserError(
                f"--{name.replace('_', '-')} {getattr(resolved, name)}: this backbone allows 1 to {blocks}"
            )
    return resolved


@register("alignclip")
class AlignClip(Method):
    """L = AAL + SLS, equations (6) and (8): KL(A_c || G_DV) + KL(G || G_DV) + soft cross-entropy.

    A_c is the class token's attention over the patches in the first layers, G the distribution over patches
    of their similarity with the true class, G_DV the same of a second path through the last blocks whose
    attention is the identity; it runs along in the same pass. Predictions are those of the averaged weights.
    """

    summary = "attention alignment + semantic label smoothing + beta moving average"
    source = "AlignCLIP, ICLR 2024 submission; Machine Learning 114(3):58, 2025"
    trains = "image tower"
    Config = AlignClipConfig
    average = "bma"
    published: ClassVar[Mapping[str, Any]] = {**Erm.published, "bma_beta": 0.5}

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        check_structure(self.config.guide)
        self.train_image_tower()
        o: Any = resolve(self.config, float(self.scale), backbone.num_blocks)
        self.o = o
        self.al: float = o.aal_weight * o.al_weight
        self.as_: float = o.aal_weight * o.as_weight
        self.text = self.text_features(episode.class_names)
        self.targets = self.smoothed_targets()
        self.warned = False
        # Of the guide from uniform, summed since the last look; the sum stays on the device.
        self.guide_divergence: Tensor | float = 0.0
        self.guide_batches = 0

    def resolved(self) -> dict[str, Any]:
        return asdict(self.o)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        o = self.o
        if not (self.al or self.as_):
            return self.classification(self.backbone.encode_image(batch.images), batch.labels)
        dense = self.backbone.dense(
            batch.images,
            range(o.aligned_layers) if self.al else (),
            o.guide,
            o.dual_blocks,
            attention_over=o.attention_over,
            detach_guide=o.detach_guide,
            keep_mlp=o.keep_mlp,
        )
        return self.classification(dense.image, batch.labels) | self.alignment(dense, batch.labels)

    def classification(self, image: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """SLS, equations (8) and (9)."""
        logits = losses.margin_logits(image, self.text, labels, self.scale, self.o.margin)
        if self.targets is None:
            return {"loss_ce": F.cross_entropy(logits, labels)}
        targets = self.targets[labels]
        return {"loss_sls": losses.soft_cross_entropy(logits, targets), "target_mass": targets.sum(1).mean()}

    def alignment(self, dense: DenseFeatures, labels: Tensor) -> dict[str, Tensor]:
        """AAL, equation (6)."""
        o = self.o
        terms: dict[str, Tensor] = {}
        assert dense.guide is not None
        guide = losses.log_similarity_distribution(dense.guide, self.text, labels, o.temperature)
        if self.al:
            attention = losses.class_attention(dense.cls_attention)
            terms["al"] = losses.attention_alignment(attention, guide, o.al_direction)
            terms["loss_al"] = self.al * terms["al"]
            terms["attention_entropy"] = losses.entropy(attention.detach().log()).mean()
        if self.as_:
            every = o.as_classes != "true"
            chosen = None if every else labels
            similarity = losses.log_similarity_distribution(dense.patches, self.text, chosen, o.temperature)
            against = guide
            if every:
                against = losses.log_similarity_distribution(dense.guide, self.text, None, o.temperature)
            terms["as"] = losses.similarity_alignment(
                similarity, against, o.as_direction, "mean" if o.as_classes == "mean" else "sum"
            )
            terms["loss_as"] = self.as_ * terms["as"]
        terms["guide_entropy"] = losses.entropy(guide.detach()).mean()
        terms["guide_kl_uniform"] = losses.kl_to_uniform(guide.detach()).mean()
        self.guide_divergence = self.guide_divergence + terms["guide_kl_uniform"]
        self.guide_batches += 1
        return terms

    def smoothed_targets(self) -> Tensor | None:
        """[C, C], row y the targets of class y; None for one-hot ones. Made of training classes alone."""
        o, similarity = self.o, losses.class_similarity(self.text)
        if o.smoothing == "none":
            return None
        if o.smoothing == "uniform":
            targets = losses.uniform_targets(len(similarity), o.epsilon, similarity.device)
        elif o.smoothing == "released":
            targets = losses.released_semantic_targets(similarity, 1 - o.epsilon, o.sharpness)
        elif o.smoothing == "paper-raw":
            targets = losses.semantic_targets(similarity, o.epsilon, raw=True)
        else:
            targets = losses.semantic_targets(o.sharpness * similarity, o.epsilon)
        return targets / targets.sum(dim=1, keepdim=True) if o.normalise_targets else targets

    def after_step(self, step: int) -> None:
        """Say once that the guide names no place: aligning with it only flattens attention."""
        if self.warned or not self.guide_batches or (step - 1) % LOOK_EVERY:
            return
        divergence = float(self.guide_divergence) / self.guide_batches
        self.guide_divergence, self.guide_batches = 0.0, 0
        if divergence < UNIFORM:
            self.warned = True
            log.warning(
                "the guide is nearly uniform (KL to uniform %.4f < %g): it says nothing of where the object "
                "is, and alignment flattens attention; try a lower --temperature, another --guide, or "
                "--aal-weight 0",
                divergence,
                UNIFORM,
            )
