"""Options of the pre-training, and what changes with its step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path


@dataclass
class PretrainConfig:
    """Pre-training of the pocket CLIP.

    Attributes:
        art: folder made by tools/build_pretraining_art.py.
        out: run folder; an unfinished run in it is resumed.
        steps: length of the schedule; the curriculum reaches full hardness half-way.
        batch_size: images per step.
        other_names: further names that every step scores its images against.
        lr: peak learning rate of AdamW.
        muon_lr: learning rate of Muon on the blocks' matrices; 0 trains everything with AdamW.
        weight_decay: decoupled.
        warmup_steps: linear.
        cooldown: share of steps at the end in which the rate falls to zero and no patches are dropped.
        patch_dropout: share of patch tokens left out of each image until the cooldown (half the cost).
        concept_weight: weight of an auxiliary classification of concepts by a linear head on the image feature; it
            starts the image tower off and falls to zero at half of the steps.
        ema: decay of the averaged weights.
        save_every: seconds between saved states.
        threads: of torch; 0 leaves torch's choice.
        workers: processes that compose pictures; 0 composes between the steps.
        start_from: weights to begin with (safetensors), for going on after a finished run.
        start_step: step of the curriculum to begin at, with --start-from.
    """

    art: Path = Path("art/pretraining")
    out: Path = Path("art/pocket-run")
    steps: int = 2000
    batch_size: int = 256
    other_names: int = 128
    lr: float = 2e-3
    muon_lr: float = 6e-3
    weight_decay: float = 0.05
    warmup_steps: int = 50
    cooldown: float = 0.12
    patch_dropout: float = 0.5
    concept_weight: float = 1.0
    ema: float = 0.99
    save_every: float = 300.0
    threads: int = 0
    workers: int = 1
    seed: int = 0
    start_from: Path | None = None
    start_step: int = 0


def hardness(step: int, total_steps: int) -> float:
    """How hard the pictures and sentences of a step (from 0) are: from 0 to 1 over the first half of the run."""
    return min(1.0, step / (0.5 * total_steps))


def concept_weight(step: int, config: PretrainConfig) -> float:
    """Weight of the auxiliary loss: as the pictures get harder, the names take over."""
    return config.concept_weight * (1 - hardness(step, config.steps))


def patch_dropout(step: int, config: PretrainConfig) -> float:
    """Share of patches left out: none in the cooldown, as in every use of the model."""
    return 0.0 if step >= config.steps * (1 - config.cooldown) else config.patch_dropout


def rate(step: int, config: PretrainConfig) -> float:
    """Warm-up, constant, then a fall to zero (as 1 - sqrt) in the cooldown."""
    start = config.steps * (1 - config.cooldown)
    if step < config.warmup_steps + config.start_step:
        return (step - config.start_step + 1) / config.warmup_steps
    return 1.0 if step < start else 1 - math.sqrt((step - start) / (config.steps - start))
