"""Batches of coloured squares with captions, for methods that train on image-text pairs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from clipalign.backbone import Backbone
from clipalign.core.types import Batch, Episode
from tests.helpers.methods import batch_of, ready, total_loss

CONTEXT_LENGTH = 77  # that of the tiny towers: --context-length at which nothing is stretched


def captioned(episode: Episode, backbone: Backbone, size: int = 8) -> Batch:
    """Return a batch with captions of two sentences, all different."""
    batch = batch_of(episode, backbone, size)
    names = [episode.class_names[label] for label in batch.labels.tolist()]
    texts = (f"a {name}. number {i} lies to the left of it." for i, name in enumerate(names))
    return replace(batch, captions=tuple(texts))


def ready_unstretched(name: str, backbone: Backbone, episode: Episode, **options: Any) -> Any:
    """Return a method set up with the context length of its text tower."""
    return ready(name, backbone, episode, **{"context_length": CONTEXT_LENGTH, **options})


def gradient(method: Any, loss: Tensor) -> Tensor:
    """Return the gradient of all parameters as one vector, zeros for parameters without one."""
    parameters = method.parameters()
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(p) if g is None else g).flatten()
            for g, p in zip(gradients, parameters, strict=True)
        ]
    )


def in_shards(method: Any, batch: Batch, cuts: tuple[int, ...]) -> Tensor:
    """Return the mean loss of several processes, weighted by rows; process i holds rows cuts[i-1] to cuts[i]."""
    gathered = method.features(batch)
    total = torch.zeros(())
    for start, stop in zip((0, *cuts[:-1]), cuts, strict=True):
        local = {name: value[start:stop] for name, value in gathered.items()}
        share = (stop - start) / len(batch)
        total = total + share * total_loss(method.loss_from_features(local, gathered, start))
    return total
