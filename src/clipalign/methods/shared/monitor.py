"""A training statistic that is read only now and then."""

from __future__ import annotations

from torch import Tensor

READ_EVERY = 50  # steps; every read waits for the GPU


class Monitor:
    """Mean of a scalar over the batches since the last read. The sum stays on the device between reads."""

    def __init__(self) -> None:
        self.total: Tensor | float = 0.0
        self.batches = 0

    def add(self, value: Tensor) -> None:
        """Add the scalar of one batch."""
        self.total = self.total + value.detach()
        self.batches += 1

    def read(self, step: int) -> float | None:
        """Return the mean and reset it after steps 1, 51, 101, ...; None in between or without batches."""
        if not self.batches or (step - 1) % READ_EVERY:
            return None
        mean = float(self.total) / self.batches
        self.total, self.batches = 0.0, 0
        return mean
