"""Methods set up on tiny backbones, and a few training steps without the engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from clipalign.backbone import Backbone, preprocess_for
from clipalign.core.types import Batch, Episode
from clipalign.data.batches import TrainBatches
from clipalign.engine.validation import ClassValidation
from clipalign.evaluation import EvalLoader
from clipalign.methods import get_method
from tests.helpers.backbones import copied

TEMPLATES = ("a photo of a {}.",)


def ready(name: str, backbone: Backbone, episode: Episode, **options: Any) -> Any:
    """Return a method set up on a copy of the backbone, with the RNG seeded first."""
    cls = get_method(name)
    method = cls(cls.Config(**options))
    torch.manual_seed(0)
    method.setup(copied(backbone), episode, TEMPLATES)
    return method


def batch_of(episode: Episode, backbone: Backbone, size: int = 8, step: int = 0) -> Batch:
    """Return the training batch of a step."""
    return TrainBatches(episode, size, 0, preprocess_for(backbone))[step]


def source_validation(episode: Episode, backbone: Backbone) -> ClassValidation:
    """Return the validation data that `Method.start` and `Method.finish` receive."""
    return ClassValidation(episode, EvalLoader(episode.source, preprocess_for(backbone), 16))


def total_loss(terms: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of the terms named "loss...". Independent of the engine's function, which it checks."""
    return torch.stack([value for name, value in terms.items() if name.startswith("loss")]).sum()


def train(method: Any, steps: int = 4, lr: float = 1e-3) -> list[float]:
    """Run a few steps of SGD and return the loss of each."""
    optimizer = torch.optim.SGD(method.param_groups(), lr=lr)
    history = []
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        loss = total_loss(method.loss(batch_of(method.episode, method.backbone, 8, step)))
        loss.backward()
        optimizer.step()
        method.after_step(step + 1)
        history.append(loss.item())
    return history


def image_weights(method: Any) -> Tensor:
    """Return all parameters of the image tower as one vector."""
    return torch.cat([p.detach().flatten() for p in method.backbone.image_parameters()])


def names_with_gradient(method: Any) -> set[str]:
    """Return the names of parameters whose gradient is not zero."""
    named = [*method.backbone.model.named_parameters(), *method.extra.named_parameters()]
    return {name for name, p in named if p.grad is not None and bool(p.grad.any())}
