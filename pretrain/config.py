"""Options of the pre-training run and the schedules that depend on the step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

ARCHITECTURE = Path(__file__).with_name("pocket-96.json")


@dataclass
class PretrainConfig:
    """Pre-train the pocket CLIP on composed scenes.

    Attributes:
        art: Folder written by tools/build_pretraining_art.py.
        architecture: open_clip architecture file.
        out: Run folder. An unfinished run in it is resumed.
        start_from: Weights of an earlier run (pocket.safetensors) to start from; ignored if the run in `out` resumes.
        steps: Length of the run. Extending a run only moves the cooldown.
        curriculum_steps: Steps over which scenes grow from easy to hard.
        cooldown_steps: Final steps in which the learning rate decays to zero and no patch is dropped.
        warmup_steps: Linear warm-up.
        batch_size: Images per step.
        hard_negatives: Captions per step that differ from an image's own in one object or one place.
        lr: Peak learning rate of AdamW.
        muon_lr: Learning rate of Muon on the matrices of the blocks; 0 trains everything with AdamW.
        weight_decay: Decoupled weight decay.
        patch_dropout: Share of patch tokens dropped from each image until the cooldown.
        region_weight: Weight of the region-text contrastive loss.
        map_weight: Weight of the patch-localisation loss.
        concept_weight: Initial weight of the auxiliary concept classifier; it decays to zero over the curriculum.
        teacher: Weights of `python -m pretrain.teacher`; none trains without a teacher.
        teacher_weight: Weight of each distillation loss.
        ema: Decay of the averaged weights.
        save_every: Seconds between saved states.
        threads: Threads of torch; 0 keeps torch's default.
        workers: Processes that compose images; 0 composes in the training process.
        bf16: Run the towers in bfloat16 (float32 master weights).
        compile: Compile the image tower; needs bf16 and a C++ compiler.
        seed: Seed of weights and data.
    """

    art: Path = Path("art/pretraining")
    architecture: Path = ARCHITECTURE
    out: Path = Path("art/pocket-run")
    start_from: Path | None = None
    steps: int = 6000
    curriculum_steps: int = 1200
    cooldown_steps: int = 500
    warmup_steps: int = 50
    batch_size: int = 256
    hard_negatives: int = 96
    lr: float = 2e-3
    muon_lr: float = 6e-3
    weight_decay: float = 0.05
    patch_dropout: float = 0.5
    region_weight: float = 1.0
    map_weight: float = 0.25
    concept_weight: float = 1.0
    teacher: Path | None = None
    teacher_weight: float = 1.0
    ema: float = 0.99
    save_every: float = 300.0
    threads: int = 0
    workers: int = 1
    bf16: bool = True
    compile: bool = False
    seed: int = 0


def hardness(step: int, config: PretrainConfig) -> float:
    """Return the difficulty of a step's scenes and captions, rising from 0 to 1 over the curriculum."""
    return min(1.0, step / config.curriculum_steps)


def concept_weight(step: int, config: PretrainConfig) -> float:
    """Return the weight of the auxiliary classifier at a step."""
    return config.concept_weight * (1 - hardness(step, config))


def in_cooldown(step: int, config: PretrainConfig) -> bool:
    """Return whether a step belongs to the cooldown."""
    return step >= config.steps - config.cooldown_steps


def lr_factor(step: int, config: PretrainConfig) -> float:
    """Return the factor on the peak learning rate: linear warm-up, constant, 1 - sqrt cooldown."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if not in_cooldown(step, config):
        return 1.0
    start = config.steps - config.cooldown_steps
    return 1 - math.sqrt((step - start) / config.cooldown_steps)
