"""Towers, losses, optimisers and weight average of pre-training, and one step of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from clipalign.backbone.attention import merge_heads
from clipalign.backbone.model import Backbone
from clipalign.backbone.vit import OpenClipParts
from clipalign.engine.averaging import EMA

from .batches import Batch
from .config import PretrainConfig, concept_weight, in_cooldown, lr_factor
from .teacher import WIDTHS, load_teacher
from .vocabulary import Vocabulary

MAX_SCALE = 100.0
COVERED = 0.3  # smallest visible share of a patch that the teacher's features are a target for
SMALLEST_REGION = 0.2  # patches; regions of which dropout leaves less take no part


def multi_positive_loss(queries: Tensor, keys: Tensor, truth: Tensor, scale: Tensor) -> Tensor:
    """InfoNCE with several positives: mean over queries of the mean negative log-likelihood of their positives.

    Args:
        queries: [N, d], unit norm.
        keys: [T, d], unit norm.
        truth: [N, T], 1 positive, 0 negative, -1 ignored. Queries without a positive are ignored.
        scale: Logit scale.
    """
    logits = (scale * queries @ keys.T).masked_fill(truth < 0, -1e4)  # [N, T]
    positive = (truth > 0).float()
    count = positive.sum(1)
    per_query = -(positive * logits.log_softmax(1)).sum(1) / count.clamp_min(1)
    return (per_query * (count > 0)).sum() / (count > 0).sum().clamp_min(1)


def image_tower(visual: Any, images: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the image feature, the D-V patch features and the patch tokens that enter the D-V path.

    The D-V path runs through the last half of the blocks.

    Args:
        visual: open_clip's VisionTransformer.
        images: [B, 3, S, S], normalised.
        keep: [B, M'] patches to keep, or None for all of them.

    Returns:
        [B, d], [B, M', d] and [B, M', W].
    """
    x = visual.conv1(images).flatten(2).transpose(1, 2)  # [B, M, W]
    x = x + visual.positional_embedding[1:]
    if keep is not None:
        x = x.gather(1, keep[..., None].expand(-1, -1, x.shape[-1]))  # [B, M', W]
    class_token = visual.class_embedding + visual.positional_embedding[0]
    x = torch.cat([class_token.to(x.dtype).expand(len(x), 1, -1), x], dim=1)  # [B, 1 + M', W]
    x = visual.ln_pre(x)
    parts, blocks = OpenClipParts(visual), visual.transformer.resblocks
    second = middle = None
    for i, block in enumerate(blocks):
        if i == len(blocks) - len(blocks) // 2:
            second = middle = x[:, 1:]
        x, _, _, v = parts.run_with_heads(block, x)
        if second is not None:
            second = second + block.ls_1(block.attn.out_proj(merge_heads(v[:, :, 1:])))
    assert second is not None and middle is not None
    return visual.ln_post(x[:, 0]) @ visual.proj, visual.ln_post(second) @ visual.proj, middle


class ImageTower(nn.Module):
    """`image_tower` as a module, so that its weights can be replaced for one call."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, images: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return image features, D-V patch features and the patch tokens that enter the D-V path."""
        return image_tower(self.visual, images, keep)


def encode_by_length(backbone: Backbone, tokens: Tensor, groups: int = 4) -> Tensor:
    """Return text features [T, d] in float32, encoding texts of similar length together to save padding."""
    order = (tokens != 0).sum(1).argsort()
    features = [backbone.encode_text(tokens[rows]).float() for rows in order.chunk(groups)]
    return torch.cat(features)[order.argsort()]


class GrowingAverage(EMA):
    """EMA whose decay grows to its final value, so that the random initialisation is soon forgotten."""

    def share(self, step: int) -> float:
        return 1 - min(self.decay, step / (9 + step)) ** (step - self.step)


class Learner:
    """The model, an auxiliary concept classifier, the optimisers and the weight average.

    Args:
        config: Options of the run.
        backbone: Untrained pocket backbone. Its token embedding and tokenizer are replaced.
        vocabulary: Words that captions use.
        concepts: Number of concepts.
    """

    def __init__(
        self, config: PretrainConfig, backbone: Backbone, vocabulary: Vocabulary, concepts: int
    ) -> None:
        self.config, self.backbone, self.vocabulary = config, backbone, vocabulary
        vocabulary.shrink(backbone)
        model = backbone.model
        self.tower = ImageTower(model.visual)
        call = torch.func.functional_call
        self._call = torch.compile(call, dynamic=False) if config.compile else call
        self.average = GrowingAverage(model.parameters(), config.ema)
        self.head = nn.Linear(backbone.embed_dim, concepts).to(backbone.device)
        self.teacher = load_teacher(config.teacher).to(backbone.device) if config.teacher else None
        self.to_teacher = nn.Linear(model.visual.conv1.out_channels, WIDTHS[-1]).to(backbone.device)
        self.optimisers = [
            *_optimisers(model, config),
            torch.optim.AdamW(self.head.parameters(), lr=config.lr),
            torch.optim.AdamW(self.to_teacher.parameters(), lr=config.lr),
        ]
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["initial_lr"] = group["lr"]

    def step(self, step: int, batch: Batch) -> dict[str, float]:
        """Take one optimiser step, counted from 0, and return the loss terms."""
        torch.manual_seed(hash((self.config.seed, step)) % 2**31)  # patch dropout
        self.backbone.train()
        terms = self.losses(step, batch)
        total_loss = torch.stack([value for name, value in terms.items() if name.startswith("loss")]).sum()
        total_loss.backward()
        nn.utils.clip_grad_norm_(self.backbone.model.parameters(), 1.0)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["initial_lr"] * lr_factor(step, self.config)
            optimiser.step()
            optimiser.zero_grad()
        self.average.update(step + 1)
        return {name: float(value.detach()) for name, value in terms.items()}

    def losses(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted loss terms of a batch."""
        config, backbone = self.config, self.backbone
        keep = None if in_cooldown(step, config) else _keep(batch, config.patch_dropout)
        # The fused kernel's backward pass takes a third of a step on CPUs at these short sequences.
        kernels = (
            [SDPBackend.MATH]
            if batch.images.device.type == "cpu"
            else [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
        )
        with sdpa_kernel(kernels):
            image, patches, middle = self.encode_images(self.normalise(batch.images), keep)
        with (
            sdpa_kernel(kernels),
            torch.autocast(batch.images.device.type, torch.bfloat16, enabled=config.bf16),
        ):
            texts = F.normalize(encode_by_length(backbone, batch.captions), dim=-1)  # [T, d]
            names = F.normalize(encode_by_length(backbone, batch.names), dim=-1)  # [U, d]
        image = F.normalize(image.float(), dim=-1)  # [B, d]
        patches = F.normalize(patches.float(), dim=-1)  # [B, M', d]
        scale = backbone.logit_scale.clamp(max=MAX_SCALE)

        own = batch.caption_truth[:, : len(image)]
        to_text = multi_positive_loss(
            image, torch.cat([texts, names]), torch.cat([batch.caption_truth, batch.name_truth], 1), scale
        )
        to_image = multi_positive_loss(texts[: len(image)], image, own.T, scale)
        terms = {"loss_clip": 0.5 * (to_text + to_image)}

        mask = batch.region_mask  # [R, M]
        if keep is not None:
            mask = mask.gather(1, keep[batch.region_image])  # [R, M']
        large = mask.sum(1) > SMALLEST_REGION
        mask, owner = mask[large], batch.region_image[large]
        target = mask / mask.sum(1, keepdim=True)
        pooled = F.normalize(torch.einsum("rm,rmd->rd", target, patches[owner]), dim=-1)  # [R', d]
        truth = batch.region_truth[large]
        to_name = multi_positive_loss(pooled, names, truth, scale)
        to_region = multi_positive_loss(names, pooled, truth.T, scale)
        terms["loss_region"] = config.region_weight * 0.5 * (to_name + to_region)

        cosines = torch.einsum("rmd,rd->rm", patches[owner], names[batch.region_name[large]])  # [R', M']
        terms["loss_map"] = -config.map_weight * (target * (scale * cosines).log_softmax(1)).sum(1).mean()

        weight = concept_weight(step, config)
        if weight > 0:
            by_region = F.cross_entropy(10 * self.head(pooled), batch.region_concept[large], ignore_index=-1)
            by_image = F.cross_entropy(10 * self.head(image), batch.image_concept, ignore_index=-1)
            terms["loss_concept"] = 0.5 * weight * (by_region + by_image)
        if self.teacher is not None:
            terms |= self.distill(batch, keep, image, patches, middle.float())
        return terms

    def distill(
        self, batch: Batch, keep: Tensor | None, image: Tensor, patches: Tensor, middle: Tensor
    ) -> dict[str, Tensor]:
        """Return the distillation terms: features of patches, concepts of patches, and concepts of images.

        Args:
            batch: The batch.
            keep: [B, M'] patches that the tower saw, or None for all of them.
            image: [B, d] image features, unit norm.
            patches: [B, M', d] D-V patch features, unit norm.
            middle: [B, M', W] patch tokens that enter the D-V path.
        """
        assert self.teacher is not None
        with torch.no_grad(), torch.autocast(image.device.type, torch.bfloat16, enabled=self.config.bf16):
            features = self.teacher(batch.images)  # [B, M, C]
            covered = torch.zeros(features.shape[:2], device=image.device)  # [B, M]
            covered.index_add_(0, batch.region_image, batch.region_mask)
            pooled = torch.einsum("bm,bmc->bc", covered, features)  # [B, C]
            pooled = pooled / covered.sum(1, keepdim=True).clamp_min(1e-6)
            whole = self.teacher.head(pooled).float().softmax(-1)  # [B, K]
            if keep is not None:
                covered = covered.gather(1, keep)  # [B, M']
                features = features.gather(
                    1, keep[..., None].expand(-1, -1, features.shape[-1])
                )  # [B, M', C]
            seen = covered > COVERED  # [B, M']
            features = features[seen]  # [P, C]
            concepts = self.teacher.head(features).float().softmax(-1)  # [P, K]
        weight = self.config.teacher_weight
        size = features.shape[-1:]
        drawn = self.to_teacher(middle[seen])  # [P, C]
        return {
            "loss_feature": weight * F.mse_loss(F.layer_norm(drawn, size), F.layer_norm(features, size)),
            "loss_patch": weight * F.cross_entropy(10 * self.head(patches[seen]), concepts),
            "loss_image": weight * F.cross_entropy(10 * self.head(image), whole),
        }

    def encode_images(self, images: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return `image_tower` of normalised images, with weights and activations in bfloat16 if configured."""
        if not self.config.bf16:
            return self.tower(images, keep)
        # Autocast keeps the residual stream in float32; converting it for every product takes a fifth of a step.
        weights = {name: value.bfloat16() for name, value in self.tower.named_parameters()}
        return self._call(self.tower, weights, (images.bfloat16(), keep))

    def normalise(self, images: Tensor) -> Tensor:
        """Standardise the channels of images in [0, 1]."""
        mean = torch.tensor(self.backbone.mean, device=images.device).view(1, 3, 1, 1)
        std = torch.tensor(self.backbone.std, device=images.device).view(1, 3, 1, 1)
        return (images - mean) / std

    def averaged(self) -> dict[str, Tensor]:
        """Return the averaged weights in float16 under open_clip's names, with the full token embedding."""
        with self.average.applied():
            weights = {name: value.half().cpu() for name, value in self.backbone.model.state_dict().items()}
        name = "token_embedding.weight"
        return weights | {name: self.vocabulary.expand(weights[name], self.backbone.model.vocab_size)}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that resuming needs."""
        return {
            "model": self.backbone.model.state_dict(),
            "head": self.head.state_dict(),
            "to_teacher": self.to_teacher.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "average": self.average.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.backbone.model.load_state_dict(state["model"])
        self.head.load_state_dict(state["head"])
        self.to_teacher.load_state_dict(state["to_teacher"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.average.load_state_dict(state["average"])


def _keep(batch: Batch, dropout: float) -> Tensor | None:
    """Return [B, M'] random patches of each image."""
    if not dropout:
        return None
    batch_size, patches = len(batch.images), batch.region_mask.shape[1]
    order = torch.rand(batch_size, patches, device=batch.images.device).argsort(1)
    return order[:, : round(patches * (1 - dropout))]


def _optimisers(model: nn.Module, config: PretrainConfig) -> list[torch.optim.Optimizer]:
    """Return AdamW for everything, or Muon for the matrices of the blocks and AdamW for the rest."""
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
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), fused=True)
    ]
    if matrices:
        optimisers.append(
            torch.optim.Muon(
                matrices, lr=config.muon_lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
            )
        )
    return optimisers
