"""Running means of the scalars of training steps."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor


class Meter:
    """Means of scalars over the steps since the last `read`, and images per second over the same steps."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps = self.images = 0
        self.since = time.perf_counter()

    def add(self, values: dict[str, Tensor], images: int) -> None:
        """Add the scalars of one step. They stay on their device until `read`, so the GPU is not synchronised."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().double()
        self.steps += 1
        self.images += images

    def read(self) -> dict[str, float | None]:
        """Return the means and reset; None for a non-finite value, which JSON cannot represent."""
        now = time.perf_counter()
        means = {name: float(value) / self.steps for name, value in self.sums.items()}
        means["images_per_second"] = self.images / (now - self.since)
        self.sums, self.steps, self.images, self.since = {}, 0, 0, now
        return {name: value if math.isfinite(value) else None for name, value in means.items()}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Return a context whose duration does not count."""
        began = time.perf_counter()
        yield
        self.since += time.perf_counter() - began

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self.sums, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums, self.steps = state["sums"], state["steps"]
