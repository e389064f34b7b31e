"""SmartCLIP: compare each caption only with the dimensions that it describes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import losses
from ..backbone.text.features import length_batches
from ..core.config import facts
from ..core.types import CaptionUse
from . import register
from .base import ParamGroup
from .shared.captions import CaptionConfig, CaptionMethod, caption_lengths, cut_statistics
from .shared.contrastive import Features, all_rows
from .shared.masks import MaskKind, MaskNetwork, hard_mask, soft_mask
from .shared.monitor import Monitor

if TYPE_CHECKING:
    from ..backbone import Backbone, Tokens
    from ..core.types import Batch, Episode

log = logging.getLogger(__name__)

MASK_LR_RATIO = 1000.0  # published learning rates: 1e-3 for the mask network, 1e-6 for the towers


@dataclass(frozen=True)
class SmartClipConfig(CaptionConfig):
    """Options of the modular loss; the paper's ablations are --no-modular, --sparsity-weight 0 and --mask soft."""

    captions: CaptionUse = "prefix"
    """Caption part: long, prefix or sentence. Drawn anew for each image and step; prefix: a random number of
    sentences, from the first (published)."""
    align_weight: float = field(default=10.0, metadata=facts(unit="WEIGHT", at_least=0, reason="SmartCLIP"))
    """Weight of the contrastive loss. Of each direction."""
    sparsity_weight: float = field(default=2.0, metadata=facts(unit="WEIGHT", at_least=0, reason="SmartCLIP"))
    """Weight of the mean mask entry; 0: none."""
    mask: MaskKind = "hard"
    """Masks: hard or soft. hard: 0 or 1, with the gradient of the sigmoid (published); soft: the sigmoid."""
    modular: bool = field(default=True, metadata=facts(reason="SmartCLIP"))
    """Score each pair under its caption's mask. Otherwise every image is masked by its own caption, whichever
    caption it is compared with."""
    mask_scale: float | None = field(default=None, metadata=facts(unit="SCALE", unset="logit scale", above=0))
    """Fixed factor on masked cosines. Published: 100, CLIP's scale."""
    mask_lr: float | None = field(
        default=None, metadata=facts(unit="RATE", unset="1000 --lr", at_least=0, reason="SmartCLIP")
    )
    """Peak learning rate of the mask network. Without warm-up and weight decay. Default: the published ratio to the
    towers' rate, 1e-3 to 1e-6."""


@register("smartclip")
class SmartClip(CaptionMethod[SmartClipConfig]):
    """L = 10 (CE(S, diagonal) + CE(Sᵀ, diagonal)) + 2 mean(m) with S[i, j] = s cos(I_i * m_j, t_j).

    The cosine is <I_i * m_j, t_j> / ||I_i * m_j||: the text feature is L2-normalised before masking, as in the released
    code. Masks come from the caption's tokens (`MaskNetwork`). Every caption is scored under its own mask against every
    image, in both directions.

    --no-modular makes the paper's ablation "without modular pairing" precise: one vector per image, under the mask of
    its own caption, v_i = I_i * m_i / ||I_i * m_i||, and plain InfoNCE between v and t, S[i, j] = s <v_i, t_j>. The
    mask in v_i then reveals the matching caption.

    Predictions drop the mask network: images and texts are compared as in CLIP.
    """

    summary = "captions compared with the dimensions that they describe, by a sparse mask per caption"
    source = "Xie et al., SmartCLIP, CVPR 2025"
    trains = "both towers, mask network"
    trains_image_tower = True
    needs = ("text prompts",)
    Config = SmartClipConfig

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        backbone.model.logit_scale.requires_grad_(False)
        scale = self.config.mask_scale
        self.mask_scale: float = float(self.scale) if scale is None else scale
        _, width = backbone.text_shape
        self.network = MaskNetwork(width, backbone.text_heads, backbone.embed_dim).to(backbone.device)
        self.extra["mask"] = self.network
        self.empty_masks = Monitor()
        self.warned = False

    def resolved(self) -> dict[str, object]:
        return super().resolved() | {"mask_scale": self.mask_scale}

    def param_groups(self) -> list[ParamGroup]:
        towers = [p for p in self.backbone.model.parameters() if p.requires_grad]
        mask: ParamGroup = {
            "params": list(self.network.parameters()),
            "weight_decay": 0.0,
            "warmup": False,
        }
        if self.config.mask_lr is None:
            mask["lr_factor"] = MASK_LR_RATIO
        else:
            mask["lr"] = self.config.mask_lr
        return [{"params": towers}, mask]

    def features(self, batch: Batch) -> dict[str, Tensor]:
        tokens = self.tokens(batch)
        text, mask_logits = self.encode(tokens)
        return {
            "image": self.backbone.encode_image(batch.images).float(),  # [B, d], not normalised
            "text": text,  # [B, d]
            "mask": self.mask(mask_logits),  # [B, d]
            "lengths": caption_lengths(tokens, batch.images.device),  # [B, 2]
        }

    def encode(self, tokens: Tokens, rows: slice | Tensor = slice(None)) -> tuple[Tensor, Tensor]:
        """Return L2-normalised text features and mask logits of some texts, both [B, d] float32."""
        ids = tokens.ids[rows]  # [B, L]
        features, states = self.backbone.text_states(ids)  # [B, d], [B, L, W]
        logits = self.network(states, self.backbone.text_lengths(ids))  # [B, d]
        return losses.unit_features(features), logits.float()

    def mask(self, logits: Tensor) -> Tensor:
        """Return the hard or soft masks of mask logits."""
        return hard_mask(logits) if self.config.mask == "hard" else soft_mask(logits)

    def loss_from_features(self, local: Features, gathered: Features, first: int = 0) -> dict[str, Tensor]:
        o = self.config
        contrastive = self.modular_loss if o.modular else self.own_mask_loss
        image_to_text, text_to_image = contrastive(local, gathered, first)
        sparsity = local["mask"].mean()
        return {
            "loss_image_to_text": o.align_weight * image_to_text,
            "loss_text_to_image": o.align_weight * text_to_image,
            "loss_sparsity": o.sparsity_weight * sparsity,
            "sparsity": sparsity.detach(),
            **self.mask_statistics(gathered["mask"].detach()),
            **cut_statistics(local["lengths"], gathered["lengths"]),
        }

    def modular_loss(self, local: Features, gathered: Features, first: int) -> tuple[Tensor, Tensor]:
        """Return both directions of the loss with every pair under the mask of its caption."""
        everything = all_rows(local, gathered)
        return losses.masked_contrastive_loss(
            local["image"],
            local["text"],
            local["mask"],
            self.mask_scale,
            everything.get("image"),
            everything.get("text"),
            everything.get("mask"),
            first=first,
        )

    def own_mask_loss(self, local: Features, gathered: Features, first: int) -> tuple[Tensor, Tensor]:
        """Return both directions of the loss with every image masked by its own caption."""
        everything = all_rows(local, gathered)
        images = losses.masked_features(local["image"], local["mask"])  # [b, d]
        all_images = losses.masked_features(everything["image"], everything["mask"]) if everything else None
        return losses.contrastive_loss(
            images, local["text"], self.mask_scale, all_images, everything.get("text"), first=first
        )

    def mask_statistics(self, masks: Tensor) -> dict[str, Tensor]:
        """Return active dimensions (entries >= 0.5) per caption and the share of empty masks: [N, d] -> scalars."""
        active = (masks >= 0.5).sum(dim=1).float()  # [N]
        empty = (masks == 0).all(dim=1).float().mean()
        self.empty_masks.add(empty)
        return {
            "active_mean": active.mean(),
            "active_min": active.min(),
            "active_max": active.max(),
            "zero_masks": empty,
        }

    def after_step(self, step: int) -> None:
        """Freeze the kept positions, and warn once if some masks are empty."""
        super().after_step(step)
        share = None if self.warned else self.empty_masks.read(step)
        if share is not None and share > 0:
            self.warned = True
            log.warning(
                "%.1f %% of captions have an empty mask: they score 0 with every image and have no gradient; decrease "
                "--sparsity-weight or --mask-lr, or use --mask soft (logged as zero_masks in metrics.jsonl)",
                100 * share,
            )

    def caption_masks(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Return the masks of T texts, [T, d] float32 in [0, 1], without gradient."""
        return self.encode_captions(texts, batch_size)[1]

    @torch.no_grad()
    def encode_captions(self, texts: Sequence[str], batch_size: int = 256) -> tuple[Tensor, Tensor]:
        tokens = self.backbone.tokenize(texts)
        tokens.warn_if_truncated()
        shape = (len(tokens.lengths), self.backbone.embed_dim)
        features, masks = (torch.empty(shape, device=self.backbone.device) for _ in range(2))  # [T, d]
        for rows in length_batches(tokens, batch_size):
            text, logits = self.encode(tokens, rows)
            at = rows.to(masks.device)
            features[at], masks[at] = text, self.mask(logits)
        return features, masks
