"""MIRO: keep the mutual information between the trained features and those of the frozen model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.config import facts
from ..core.errors import UserError
from ..core.full_precision import full_precision
from ..core.search import LogUniform, SearchSpace
from . import register
from .base import ParamGroup
from .shared.heads import HeadConfig, TrainedHeadMethod

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Batch, Episode

FLOOR = 1e-5  # added to every variance


@dataclass(frozen=True)
class MiroConfig(HeadConfig):
    """Options of the regularisation and of the classifier."""

    miro_weight: float = field(
        default=1.0, metadata=facts(unit="WEIGHT", at_least=0, reason="MIRO, CLIP's ViT")
    )
    """Weight lambda of the regularisation; 0: none. MIRO uses 0.1 to 1 for CLIP's RN50."""
    miro_blocks: tuple[int, ...] | None = field(default=None, metadata=facts(unit="BLOCK", unset="quarters"))
    """Blocks to compare, from 1. By default the last of each quarter of the tower, the published 3 6 9 12 of 12;
    all four stages of a ResNet."""
    miro_stem: bool = field(default=True, metadata=facts(reason="MIRO, CLIP"))
    """Compare the patch convolution, too. Or the stem of a ResNet."""
    miro_variance: float = field(default=0.1, metadata=facts(unit="VALUE", above=FLOOR, reason="MIRO"))
    """Initial variance of every channel."""
    miro_lr_factor: float = field(default=10.0, metadata=facts(unit="FACTOR", reason="MIRO"))
    """Learning rate of the variances, over --lr."""


@register("miro")
class Miro(TrainedHeadMethod[MiroConfig]):
    """L = CE(head(f), y) + lambda sum_l 1/2 mean [(z_l - z⁰_l)² / var_l + ln var_l].

    z_l are the outputs of the compared layers in the trained tower, z⁰_l those in the frozen tower on the same
    images; the mean is over all elements. Each layer has one learned variance per channel, softplus(b_l) + 1e-5; the
    mean encoder is the identity.
    """

    summary = "trained features that predict the features of the frozen tower"
    source = "Cha et al., Domain Generalization by Mutual-Information Regularization, ECCV 2022"
    trains = "image tower, linear head and variances"
    trains_image_tower = True
    needs = ("image layers",)
    Config = MiroConfig
    search: ClassVar[SearchSpace] = {"miro_weight": LogUniform(0.01, 1)}

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        o, layers = self.config, backbone.num_layers
        blocks = o.miro_blocks or tuple(max(1, round(k * layers / 4)) for k in (1, 2, 3, 4))
        for block in blocks:
            if not 1 <= block <= layers:
                raise UserError(f"--miro-blocks {block}: this backbone allows 1 to {layers}")
        self.blocks = tuple(dict.fromkeys(blocks))  # a tower of fewer than four blocks repeats some
        self.layers = ((-1,) if o.miro_stem else ()) + tuple(block - 1 for block in self.blocks)
        self.frozen = {
            f"model.visual.{name}": tensor.detach().clone()
            for name, tensor in backbone.model.visual.state_dict().items()
        }
        if o.miro_weight:
            self.extra["variances"] = self.initial_variances()

    @property
    def variances(self) -> nn.ParameterDict:
        """The parameters b_l by layer, counted from 0 for the stem."""
        variances = self.extra["variances"]
        assert isinstance(variances, nn.ParameterDict)
        return variances

    def initial_variances(self) -> nn.ParameterDict:
        """Return one parameter per layer, with a value per channel, shaped to broadcast over the layer's output."""
        blank = torch.zeros(1, 3, *self.backbone.image_size, device=self.backbone.device)
        with torch.no_grad():
            outputs = self.encode_with_layers(blank)[1]
        start = math.log(math.expm1(self.config.miro_variance - FLOOR))  # softplus(start) + FLOOR = variance
        variances = nn.ParameterDict()
        for layer, output in outputs.items():
            # Tokens are [B, N, channels], feature maps of a ResNet [B, channels, H, W].
            shape = (1, 1, output.shape[2]) if output.dim() == 3 else (1, output.shape[1], 1, 1)
            variances[str(layer + 1)] = nn.Parameter(torch.full(shape, start, device=output.device))
        return variances

    def resolved(self) -> dict[str, object]:
        return {"miro_blocks": self.blocks, "miro_stem": self.config.miro_stem}

    def param_groups(self) -> list[ParamGroup]:
        if "variances" not in self.extra:
            return super().param_groups()
        variances = list(self.variances.parameters())
        apart = {id(parameter) for parameter in variances}
        network = [p for _, p in self.named_parameters() if p.requires_grad and id(p) not in apart]
        return [{"params": network}, {"params": variances, "lr_factor": self.config.miro_lr_factor}]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        if not self.config.miro_weight:
            return super().loss(batch)
        features, trained = self.encode_with_layers(batch.images)  # [B, d], layer -> [B, ...]
        with torch.no_grad():
            _, frozen = self.encode_with_layers(batch.images, self.frozen)
        divergences = [
            gaussian_nll(trained[layer], frozen[layer], self.variances[str(layer + 1)])
            for layer in self.layers
        ]
        miro = torch.stack(divergences).sum()
        return {
            "loss_ce": F.cross_entropy(self.head_logits(features), batch.labels),
            "loss_miro": self.config.miro_weight * miro,
            "miro": miro,
        }

    def encode_with_layers(
        self, images: Tensor, weights: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Return image features [B, d] and the outputs of the compared layers, optionally under other weights."""
        outputs: dict[int, Tensor] = {}

        def keep(tower: str, layer: int, output: Tensor) -> None:
            if tower == "vision" and layer in self.layers:
                outputs[layer] = output

        with self.backbone.hooks(tap=keep):
            if weights is None:
                return self.backbone.encode_image(images), outputs
            return torch.func.functional_call(self.backbone, dict(weights), (images,)), outputs


@full_precision
def gaussian_nll(mean: Tensor, target: Tensor, spread: Tensor) -> Tensor:
    """Return 1/2 mean over all elements of (mean - target)² / var + ln var, var = softplus(spread) + 1e-5; a scalar.

    Args:
        mean, target: [B, N, channels] or [B, channels, H, W].
        spread: one value per channel, shaped to broadcast.
    """
    variance = F.softplus(spread) + FLOOR
    return ((mean - target).square() / variance + variance.log()).mean() / 2
