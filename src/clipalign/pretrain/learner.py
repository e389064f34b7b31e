"""What pre-training trains: towers, loss, optimisers and average, and one step of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import PatchDropout
from torch import Tensor, nn

from ..backbone.loading import load
from ..backbone.model import Backbone
from ..core.checkpoint import load_weights
from ..engine.averaging import EMA
from ..engine.setup import preprocess_for
from .batches import PretrainingBatch
from .config import PretrainConfig, concept_weight, patch_dropout, rate


def contrastive_loss(images: Tensor, texts: Tensor, relation: Tensor, scale: Tensor) -> Tensor:
    """CLIP's loss with several positives.

    Args:
        images: [B, d] unit rows. texts: [T, d] unit rows, the first B of them the images' captions.
        relation: [B, T], 1 positive, 0 negative, -1 left out. scale: logit scale.
    """
    logits = (scale * images @ texts.T).masked_fill(relation < 0, -1e4)
    positive = (relation > 0).float()
    by_image = -(positive * logits.log_softmax(1)).sum(1) / positive.sum(1)
    own = positive[:, : len(images)].T
    by_text = -(own * logits[:, : len(images)].T.log_softmax(1)).sum(1) / own.sum(1)
    return 0.5 * (by_image.mean() + by_text.mean())


def loss_of(backbone: Backbone, batch: PretrainingBatch, head: nn.Linear, weight: float) -> Tensor:
    """The contrastive loss (each distinct text is encoded once), and the auxiliary one where it has weight."""
    distinct = {text: i for i, text in enumerate(dict.fromkeys(batch.texts))}
    encoded = F.normalize(backbone.encode_text(list(distinct)), dim=-1)
    texts = encoded[torch.tensor([distinct[text] for text in batch.texts])]
    images = F.normalize(backbone.encode_image(preprocess_for(backbone).normalise(batch.images)), dim=-1)
    loss = contrastive_loss(images, texts, batch.relation, backbone.logit_scale.clamp(max=100))
    if weight > 0:
        loss = loss + weight * F.cross_entropy(10 * head(images), batch.concepts, ignore_index=-1)
    return loss


def optimisers(model: nn.Module, config: PretrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW on everything; on the blocks' matrices Muon, where asked for."""
    matrices = [
        p
        for n, p in model.named_parameters()
        if config.muon_lr and p.ndim == 2 and "resblocks" in n and "weight" in n
    ]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), fused=True)
    ]
    if matrices:
        found.append(
            torch.optim.Muon(
                matrices, lr=config.muon_lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
            )
        )
    return found


class GrowingAverage(EMA):
    """An EMA whose decay grows to the one asked for, so that the random start is soon forgotten."""

    def share(self, step: int) -> float:
        return 1 - min(self.decay, step / (9 + step)) ** (step - self.step)


class Learner:
    """The towers, a linear head over concepts, their optimisers, and the average of the towers."""

    def __init__(self, config: PretrainConfig, concepts: int) -> None:
        self.config = config
        self.backbone = load("pocket", pretrained=False)
        model = self.backbone.model
        if config.start_from:
            model.load_state_dict(load_weights(config.start_from))
        self.average = GrowingAverage(model.parameters(), config.ema)
        self.head = nn.Linear(model.text_projection.shape[1], concepts)
        self.optimisers = [
            *optimisers(model, config),
            torch.optim.AdamW(self.head.parameters(), lr=config.lr),
        ]
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["initial_lr"] = group["lr"]

    def step(self, step: int, batch: PretrainingBatch) -> float:
        """Learn from the batch of a step, counted from 0; returns the loss."""
        config, model = self.config, self.backbone.model
        dropped = patch_dropout(step, config)
        model.visual.patch_dropout = PatchDropout(dropped) if dropped else nn.Identity()
        self.backbone.train()
        loss = loss_of(self.backbone, batch, self.head, concept_weight(step, config))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["initial_lr"] * rate(step, config)
            optimiser.step()
            optimiser.zero_grad()
        self.average.update(step + 1 - config.start_step)
        return loss.item()

    def averaged(self) -> dict[str, Tensor]:
        """The averaged weights in float16, under open_clip's names."""
        with self.average.applied():
            return {name: value.half() for name, value in self.backbone.model.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that going on needs."""
        return {
            "model": self.backbone.model.state_dict(),
            "head": self.head.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "average": self.average.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.backbone.model.load_state_dict(state["model"])
        self.head.load_state_dict(state["head"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.average.load_state_dict(state["average"])
