"""Open a model that is named as a run folder or as a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..backbone import load
from ..core.errors import UserError
from .folder import is_run
from .record import RunRecord
from .run import Run, open_run, zeroshot

if TYPE_CHECKING:
    import torch

    from ..core.types import Interpolation
    from ..methods import Method

Weights = Literal["model", "last"]


@dataclass(frozen=True)
class OpenedModel:
    """A model that is ready to predict.

    Attributes:
        method: set up, with the weights of the run; zero-shot for a backbone.
        run: the run; None for a backbone.
    """

    method: Method
    run: Run | None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes of the run's training; none for a backbone."""
        return () if self.run is None else self.run.class_names

    @property
    def record(self) -> RunRecord | None:
        """Facts about the run; None for a backbone."""
        return None if self.run is None else self.run.record

    @property
    def interpolation(self) -> Interpolation | None:
        """Image resizing of the run; None for a backbone."""
        return None if self.run is None else self.run.record.interpolation


def open_model(
    model: str | Path,
    *,
    weights: Weights = "model",
    device: torch.device | str = "cpu",
    cache_dir: str | None = None,
    templates: Sequence[str] | None = None,
) -> OpenedModel:
    """Open a run, or a backbone for zero-shot predictions.

    Args:
        model: run folder, or a backbone as in `clipalign train --backbone`.
        weights: of a run: "model" (those predictions use) or "last" (those of the last step).
        device: where the model goes.
        cache_dir: folder of downloaded weights.
        templates: prompt templates of a backbone; default: "a photo of a {}.".

    Raises:
        UserError: neither a run nor a backbone, or a run without weights.
    """
    if is_run(model):
        run = open_run(model, weights=weights, device=device, cache_dir=cache_dir)
        return OpenedModel(run.method, run)
    if Path(model).exists():
        raise UserError(f"MODEL: {model} is not a run folder (no config.yaml)")
    return OpenedModel(zeroshot(load(str(model), device, cache_dir), templates), None)
