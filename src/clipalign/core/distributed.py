"""Several processes as one: each takes its share of a batch, gradients come out as those of the whole batch.

Started by torchrun, which sets RANK, WORLD_SIZE and LOCAL_RANK; alone, every function here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, as one of them sees them.

    Attributes:
        rank: number of this process, from 0; rank 0 alone writes files and talks.
        world: number of processes.
        device: where this process computes.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, length: int) -> slice:
        """This process's contiguous part of `length` things; parts differ by at most one."""
        return slice(self.rank * length // self.world, (self.rank + 1) * length // self.world)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its sum over processes.

        The caller weighs its loss by its share of the rows, so that the sum is the gradient of the mean over
        the whole batch, unequal shares included.
        """
        if self.world == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        # One message for all: hundreds of small ones would cost more than the bytes.
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        for gradient, piece in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(piece.view_as(gradient))

    def sum(self, values: Tensor) -> Tensor:
        """Sum of a small tensor over processes."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in order of rank."""
        if self.world == 1:
            return [value]
        values: list[T | None] = [None] * self.world
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def gather_rows(self, values: Tensor) -> Tensor:
        """Rows of all processes, one below the other in order of rank: [b, ...] -> [sum of b, ...].

        Shares may differ in length. No gradient flows through: who needs one sums the gradients with respect
        to the result (`sum`) and takes its own rows.
        """
        if self.world == 1:
            return values.detach()
        counts = torch.zeros(self.world, dtype=torch.int64, device=values.device)
        counts[self.rank] = len(values)
        dist.all_reduce(counts)
        lengths = counts.tolist()
        # Collectives want equal shapes.
        padded = values.new_zeros((max(lengths), *values.shape[1:]))
        padded[: len(values)] = values.detach()
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    def barrier(self) -> None:
        """Wait for all."""
        if self.world > 1:
            dist.barrier()


def start(device: torch.device) -> Ranks:
    """Join the other processes of a torchrun job, or be alone."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Ranks(device=device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


def stop() -> None:
    """Leave the job that `start` joined."""
    if dist.is_initialized():
        dist.destroy_process_group()
