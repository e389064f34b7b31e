"""SmartCLIP: each caption is compared with the dimensions it speaks about, and with no others."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import losses
from ..core.errors import UserError
from ..core.types import CaptionUse
from . import register
from .shared.captioned import LONG_CLIP, CaptionConfig, CaptionMethod, caption_lengths, cut_statistics
from .shared.contrastive import Features, beyond
from .shared.masks import MaskKind, MaskNetwork, hard_mask, soft_mask

if TYPE_CHECKING:
    from ..backbone import Backbone, Tokens
    from ..core.types import Batch, Episode

log = logging.getLogger(__name__)

LOOK_EVERY = (
    50  # steps between looks at the share of empty masks, for each of which a GPU has to be waited for
)


@dataclass(frozen=True)
class SmartClipConfig(CaptionConfig):
    """Options of the modular loss; the paper's ablations are --no-modular, --sparsity-weight 0, --mask soft."""

    captions: CaptionUse = "prefix"
    """Text per image and step: the whole caption, its first K sentences (K drawn anew each time; published), or one
    of its sentences."""
    align_weight: float = 10.0
    """Weight of the contrastive loss, of each direction."""
    sparsity_weight: float = 2.0
    """Weight of the mean of all mask entries; 0 for none."""
    mask: MaskKind = "hard"
    """hard: a dimension counts or does not, with the gradient of the sigmoid. soft: the sigmoid itself."""
    modular: bool = True
    """Score every pair under its caption's mask. --no-modular: every image under the mask of its own caption alone,
    with whichever caption it is compared."""
    mask_scale: float | None = None
    """Factor on masked cosines, held fixed. Published: 100, CLIP's scale. Default: the scale of the backbone."""
    mask_lr: float = 1e-3
    """Peak learning rate of the mask network, which has no warm-up and no weight decay."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("align_weight", "sparsity_weight", "mask_lr"):
            if not getattr(self, name) >= 0:
                raise UserError(f"--{name.replace('_', '-')} must be at least 0, not {getattr(self, name):g}")
        if self.mask_scale is not None and not self.mask_scale > 0:
            raise UserError(f"--mask-scale must be above 0, not {self.mask_scale:g}")


@register("smartclip")
class SmartClip(CaptionMethod):
    """L = 10 (rows + columns) + 2 mean(m), rows and columns of S[i, j] = s cos(I_i (.) m_j, t_j).

    cos is <I_i (.) m_j, t_j> / ||I_i (.) m_j||: the text feature has unit length before it meets the mask, as
    released. Masks come from the caption's tokens (`masks.MaskNetwork`). Every caption is scored with its own mask,
    against every image, in both directions.

    --no-modular is the paper's ablation "without modular pairing", made precise: one vector per image, under the
    mask of its own caption, v_i = I_i (.) m_i / ||I_i (.) m_i||, and plain InfoNCE between v and t,
    S[i, j] = s <v_i, t_j>. Then the mask in v_i tells which caption is the right one.

    Predictions drop the mask network: images and texts are compared as in CLIP.
    """

    summary = "captions compared with the dimensions that they speak about, by a sparse mask of their own"
    source = "Xie et al., SmartCLIP, CVPR 2025"
    trains = "both towers, mask network"
    Config = SmartClipConfig
    published: ClassVar[Mapping[str, Any]] = {**LONG_CLIP, "batch_size": 1024, "steps": 3651}  # 3 epochs

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        backbone.model.logit_scale.requires_grad_(False)
        scale = self.config.mask_scale
        self.mask_scale: float = float(self.scale) if scale is None else scale
        _, width = backbone.text_shape
        self.network = MaskNetwork(width, backbone.text_heads, backbone.embed_dim).to(backbone.device)
        self.extra["mask"] = self.network
        self.warned = False
        # Of captions whose mask is empty, summed since the last look; the sum stays on the device.
        self.empty: Tensor | float = 0.0
        self.batches = 0

    def resolved(self) -> dict[str, Any]:
        return super().resolved() | {"mask_scale": self.mask_scale}

    def param_groups(self) -> list[dict[str, Any]]:
        towers = [p for p in self.backbone.model.parameters() if p.requires_grad]
        mask = {"lr": self.config.mask_lr, "weight_decay": 0.0, "warmup": False}
        return [{"params": towers}, {"params": list(self.network.parameters()), **mask}]

    def features(self, batch: Batch) -> dict[str, Tensor]:
        tokens = self.tokens(batch)
        text, logits = self.encode(tokens)
        return {
            "image": self.backbone.encode_image(batch.images).float(),
            "text": text,
            "mask": self.mask_of(logits),
            "lengths": caption_lengths(tokens, batch.images.device),
        }

    def encode(self, tokens: Tokens, rows: slice | Tensor = slice(None)) -> tuple[Tensor, Tensor]:
        """Unit text features and mask logits of texts, [B, d] float32 both."""
        ids = tokens.ids[rows]
        features, states = self.backbone.text_states(ids)
        logits = self.network(states, self.backbone.text_lengths(ids))
        return F.normalize(features.float(), dim=-1), logits.float()

    def mask_of(self, logits: Tensor) -> Tensor:
        """The mask that --mask asks for."""
        return hard_mask(logits) if self.config.mask == "hard" else soft_mask(logits)

    def loss_from_features(self, local: Features, everyone: Features, first: int = 0) -> dict[str, Tensor]:
        o = self.config
        image_to_text, text_to_image = (self.modular if o.modular else self.own_mask_only)(
            local, everyone, first
        )
        sparsity = local["mask"].mean()
        return {
            "loss_image_to_text": o.align_weight * image_to_text,
            "loss_text_to_image": o.align_weight * text_to_image,
            "loss_sparsity": o.sparsity_weight * sparsity,
            "sparsity": sparsity.detach(),
            **self.statistics(everyone["mask"].detach()),
            **cut_statistics(local["lengths"], everyone["lengths"]),
        }

    def modular(self, local: Features, everyone: Features, first: int) -> tuple[Tensor, Tensor]:
        """Every caption under its own mask with every image."""
        others = beyond(local, everyone)
        return losses.masked_contrastive_loss(
            local["image"],
            local["text"],
            local["mask"],
            self.mask_scale,
            others.get("image"),
            others.get("text"),
            others.get("mask"),
            first=first,
        )

    def own_mask_only(self, local: Features, everyone: Features, first: int) -> tuple[Tensor, Tensor]:
        """Every image under its own caption's mask; see the class."""
        others = beyond(local, everyone)
        everything = losses.masked_features(others["image"], others["mask"]) if others else None
        mine = losses.masked_features(local["image"], local["mask"])
        return losses.contrastive_loss(
            mine, local["text"], self.mask_scale, everything, others.get("text"), first=first
        )

    def statistics(self, masks: Tensor) -> dict[str, Tensor]:
        """Active dimensions (entries of 0.5 or more) per caption of the whole batch, and empty masks."""
        active = (masks >= 0.5).sum(dim=1).float()
        empty = (masks == 0).all(dim=1).float().mean()
        self.empty, self.batches = self.empty + empty, self.batches + 1
        return {
            "active_mean": active.mean(),
            "active_min": active.min(),
            "active_max": active.max(),
            "zero_masks": empty,
        }

    def after_step(self, step: int) -> None:
        """Also say once that some masks are empty: their captions take no part in the loss."""
        super().after_step(step)
        if self.warned or not self.batches or (step - 1) % LOOK_EVERY:
            return
        share = float(self.empty) / self.batches
        self.empty, self.batches = 0.0, 0
        if share > 0:
            self.warned = True
            log.warning(
                "%.1f %% of captions have an empty mask: they score 0 with every image and teach nothing; try a "
                "lower --sparsity-weight or --mask-lr, or --mask soft (zero_masks in metrics.jsonl)",
                100 * share,
            )

    def caption_masks(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """[T, d] float32 in [0, 1], without gradient."""
        return self.caption_encodings(texts, batch_size)[1]

    @torch.no_grad()
    def caption_encodings(self, texts: Sequence[str], batch_size: int = 256) -> tuple[Tensor, Tensor]:
        """Unit features and masks of texts, both [T, d] float32, without gradient."""
        from ..backbone.text.features import length_batches

        tokens = self.backbone.tokenize(texts)
        tokens.warn_if_truncated()
        shape = (len(tokens.lengths), self.backbone.embed_dim)
        features, masks = (torch.empty(shape, device=self.backbone.device) for _ in range(2))
        for rows in length_batches(tokens, batch_size):
            unit, logits = self.encode(tokens, rows)
            at = rows.to(masks.device)
            features[at], masks[at] = unit, self.mask_of(logits)
        return features, masks
