"""Options of `clipalign tune`: those of the search, and those of `clipalign train`.

They are in a module of their own, so that `--help` does not import the command.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..core.config import Options, TrainConfig, facts


@dataclass(frozen=True, kw_only=True)
class SearchOptions(Options):
    """Search."""

    trials: int = field(default=20, metadata=facts(unit="COUNT", at_least=1))
    """Sets of values to try. Give all methods of a comparison the same number. A larger number extends a search."""
    sampler: Literal["random", "tpe"] = "random"
    """random or tpe. tpe: tree-structured Parzen estimator of Optuna, which uses the scores of earlier trials (extra
    [tune])."""
    folds: int | None = field(
        default=None, metadata=facts(unit="COUNT", unset="one per source domain", at_least=1)
    )
    """Runs per trial, each on an inner episode. Data with a single source domain have 2 by default."""
    train: bool = False
    """Train with the best values afterwards. The run is on the whole episode, in OUT/train-trial-N."""
    jobs: int = field(default=1, metadata=facts(unit="COUNT", at_least=1))
    """Runs at a time, one process each."""
    devices: tuple[str, ...] = field(default=(), metadata=facts(unit="DEVICE", unset="auto"))
    """Devices of the processes, such as cuda:0 cuda:1."""


@dataclass(frozen=True, kw_only=True)
class TuneConfig(TrainConfig):
    """Choose learning rate, steps, averaging and the method's options by nested validation. Options of `clipalign
    train` that are given are fixed, and not searched."""

    search: SearchOptions = field(default_factory=SearchOptions)
