"""Training runs in a few steps, without the command line."""

from __future__ import annotations

import torch

from clipalign.backbone import preprocess_for
from clipalign.core.config import TrainConfig
from clipalign.core.precision import Precision
from clipalign.core.types import Episode
from clipalign.data.batches import TrainBatches
from clipalign.engine.fit import fit
from clipalign.engine.log import RunLog
from clipalign.engine.progress import Reporter
from clipalign.engine.validation import ClassValidation
from clipalign.engine.weight_average import WeightAverage
from clipalign.evaluation import EvalLoader
from clipalign.methods import Method
from clipalign.runs.folder import RunFolder


def fit_quietly(
    method: Method, config: TrainConfig, episode: Episode, batches: type[TrainBatches] = TrainBatches
) -> tuple[WeightAverage, dict[str, float] | None]:
    """Run `fit` on the CPU without output.

    Args:
        method: after `setup`.
        config: options; `run.out` receives metrics.jsonl and checkpoints.
        episode: training and validation rows.
        batches: class of the training batches.
    """
    loader = EvalLoader(episode.source, preprocess_for(method.backbone))
    return fit(
        method,
        config,
        batches(episode, config.optimiser.batch_size, config.run.seed, loader.preprocess),
        ClassValidation(episode, loader),
        Precision(config.run.precision, torch.device("cpu")),
        RunLog(RunFolder(config.run.out), Reporter(enabled=False)),
    )
