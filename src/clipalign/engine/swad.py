"""SWAD (Cha et al., NeurIPS 2021): the mean of all weights in the valley of the validation loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .weight_average import WeightAverage, different_tensors


@dataclass(frozen=True)
class Segment:
    """The steps between two validations: the mean of their weights, and the loss of the validation at the end."""

    mean: list[Tensor]
    loss: float


class ValleyAverage(WeightAverage):
    """Mean over the segments of a run that lie in the valley of the validation loss.

    A segment holds the mean of the weights of all steps between two validations; its loss is that of the weights at
    its end. With N_s = `converge`, N_e = `tolerance`, r = `ratio` and losses l_1, l_2, ...:

    - The valley is detected at the first k >= N_s at which l_s, s = k - N_s + 1, is the minimum of l_s ... l_k. The
      threshold is (1 + r) times the mean of these losses.
    - It begins at the earliest of the segments s - (N_e - N_s) ... s from which on no loss exceeds the threshold.
    - It ends with the last segment at or below the threshold before N_e consecutive losses above it, which stop
      training, or before the end of the run.

    The average weights all segments from begin to end equally, including those above the threshold in between. If a
    run has no valley, the average is its last segment.

    The reference code differs in details that look unintended (the next segment overwrites the start segment,
    back-filling skips a segment, early convergence counts a segment twice); they are not reproduced.

    Args:
        parameters: tensors that training updates in place.
        converge: N_s, validations without improvement that define a valley.
        tolerance: N_e, consecutive validations above the threshold that end it.
        ratio: r, height of the threshold relative to the mean loss at the beginning of the valley.
    """

    kind = "swad"
    validations: ClassVar[int] = 50

    def __init__(
        self, parameters: Iterable[Tensor], converge: int = 3, tolerance: int = 6, ratio: float = 0.3
    ) -> None:
        super().__init__(parameters)
        self.converge, self.tolerance, self.ratio = converge, tolerance, ratio
        # There is no average before the end of the run: the valley is detected on the losses of the weights.
        self.running, self.average = self.average, []
        self.steps = 0  # in the running segment
        self.threshold: float | None = None
        self.recent: list[Segment] = []  # before the valley: as many as may belong to it
        self.pending: list[Segment] = []  # in the valley: above the threshold since the last one below it
        self.valley: list[Tensor] = []
        self.segments = 0  # in the mean of the valley

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after optimiser step `step` to the running segment.

        Raises:
            ValueError: `step` is not larger than that of the last call.
        """
        if step <= self.step:
            raise ValueError(f"step {step} after step {self.step}")
        self.steps += 1
        torch._foreach_lerp_(self.running, [p.detach().float() for p in self.parameters], 1 / self.steps)
        self.step = step

    def observe(self, loss: float) -> None:
        """End the running segment with the validation loss of the current weights."""
        if self.finished or not self.steps:
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
            self._add(segment)
        for segment in recent[start + 1 :]:
            self._extend(segment)

    def close(self) -> None:
        """Set the average to the mean of the valley, or to the last segment if there is no valley."""
        last = self.recent[-1].mean if self.recent else self.running
        self.average = self.valley or last

    def state_dict(self) -> dict[str, Any]:
        """Return the state that resuming bit for bit requires."""
        lists = {name: [vars(s) for s in getattr(self, name)] for name in ("recent", "pending")}
        names = ("step", "running", "steps", "threshold", "valley", "segments")
        return {**{name: getattr(self, name) for name in names}, "over": self.finished, **lists}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `state_dict`.

        Raises:
            UserError: the tensors differ in number or shape.
        """
        shapes = [p.shape for p in self.parameters]
        if [t.shape for t in state.get("running", ())] != shapes:
            raise different_tensors()

        def on_device(tensors: list[Tensor]) -> list[Tensor]:
            return [t.to(p.device) for t, p in zip(tensors, self.parameters, strict=False)]

        self.step, self.finished, self.steps = int(state["step"]), bool(state["over"]), int(state["steps"])
        self.threshold, self.segments = state["threshold"], int(state["segments"])
        self.running, self.valley = on_device(state["running"]), on_device(state["valley"])
        self.recent = [Segment(on_device(s["mean"]), s["loss"]) for s in state["recent"]]
        self.pending = [Segment(on_device(s["mean"]), s["loss"]) for s in state["pending"]]

    def _extend(self, segment: Segment) -> None:
        """Append a segment after the detected valley; it joins the valley once a loss is below the threshold."""
        assert self.threshold is not None
        if self.finished:
            return
        self.pending.append(segment)
        if segment.loss <= self.threshold:
            for waiting in self.pending:
                self._add(waiting)
            self.pending = []
        elif len(self.pending) >= self.tolerance:
            self.finished, self.pending = True, []

    def _add(self, segment: Segment) -> None:
        """Add a segment to the running mean of the valley."""
        self.segments += 1
        if not self.valley:
            self.valley = [tensor.clone() for tensor in segment.mean]
        else:
            torch._foreach_lerp_(self.valley, segment.mean, 1 / self.segments)
