"""What the tests of the baselines share: methods set up on tiny towers, and a few steps by hand."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from clipalign.backbone import Backbone
from clipalign.core.types import Batch, Episode
from clipalign.data.batches import TrainBatches
from clipalign.engine.setup import preprocess_for
from clipalign.engine.validation import SourceValidation
from clipalign.evaluation import EvalLoader
from clipalign.methods import get_method

TEMPLATES = ("a photo of a {}.",)


def ready(name: str, backbone: Backbone, episode: Episode, **options: Any) -> Any:
    """A method set up on a copy of the backbone, with the same draws every time."""
    cls = get_method(name)
    method = cls(cls.Config(**options))
    torch.manual_seed(0)
    method.setup(copy.deepcopy(backbone), episode, TEMPLATES)
    return method


def batch_of(episode: Episode, backbone: Backbone, size: int = 8, step: int = 0) -> Batch:
    """A training batch."""
    return TrainBatches(episode, size, 0, preprocess_for(backbone))[step]


def source_rows(episode: Episode, backbone: Backbone) -> SourceValidation:
    """What `start` and `finish` are given."""
    return SourceValidation(episode, EvalLoader(episode.source, preprocess_for(backbone), 16))


def train(method: Any, steps: int = 4, lr: float = 1e-3) -> list[float]:
    """A few steps of SGD; returns the losses."""
    optimizer = torch.optim.SGD(method.param_groups(), lr=lr)
    found = []
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        terms = method.loss(batch_of(method.episode, method.backbone, 8, step))
        loss = torch.stack([value for name, value in terms.items() if name.startswith("loss")]).sum()
        loss.backward()
        optimizer.step()
        method.after_step(step + 1)
        found.append(loss.item())
    return found


def image_weights(method: Any) -> Tensor:
    """The image tower as one vector."""
    return torch.cat([p.detach().flatten() for p in method.backbone.image_parameters()])


def reached(method: Any) -> set[str]:
    """Names of the tensors that got a gradient other than zero."""
    named = [*method.backbone.model.named_parameters(), *method.extra.named_parameters()]
    return {name for name, p in named if p.grad is not None and bool(p.grad.any())}
