"""Gradient accumulation over micro-batches, and its counterpart for contrastive losses.

A loss that is a mean over rows can be accumulated micro-batch by micro-batch, as `fit` does. A contrastive loss
compares all rows of a batch; `contrastive_backward` computes its exact gradient with the memory of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from ..core.config import OptimiserOptions
from ..core.distributed import Ranks
from ..core.precision import Precision
from ..core.types import Batch
from ..methods.shared.contrastive import ContrastiveMethod


def micro_batches(batch: Batch, size: int | None) -> Iterator[Batch]:
    """Split a batch into micro-batches of at most `size` rows; None yields the batch itself."""
    if size is None or size >= len(batch):
        yield batch
        return
    for start in range(0, len(batch), size):
        part = slice(start, start + size)
        yield replace(
            batch,
            images=batch.images[part],
            labels=batch.labels[part],
            domains=batch.domains[part],
            rows=batch.rows[part],
            captions=None if batch.captions is None else batch.captions[part],
        )


def contrastive_backward(
    method: ContrastiveMethod,
    batch: Batch,
    options: OptimiserOptions,
    precision: Precision,
    ranks: Ranks,
) -> dict[str, Tensor]:
    """Add this process's part of a contrastive loss's gradient to the parameters' `grad`.

    The features of all processes become leaves. The loss of this process's rows against them gives each leaf a
    gradient; summed over processes, it is the gradient of the whole loss, and is backpropagated through the rows of
    this process. With several micro-batches features are computed twice, the first time without a graph, so only the
    graph of one micro-batch is in memory.

    Source: Gao et al., Scaling deep contrastive learning batch size under memory limited setup, 2021.

    Args:
        method: computes features and loss.
        batch: the b rows of this process.
        options: `batch_size`, N rows over all processes, and `micro_batch_size`, rows per forward pass.
        precision: autocast and loss scaling.
        ranks: processes.

    Returns:
        Scalars by name: this process's share of the mean over the whole batch.
    """
    device, weight = batch.images.device, len(batch) / options.batch_size
    parts = list(micro_batches(batch, options.micro_batch_size))
    rng_states, features = [], []
    for part in parts:
        rng_states.append(rng_state(device))
        with precision.autocast(), torch.set_grad_enabled(len(parts) == 1):
            features.append(method.features(part))
    local = {name: torch.cat([f[name] for f in features]) for name in features[0]}  # [b, ...]
    everyone = {name: ranks.gather_rows(value) for name, value in local.items()}  # [N, ...], detached
    for value in everyone.values():
        value.requires_grad_(value.is_floating_point())
    first = ranks.share(options.batch_size).start
    mine = slice(first, first + len(batch))
    # Views of the leaves, so that gradients of both arguments of the loss arrive in `everyone`.
    local = {name: value[mine] for name, value in everyone.items()}  # [b, ...]

    with precision.autocast():
        terms = method.loss_from_features(local, everyone, first)
    total_loss = torch.stack([v.float() for name, v in terms.items() if name.startswith("loss")]).sum()
    precision.scaler.scale(weight * total_loss).backward()

    gradients = {
        name: ranks.sum(value.grad)[mine]  # [b, ...]
        for name, value in everyone.items()
        if value.grad is not None
    }
    start = 0
    for part, state, computed in zip(parts, rng_states, features, strict=True):
        if len(parts) > 1:
            with replay_rng(state, device), precision.autocast():
                computed = method.features(part)
        # Features of a frozen tower have no graph.
        names = [name for name in gradients if computed[name].requires_grad]
        torch.autograd.backward(
            [computed[name] for name in names],
            [gradients[name][start : start + len(part)].to(computed[name].dtype) for name in names],
        )
        start += len(part)
    return {name: weight * value.detach().float() for name, value in terms.items()}


def rng_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Return the current torch RNG state of the CPU, and of the GPU if `device` is one."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


@contextmanager
def replay_rng(state: tuple[Tensor, Tensor | None], device: torch.device) -> Iterator[None]:
    """Return a context in which torch repeats the random numbers drawn from `state` on; the RNG state outside is
    unaffected."""
    cpu, gpu = state
    with torch.random.fork_rng(devices=[device] if gpu is not None else []):
        torch.set_rng_state(cpu)
        if gpu is not None:
            torch.cuda.set_rng_state(gpu, device)
        yield
