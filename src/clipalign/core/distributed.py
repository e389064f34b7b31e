"""Data-parallel training: each process computes a share of every batch, and gradients equal those of the whole batch.

torchrun starts the processes and sets RANK, WORLD_SIZE and LOCAL_RANK. In a single process every function is a
no-op.
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
    """The processes of a run, as seen by one of them.

    Attributes:
        rank: index of this process, from 0.
        world: number of processes.
        device: device of this process.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and logs; only rank 0 does."""
        return self.rank == 0

    def share(self, length: int) -> slice:
        """Return the contiguous slice of `length` items that this process handles; sizes differ by at most one.

        Example:
            >>> Ranks(rank=1, world=3).share(8)
            slice(2, 5, None)
        """
        return slice(self.rank * length // self.world, (self.rank + 1) * length // self.world)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """All-reduce the gradients (sum, not mean).

        The caller weights its loss by its share of the rows, which makes the sum the gradient of the mean over the
        whole batch even if shares differ in size.
        """
        if self.world == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        # One message: for hundreds of small tensors latency would exceed the transfer time.
        flat = torch.cat([g.reshape(-1) for g in gradients])  # [total number of elements]
        dist.all_reduce(flat)
        for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))

    def sum(self, values: Tensor) -> Tensor:
        """All-reduce a tensor (sum), in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, ordered by rank."""
        if self.world == 1:
            return [value]
        values: list[T | None] = [None] * self.world
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def gather_rows(self, values: Tensor) -> Tensor:
        """Concatenate the rows of all processes by rank: [b, ...] -> [N, ...], N the sum of all b.

        b may differ between processes. The result is detached; to backpropagate, sum the gradient with respect to
        the result (`sum`) and slice out this process's rows.
        """
        if self.world == 1:
            return values.detach()
        counts = torch.zeros(self.world, dtype=torch.int64, device=values.device)
        counts[self.rank] = len(values)
        dist.all_reduce(counts)
        lengths = counts.tolist()
        # all_gather requires equal shapes.
        padded = values.new_zeros((max(lengths), *values.shape[1:]))  # [max b, ...]
        padded[: len(values)] = values.detach()
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])  # [N, ...]

    def barrier(self) -> None:
        """Wait until all processes arrive here."""
        if self.world > 1:
            dist.barrier()


def start(device: torch.device) -> Ranks:
    """Join the process group of a torchrun job; without torchrun return a single rank."""
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
    """Leave the process group joined by `start`."""
    if dist.is_initialized():
        dist.destroy_process_group()
