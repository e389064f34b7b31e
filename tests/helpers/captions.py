"""Batches with captions for the tests of methods that learn from them, made of the coloured squares."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from clipalign.backbone import Backbone
from clipalign.core.types import Batch, Episode
from tests.helpers.methods import batch_of, ready

OWN = 77  # --context-length of a tower that is not stretched


def captioned(episode: Episode, backbone: Backbone, size: int = 8) -> Batch:
    """Captions of two sentences, all different."""
    batch = batch_of(episode, backbone, size)
    names = [episode.class_names[label] for label in batch.labels.tolist()]
    texts = (f"a {name}. number {i} lies to the left of it." for i, name in enumerate(names))
    return replace(batch, captions=tuple(texts))


def unstretched(name: str, backbone: Backbone, episode: Episode, **options: Any) -> Any:
    """A method set up with the tower's own text window."""
    return ready(name, backbone, episode, **{"context_length": OWN, **options})


def descended(terms: dict[str, Tensor]) -> Tensor:
    """The sum of the terms named "loss..."."""
    return torch.stack([value for name, value in terms.items() if name.startswith("loss")]).sum()


def gradient(method: Any, loss: Tensor) -> Tensor:
    """Of all parameters, as one vector; zeros where there is none."""
    parameters = method.parameters()
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(found, parameters, strict=True)]
    )


def in_shards(method: Any, batch: Batch, cuts: tuple[int, ...]) -> Tensor:
    """The loss of several processes, each with its rows of the features, weighed by their number."""
    everyone = method.features(batch)
    total = torch.zeros(())
    for start, stop in zip((0, *cuts[:-1]), cuts, strict=True):
        local = {name: value[start:stop] for name, value in everyone.items()}
        share = (stop - start) / len(batch)
        total = total + share * descended(method.loss_from_features(local, everyone, start))
    return total
