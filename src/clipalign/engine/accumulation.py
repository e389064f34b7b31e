"""Gradients of one step, in pieces: of losses that are means over rows, and of losses that compare all rows.

Either way the gradients that end up in the parameters, summed over processes, are those of the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from ..core.distributed import Ranks
from ..core.precision import Precision
from ..core.types import Batch
from ..methods.base import Method
from ..methods.shared.contrastive import ContrastiveMethod


def backward(
    method: Method, batch: Batch, whole: int, size: int | None, precision: Precision, ranks: Ranks
) -> dict[str, Tensor]:
    """Add this process's part of a step's gradient to the parameters' `grad`.

    Args:
        method: gives the loss.
        batch: this process's rows.
        whole: rows of the step over all processes.
        size: rows per forward pass; None for all at once.
        precision: autocast and loss scaling.
        ranks: the processes.

    Returns:
        Scalars by name, each this process's share of the mean over the whole batch.
    """
    if isinstance(method, ContrastiveMethod):
        return backward_contrastive(method, batch, whole, size, precision, ranks)
    terms: dict[str, Tensor] = {}
    for piece in pieces(batch, size):
        share = len(piece) / whole
        with precision.autocast():
            values = method.loss(piece)
        precision.scaler.scale(share * descended(values)).backward()
        for name, value in values.items():
            terms[name] = terms.get(name, 0) + share * value.detach().float()
    return terms


def backward_contrastive(
    method: ContrastiveMethod,
    batch: Batch,
    whole: int,
    size: int | None,
    precision: Precision,
    ranks: Ranks,
) -> dict[str, Tensor]:
    """`backward` for a loss of all rows' features.

    The features of all processes become leaves; the loss of this process's rows against them gives each leaf a
    gradient, whose sum over processes is that of the whole loss. With several pieces features are computed
    twice, the first time without a graph, so that memory holds the graph of one piece (Gao et al., 2021).
    """
    parts = list(pieces(batch, size))
    draws = []
    computed = []
    for part in parts:
        draws.append(random_state(batch.images.device))
        with precision.autocast(), torch.set_grad_enabled(len(parts) == 1):
            computed.append(method.features(part))
    mine = {name: torch.cat([features[name] for features in computed]) for name in computed[0]}
    everyone = {name: ranks.gather_rows(value) for name, value in mine.items()}
    for value in everyone.values():
        value.requires_grad_(value.is_floating_point())
    first = ranks.share(whole).start
    local = {name: value[first : first + len(batch)] for name, value in everyone.items()}

    share = len(batch) / whole
    with precision.autocast():
        values = method.loss_from_features(local, everyone, first)
    precision.scaler.scale(share * descended(values)).backward()

    gradients = {name: value.grad for name, value in everyone.items() if value.grad is not None}
    for name, gradient in gradients.items():
        gradients[name] = ranks.sum(gradient)[first : first + len(batch)]
    start = 0
    for part, drawn, features in zip(parts, draws, computed, strict=True):
        if len(parts) > 1:
            with drawn_again(drawn, batch.images.device), precision.autocast():
                features = method.features(part)
        # A feature may be constant (a frozen tower's): then there is nothing behind it.
        names = [name for name in gradients if features[name].requires_grad]
        torch.autograd.backward(
            [features[name] for name in names],
            [gradients[name][start : start + len(part)].to(features[name].dtype) for name in names],
        )
        start += len(part)
    return {name: share * value.detach().float() for name, value in values.items()}


def descended(values: dict[str, Tensor]) -> Tensor:
    """The sum of the terms named "loss..."."""
    return torch.stack([value.float() for name, value in values.items() if name.startswith("loss")]).sum()


def pieces(batch: Batch, size: int | None) -> Iterator[Batch]:
    """A batch in micro-batches of at most `size` rows."""
    if size is None or size >= len(batch):
        yield batch
        return
    for start in range(0, len(batch), size):
        part = slice(start, start + size)
        captions = None if batch.captions is None else batch.captions[part]
        yield replace(
            batch,
            images=batch.images[part],
            labels=batch.labels[part],
            domains=batch.domains[part],
            rows=batch.rows[part],
            captions=captions,
        )


def random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Where torch's generators stand, of the CPU and of a GPU."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


@contextmanager
def drawn_again(state: tuple[Tensor, Tensor | None], device: torch.device) -> Iterator[None]:
    """Inside, torch draws what it drew from `state` on; afterwards it goes on as if nothing had been drawn."""
    cpu, gpu = state
    with torch.random.fork_rng(devices=[device] if gpu is not None else []):
        torch.set_rng_state(cpu)
        if gpu is not None:
            torch.cuda.set_rng_state(gpu, device)
        yield
