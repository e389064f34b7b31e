"""SWAD (Cha et al., NeurIPS 2021): the mean of all weights in the valley of the validation loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.errors import UserError
from .weight_average import WeightAverage


@dataclass(frozen=True)
class Segment:
    """The steps between two measurements: the mean of their weights, and the loss measured at their end."""

    mean: list[Tensor]
    loss: float


class ValleyAverage(WeightAverage):
    """Mean over the segments of a run that lie in the valley of the validation loss.

    A segment holds the mean of the weights of every step between two measurements; its loss is that of the
    weights at its end. With N_s = `converge`, N_e = `tolerance`, r = `ratio` and losses l_1, l_2, ...:

    - The valley is found at the first k >= N_s where l_s, s = k - N_s + 1, is the least of l_s ... l_k. Its
      threshold is (1 + r) times the mean of these.
    - It begins at the earliest of segments s - (N_e - N_s) ... s from which on no loss exceeds the threshold.
    - It ends with the last segment at or below the threshold before N_e above it in a row, which stop the
      run, or before the end of the run.

    The average weighs all segments from begin to end alike, those above the threshold between them included.
    A run that never finds a valley gives its last segment.

    The reference code differs in details that look unintended (the start segment is overwritten by the next,
    back-filling skips one segment, early convergence counts one twice); they are not reproduced.
    """

    kind = "swad"
    evaluations: ClassVar[int] = 50

    def __init__(
        self, parameters: Iterable[Tensor], converge: int = 3, tolerance: int = 6, ratio: float = 0.3
    ) -> None:
        """As `WeightAverage`.

        Args:
            parameters: tensors that training changes in place.
            converge: N_s, measurements without improvement that make a valley.
            tolerance: N_e, measurements above the threshold that end it.
            ratio: r, how far above the mean loss of its beginning the valley reaches.
        """
        super().__init__(parameters)
        self.converge, self.tolerance, self.ratio = converge, tolerance, ratio
        self.running, self.average = self.average, []
        self.steps = 0  # in the running segment
        self.threshold: float | None = None
        self.recent: list[Segment] = []  # before the valley: as many as may belong to it
        self.pending: list[Segment] = []  # in the valley: above the threshold since the last one below it
        self.valley: list[Tensor] = []
        self.segments = 0  # in the valley's mean

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimiser step number `step`.

        Raises:
            ValueError: steps that do not grow.
        """
        if step <= self.step:
            raise ValueError(f"step {step} after step {self.step}")
        self.steps += 1
        torch._foreach_lerp_(self.running, [p.detach().float() for p in self.parameters], 1 / self.steps)
        self.step = step

    def observe(self, loss: float) -> None:
        """End the running segment with the validation loss of the weights as they are now."""
        if self.over or not self.steps:
            return
        segment = Segment(self.running, loss)
        self.running, self.steps = [torch.zeros_like(tensor) for tensor in self.running], 0
        if self.threshold is not None:
            self._extend(segment)
            return
        self.recent = [*self.recent, segment][-max(self.converge, self.tolerance) :]
        start = len(self.recent) - self.converge
        losses = [s.loss for s in self.recent]
        if start < 0 or losses[start] > min(losses[start:]):
            return
        self.threshold = (1 + self.ratio) * sum(losses[start:]) / self.converge
        begin, earliest = start, max(0, start - (self.tolerance - self.converge))
        while begin > earliest and losses[begin - 1] <= self.threshold:
            begin -= 1
        recent, self.recent = self.recent, []
        for segment in recent[begin : start + 1]:
            self._take(segment)
        for segment in recent[start + 1 :]:
            self._extend(segment)

    def close(self) -> None:
        """Settle the average: of the valley, or the last segment where there was none."""
        last = self.recent[-1].mean if self.recent else self.running
        self.average = self.valley or last

    def state_dict(self) -> dict[str, Any]:
        """Everything that going on bit for bit needs."""
        lists = {name: [vars(s) for s in getattr(self, name)] for name in ("recent", "pending")}
        names = ("step", "over", "running", "steps", "threshold", "valley", "segments")
        return {**{name: getattr(self, name) for name in names}, **lists}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`.

        Raises:
            UserError: other tensors.
        """
        shapes = [p.shape for p in self.parameters]
        if [t.shape for t in state.get("running", ())] != shapes:
            raise UserError(
                "the checkpoint's weight average is of other tensors: was --average or --method changed?"
            )

        def here(tensors: list[Tensor]) -> list[Tensor]:
            return [t.to(p.device) for t, p in zip(tensors, self.parameters, strict=False)]

        self.step, self.over, self.steps = int(state["step"]), bool(state["over"]), int(state["steps"])
        self.threshold, self.segments = state["threshold"], int(state["segments"])
        self.running, self.valley = here(state["running"]), here(state["valley"])
        self.recent = [Segment(here(s["mean"]), s["loss"]) for s in state["recent"]]
        self.pending = [Segment(here(s["mean"]), s["loss"]) for s in state["pending"]]

    def _extend(self, segment: Segment) -> None:
        assert self.threshold is not None
        if self.over:
            return
        self.pending.append(segment)
        if segment.loss <= self.threshold:
            for waiting in self.pending:
                self._take(waiting)
            self.pending = []
        elif len(self.pending) >= self.tolerance:
            self.over, self.pending = True, []

    def _take(self, segment: Segment) -> None:
        self.segments += 1
        if not self.valley:
            self.valley = [tensor.clone() for tensor in segment.mean]
        else:
            torch._foreach_lerp_(self.valley, segment.mean, 1 / self.segments)
