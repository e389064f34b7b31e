"""Run options that several methods were published with."""

from __future__ import annotations

from ..base import PublishedOptions

CLIPOOD: PublishedOptions = {  # Shu et al., CLIPood, ICML 2023
    "lr": 5e-6,
    "weight_decay": 0.1,
    "optimizer": "adamw",
    "schedule": "cosine",
    "steps": 5000,
    "batch_size": 36,
}

DOMAINBED: PublishedOptions = {  # Gulrajani and Lopez-Paz, In Search of Lost Domain Generalization, ICLR 2021
    "lr": 5e-5,
    "weight_decay": 0.0,
    "optimizer": "adam",
    "schedule": "constant",
    "steps": 5000,  # the released code runs 5001
    "batch_size": 96,  # 32 from each of three source domains
}

# Zhou et al., Learning to Prompt for Vision-Language Models, IJCV 2022; prompt learners and adapters after it keep
# its trainer and choose the epochs. The first epoch runs at warmup_lr. The released cosine schedule changes once per
# epoch, this one with every step.
COOP: PublishedOptions = {
    "lr": 2e-3,
    "weight_decay": 5e-4,
    "optimizer": "sgd",
    "momentum": 0.9,
    "schedule": "cosine",
    "warmup_lr": 1e-5,
}

LONG_CLIP: PublishedOptions = {  # Zhang et al., Long-CLIP, ECCV 2024; SmartCLIP keeps them
    "lr": 1e-6,
    "weight_decay": 0.01,
    "optimizer": "adamw",
    "schedule": "cosine",
    "warmup_steps": 0.0548,  # 200 of 3,650 steps
}
