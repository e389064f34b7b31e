"""MIRO: keep what the frozen model's features tell about the trained ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import UserError
from . import register
from .shared.heads import DOMAINBED, TrainedHeadMethod

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Batch, Episode

FLOOR = 1e-5  # added to every variance


@dataclass(frozen=True)
class MiroConfig:
    """Options of the regularisation and of the classifier."""

    miro_weight: float = 1.0
    """lambda (published: 1 for CLIP's ViT on every data set, 0.1 to 1 for CLIP's RN50); 0 turns it off."""
    miro_blocks: tuple[int, ...] | None = None
    """Blocks, from 1, whose outputs are compared. Default: the ends of the four quarters of the tower, the
    published 3 6 9 12 of 12; all four stages of a ResNet."""
    miro_stem: bool = True
    """Compare the output of the patch convolution too (a ResNet's stem), as published for CLIP."""
    miro_variance: float = 0.1
    """Initial variance of every channel."""
    miro_lr_factor: float = 10.0
    """Learning rate of the variances over that of the network."""
    head: Literal["random", "zero-shot", "text"] = "random"
    """random: a linear head of PyTorch's initialisation (published). zero-shot: a linear head that starts
    from the class prompts. text: the frozen class prompts, as in erm, for any class list."""
    unit_features: bool | None = None
    """Normalise features for a linear head. Default: not for a random one, yes for a zero-shot one."""

    def __post_init__(self) -> None:
        if not self.miro_weight >= 0:
            raise UserError(f"--miro-weight must be at least 0, not {self.miro_weight:g}")
        if not self.miro_variance > FLOOR:
            raise UserError(f"--miro-variance must be above {FLOOR:g}, not {self.miro_variance:g}")


@register("miro")
class Miro(TrainedHeadMethod):
    """L = CE(head(f(x)), y) + lambda sum_l 1/2 mean [(z_l - z⁰_l)² / var_l + ln var_l].

    z_l are the outputs of the compared layers in the trained tower, z⁰_l in the tower as it was, on the same
    images; the mean is over all elements. Each layer has one learned variance per channel,
    softplus(b_l) + 1e-5; the mean encoder is the identity.
    """

    summary = "features of the frozen tower shall be predictable from the trained ones'"
    source = "Cha et al., Domain Generalization by Mutual-Information Regularization, ECCV 2022"
    trains = "image tower, linear head and variances"
    Config = MiroConfig
    published: ClassVar[Mapping[str, Any]] = DOMAINBED

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        o, layers = self.config, backbone.num_blocks if backbone.kind == "vit" else 4
        blocks = o.miro_blocks or tuple(max(1, round(k * layers / 4)) for k in (1, 2, 3, 4))
        for block in blocks:
            if not 1 <= block <= layers:
                raise UserError(f"--miro-blocks {block}: this backbone allows 1 to {layers}")
        self.blocks = tuple(dict.fromkeys(blocks))
        self.layers = ((-1,) if o.miro_stem else ()) + tuple(block - 1 for block in self.blocks)
        self.frozen = {
            f"model.visual.{name}": tensor.detach().clone()
            for name, tensor in backbone.model.visual.state_dict().items()
        }
        if o.miro_weight:
            self.extra["variances"] = self.initial_variances()

    @property
    def variances(self) -> nn.ParameterDict:
        """By layer, counted from 0 for the stem."""
        found = self.extra["variances"]
        assert isinstance(found, nn.ParameterDict)
        return found

    def initial_variances(self) -> nn.ParameterDict:
        """One parameter per layer, as many values as it has channels, shaped to broadcast over its output."""
        blank = torch.zeros(1, 3, *self.backbone.image_size, device=self.backbone.device)
        with torch.no_grad():
            outputs = self.tapped(blank)[1]
        start = math.log(math.expm1(self.config.miro_variance - FLOOR))
        found = nn.ParameterDict()
        for layer, output in outputs.items():
            # Tokens are [B, N, channels], feature maps of a ResNet [B, channels, H, W].
            shape = (1, 1, output.shape[2]) if output.dim() == 3 else (1, output.shape[1], 1, 1)
            found[str(layer + 1)] = nn.Parameter(torch.full(shape, start, device=output.device))
        return found

    def resolved(self) -> dict[str, Any]:
        return {"miro_blocks": self.blocks, "miro_stem": self.config.miro_stem}

    def param_groups(self) -> list[dict[str, Any]]:
        if "variances" not in self.extra:
            return super().param_groups()
        apart = {id(p) for p in self.variances.parameters()}
        network = [p for _, p in self._named_tensors() if p.requires_grad and id(p) not in apart]
        return [
            {"params": network},
            {"params": list(self.variances.parameters()), "lr_factor": self.config.miro_lr_factor},
        ]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        if not self.config.miro_weight:
            return super().loss(batch)
        features, trained = self.tapped(batch.images)
        with torch.no_grad():
            _, frozen = self.tapped(batch.images, self.frozen)
        divergence = torch.stack(
            [
                gaussian_nll(trained[layer], frozen[layer], self.variances[str(layer + 1)])
                for layer in self.layers
            ]
        ).sum()
        return {
            "loss_ce": F.cross_entropy(self.logits(features), batch.labels),
            "loss_miro": self.config.miro_weight * divergence,
            "miro": divergence,
        }

    def tapped(
        self, images: Tensor, weights: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Image features and the outputs of the compared layers, optionally under other weights."""
        outputs: dict[int, Tensor] = {}

        def keep(tower: str, layer: int, output: Tensor) -> None:
            if tower == "vision" and layer in self.layers:
                outputs[layer] = output

        with self.backbone.hooks(tap=keep):
            if weights is None:
                return self.backbone.encode_image(images), outputs
            return torch.func.functional_call(self.backbone, dict(weights), (images,)), outputs


def gaussian_nll(mean: Tensor, target: Tensor, spread: Tensor) -> Tensor:
    """1/2 mean over all elements of (mean - target)² / var + ln var, with var = softplus(spread) + 1e-5."""
    with torch.autocast(mean.device.type, enabled=False):
        variance = F.softplus(spread.float()) + FLOOR
        return ((mean.float() - target.float()).square() / variance + variance.log()).mean() / 2
