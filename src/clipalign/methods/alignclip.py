"""AlignCLIP: attention alignment and semantic label smoothing of the image tower, with a beta moving average."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import losses
from ..backbone.attention import check_structure
from ..core.config import Options, facts
from ..core.errors import UserError
from ..core.search import BETAS, LogUniform, SearchSpace, Uniform
from . import register
from .capabilities import MapSettings
from .erm import Erm
from .shared.alignclip_variant import (
    PUBLISHED_SHARPNESS,
    AttentionOver,
    Classes,
    Smoothing,
    released_sharpness,
    resolve,
)
from .shared.monitor import Monitor

if TYPE_CHECKING:
    from ..backbone import Backbone, DenseFeatures
    from ..core.types import Batch, Episode
    from .capabilities import RunningAverage

log = logging.getLogger(__name__)

MIN_GUIDE_KL = 0.01  # nats; a guide closer to uniform does not localise the class

GuideFrom = Literal["current", "initial", "averaged"]


@dataclass(frozen=True)
class AlignClipConfig(Options):
    """Every published part as an option; None takes the value of --variant on this backbone (see `Variant`)."""

    variant: Literal["paper", "released"] = "paper"
    """paper or released. Sets the defaults of the options below where the paper and its released code differ."""

    aal_weight: float | None = field(
        default=None, metadata=facts(unit="WEIGHT", unset="by variant", at_least=0)
    )
    """Weight of AAL, both terms; 0: none. paper: 1; released: s / 10, 10 for OpenAI's weights."""
    al_weight: float = field(default=1.0, metadata=facts(unit="WEIGHT", at_least=0))
    """Weight of AL within AAL; 0: none. AL aligns class-token attention with the guide."""
    as_weight: float = field(default=1.0, metadata=facts(unit="WEIGHT", at_least=0))
    """Weight of AS within AAL; 0: none. AS aligns patch similarities with the guide."""
    aligned_layers: int | None = field(default=None, metadata=facts(unit="LAYERS", unset="by variant"))
    """Number of layers that AL aligns. paper: 4 of 12; released: 5 of 12; in proportion to the tower's depth."""
    first_aligned_layer: int = field(default=0, metadata=facts(unit="LAYER", at_least=0))
    """First layer that AL aligns, from 0. Published: 0, where the query of the class token is the same for every
    image."""
    attention_over: AttentionOver | None = field(default=None, metadata=facts(unset="by variant"))
    """AL: softmax over patches or tokens. patches: without the class key (paper); tokens: over all keys,
    renormalised over the patches (released)."""
    al_direction: losses.Direction | None = field(default=None, metadata=facts(unset="by variant"))
    """AL: KL direction, paper or released. paper: KL(attention || guide); released: KL(guide || attention)."""
    as_direction: losses.Direction | None = field(default=None, metadata=facts(unset="by variant"))
    """AS: KL direction, paper or released. paper: KL(similarity || guide); released: KL(guide || similarity)."""
    as_classes: Classes | None = field(default=None, metadata=facts(unset="by variant"))
    """AS: true class, or sum or mean of all. true: paper; sum: released, grows with the number of classes."""
    temperature: float | None = field(default=None, metadata=facts(unit="VALUE", unset="by variant", above=0))
    """Temperature of patch similarities. paper: 1 / s, 0.01 for OpenAI's weights; released: 1, which makes
    the guide nearly uniform."""
    guide: str = field(default="dv", metadata=facts(unit="NAME"))
    """Guide: attention, dv or three of q, k, v. dv: the identity (published); vvv, qqv, kkv, ...: softmax of the
    first two times the third."""
    dual_blocks: int | None = field(default=None, metadata=facts(unit="BLOCKS", unset="half"))
    """Guide: last blocks with a second path. Published: 6 of 12."""
    keep_mlp: bool = False
    """Guide: apply the MLPs of these blocks."""
    detach_guide: bool = True
    """Guide: stop its gradient."""
    guide_from: GuideFrom = "current"
    """Guide: current, initial or averaged. current: those being trained (published); initial: those before
    training; averaged: their moving average (--average). The last two cost a second forward pass."""
    subtract_class_mean: bool = False
    """Guide: subtract the mean over classes. Per patch, the mean similarity with the training classes, which removes
    patches that match every class. Published: off."""

    sls_weight: float = field(default=1.0, metadata=facts(unit="WEIGHT", at_least=0, reason="AlignCLIP"))
    """Weight of SLS, lambda of the total loss; 0: none."""
    smoothing: Smoothing | None = field(default=None, metadata=facts(unset="by variant"))
    """Targets of the cross-entropy. paper: (1 - epsilon) one-hot + epsilon * row softmax of class similarity;
    paper-raw: the similarity itself, as printed in equation 9; released: 1 - epsilon for the true class, softmax of
    sharpness * similarity for the others; uniform: label smoothing; none: one-hot."""
    epsilon: float = field(
        default=0.1, metadata=facts(unit="SHARE", at_least=0, at_most=1, reason="AlignCLIP")
    )
    """Target taken from the true class. The released code calls 1 - epsilon its epsilon."""
    sharpness: float | None = field(
        default=None, metadata=facts(unit="FACTOR", unset="by variant", at_least=0)
    )
    """Factor on class similarities. It is applied before their softmax. paper: 1; released: 35 for OpenAI's weights;
    at other logit scales, the factor that gives PACS's class names the published share for other classes."""
    normalise_targets: bool | None = field(default=None, metadata=facts(unset="off"))
    """Scale targets of a class to sum to 1. Off in both variants; changes --smoothing released and paper-raw."""
    margin: float | None = field(default=None, metadata=facts(unit="COSINE", unset="by variant", at_least=0))
    """CLIPood's margin, in cosines. It is subtracted from the true class in training. paper: 0; released: 0.3."""


@register("alignclip")
class AlignClip(Erm[AlignClipConfig]):
    """L = AL + AS + SLS = KL(A_c || G_DV) + KL(G || G_DV) + CE(s I Tᵀ, q), equations (6) and (8).

    A_c is the attention of the class token over the patches in the first layers; G the distribution over patches of
    their similarity with the true class; G_DV, the guide, the same from a second path through the last blocks whose
    attention is the identity, computed in the same forward pass. The soft targets q follow class similarity.
    Predictions use the beta moving average of the weights.

    Source: AlignCLIP, equations (3), (4) and (6) for AL and AS, (8) and (9) for SLS.
    """

    summary = "attention alignment + semantic label smoothing + beta moving average"
    source = "AlignCLIP, ICLR 2024 submission; Machine Learning 114(3):58, 2025"
    needs = ("image tokens",)
    Config = AlignClipConfig
    average = "bma"
    search: ClassVar[SearchSpace] = {
        "aal_weight": LogUniform(0.01, 1),
        "epsilon": Uniform(0, 0.3),
        "margin": Uniform(0, 0.3),
        "bma_beta": BETAS,
    }

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        check_structure(self.config.guide)
        if self.config.guide_from != "current" and not self.config.detach_guide:
            raise UserError(
                f"--no-detach-guide has no effect with --guide-from {self.config.guide_from}, whose weights are not "
                "trained; drop one of the two"
            )
        needed = self.config.variant == "released" and self.config.sharpness is None
        sharpness = released_sharpness(backbone) if needed else PUBLISHED_SHARPNESS
        self.variant = resolve(self.config, float(self.scale), backbone.num_blocks, sharpness)
        self.al_weight = self.variant.aal_weight * self.config.al_weight
        self.as_weight = self.variant.aal_weight * self.config.as_weight
        self.targets = self.smoothed_targets()  # [C, C] or None
        first = self.config.first_aligned_layer
        self.layers = tuple(range(first, first + self.variant.aligned_layers))
        needs_teacher = self.config.guide_from != "current" and (self.al_weight or self.as_weight)
        self.teacher = backbone.copy_vision() if needs_teacher else None  # not saved, trained or averaged
        self.running_average: RunningAverage | None = None
        self.teacher_is_current = False
        self.guide_kl = Monitor()
        self.warned = False

    def resolved(self) -> dict[str, object]:
        return asdict(self.config) | asdict(self.variant)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        if not (self.al_weight or self.as_weight):
            return self.sls(self.backbone.encode_image(batch.images), batch.labels)
        dense = self.backbone.dense(
            batch.images,
            self.layers if self.al_weight else (),
            self.config.guide if self.teacher is None else None,
            self.variant.dual_blocks,
            attention_over=self.variant.attention_over,
            detach_guide=self.config.detach_guide,
            keep_mlp=self.config.keep_mlp,
        )
        if self.teacher is not None:
            dense = replace(dense, guide=self.teacher_guide(batch.images))
        return self.sls(dense.image, batch.labels) | self.aal(dense, batch.labels)

    def sls(self, image: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Semantic label smoothing, equations (8) and (9).

        Args:
            image: [B, d], not normalised.
            labels: [B].
        """
        logits = losses.margin_logits(image, self.text, labels, self.scale, self.variant.margin)  # [B, C]
        if self.targets is None:
            return {"loss_ce": self.config.sls_weight * F.cross_entropy(logits, labels)}
        targets = self.targets[labels]  # [B, C]
        return {
            "loss_sls": self.config.sls_weight * losses.soft_cross_entropy(logits, targets),
            "target_mass": targets.sum(1).mean(),
        }

    def aal(self, dense: DenseFeatures, labels: Tensor) -> dict[str, Tensor]:
        """Attention alignment, equation (6): AL and AS."""
        v = self.variant
        terms: dict[str, Tensor] = {}
        assert dense.guide is not None
        centred = self.config.subtract_class_mean
        guide = losses.log_similarity_distribution(
            dense.guide, self.text, labels, v.temperature, centred
        )  # [B, M]
        if self.al_weight:
            attention = losses.class_attention(dense.cls_attention)  # [B, M]
            terms["al"] = losses.attention_alignment(attention, guide, v.al_direction)
            terms["loss_al"] = self.al_weight * terms["al"]
            terms["attention_entropy"] = losses.entropy(attention.detach().log()).mean()
        if self.as_weight:
            # [B, M] for the true class, [B, C, M] for all classes
            classes = labels if v.as_classes == "true" else None
            similarity = losses.log_similarity_distribution(dense.patches, self.text, classes, v.temperature)
            target = guide
            if classes is None:
                target = losses.log_similarity_distribution(
                    dense.guide, self.text, None, v.temperature, centred
                )
            reduction: Literal["sum", "mean"] = "mean" if v.as_classes == "mean" else "sum"
            terms["as"] = losses.similarity_alignment(similarity, target, v.as_direction, reduction)
            terms["loss_as"] = self.as_weight * terms["as"]
        terms["guide_entropy"] = losses.entropy(guide.detach()).mean()
        terms["guide_kl_uniform"] = losses.kl_to_uniform(guide.detach()).mean()
        self.guide_kl.add(terms["guide_kl_uniform"])
        return terms

    def smoothed_targets(self) -> Tensor | None:
        """Return the targets of the training classes, [C, C] with row y for class y; None if one-hot."""
        v, epsilon = self.variant, self.config.epsilon
        similarity = losses.class_similarity(self.text)  # [C, C]
        if v.smoothing == "none":
            return None
        if v.smoothing == "uniform":
            targets = losses.uniform_targets(len(similarity), epsilon, similarity.device)
        elif v.smoothing == "released":
            targets = losses.released_semantic_targets(similarity, 1 - epsilon, v.sharpness)
        elif v.smoothing == "paper-raw":
            targets = losses.semantic_targets(similarity, epsilon, raw=True)
        else:
            targets = losses.semantic_targets(v.sharpness * similarity, epsilon)
        return targets / targets.sum(dim=1, keepdim=True) if v.normalise_targets else targets

    def check_average(self, kind: str) -> None:
        if self.config.guide_from == "averaged" and kind in ("none", "swad"):
            raise UserError(
                f"--guide-from averaged needs a moving average during training, and --average {kind} has none; "
                "choose --average ema, bma or gaussian"
            )

    def use_average(self, average: RunningAverage) -> None:
        self.running_average = average

    @torch.no_grad()
    def teacher_guide(self, images: Tensor) -> Tensor:
        """Return the guide tokens of the initial or averaged weights, [B, M, d].

        Without an average, which is the case before training, the averaged weights are the initial ones.
        """
        assert self.teacher is not None
        if (
            self.config.guide_from == "averaged"
            and self.running_average is not None
            and not self.teacher_is_current
        ):
            self.running_average.copy_to(self.teacher.image_parameters())
            self.teacher_is_current = True  # until the next step; micro-batches share the copy
        guide = self.teacher.dense(
            images, (), self.config.guide, self.variant.dual_blocks, keep_mlp=self.config.keep_mlp
        ).guide
        assert guide is not None
        return guide

    def map_settings(self) -> MapSettings:
        mean = losses.unit_features(self.text).mean(dim=0) if self.config.subtract_class_mean else None  # [d]
        return MapSettings(
            self.layers,
            self.variant.dual_blocks,
            check_structure(self.config.guide),
            self.variant.attention_over,
            self.config.keep_mlp,
            None if mean is None else tuple(mean.tolist()),
        )

    def after_step(self, step: int) -> None:
        """Warn once if the guide is nearly uniform: aligning with it flattens the attention."""
        self.teacher_is_current = False
        divergence = None if self.warned else self.guide_kl.read(step)
        if divergence is None or divergence >= MIN_GUIDE_KL:
            return
        self.warned = True
        log.warning(
            "the guide is nearly uniform (KL to uniform %.4f < %g): it does not localise the class, and aligning with "
            "it flattens the attention; decrease --temperature, choose another --guide, or set --aal-weight 0",
            divergence,
            MIN_GUIDE_KL,
        )
