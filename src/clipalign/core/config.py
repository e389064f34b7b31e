"""Options of every command, as dataclasses: one field, one flag, one line of a YAML file.

A field's docstring is its help text. `options.py` fills these classes from a command line, YAML files, the
defaults shipped for the pocket backbone and the values a method was published with.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from .errors import UserError


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images, and how they are cut: what training and evaluation share."""

    data: str = "pictograms"
    """A name of `clipalign list data`; a folder of class/image or domain/class/image; a CSV, TSV or Parquet file
    of path, label[, domain][, split][, caption]; tar shards; hf:NAME or a data set saved to disk."""
    data_root: Path | None = None
    """Folder that holds published sets, or that a table's relative paths start from."""
    data_options: tuple[str, ...] = ()
    """KEY=VALUE settings of the data set: background_bias=0.5 for pictograms, label=species for a table."""
    layout: Literal["auto", "class", "domain", "split"] = "auto"
    """What the first level of a folder is: classes, domains, or train, validation and test. auto looks."""
    class_names: Path | None = None
    """File that gives classes other names: lines of label and name, or JSON."""
    max_broken: float = 0.01
    """Largest share of the images used that may fail to decode. They are skipped, and listed in the run."""
    interpolation: Literal["bilinear", "bicubic"] | None = None
    """How images are resized. Default: bilinear for image files (as CLIPood and AlignCLIP released), else the
    backbone's own."""
    target: str | None = None
    """Domain left out of training and tested. Needed by domain-shift and in-the-wild."""
    target_split: Literal["all", "in", "out"] | None = None
    """Of domain-shift, which part of the target is tested: all of it (the default), the 80 % that DomainBed
    tests (in), or the 20 % that CLIPood and AlignCLIP test (out)."""
    shots: int | None = None
    """Training images per class, drawn as CoOp draws them: in few-shot and imagenet-shift (default 16) and in
    base-to-new (default: all)."""
    split_seed: int = 0
    """Seed of the split of data sets that do not ship one (DomainBed's trial seed), and of the draw of shots."""
    split_file: Path | None = None
    """Split to use again: the split.json of a run. Takes the place of --protocol, --target and the options of
    the split."""

    def check_data(self) -> None:
        """Raise UserError for the first value out of range."""
        at_least(self, 1, "shots")
        at_least(self, 0, "split_seed", "max_broken")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(DataConfig):
    """Fine-tune a backbone on the training rows of a protocol, then score it on the test rows."""

    out: Path
    """Run folder to write. Must be new or empty, unless --resume or --overwrite says otherwise."""
    method: str = "alignclip"
    """What is optimised: a name of `clipalign list methods`. Its own options follow those of the run."""
    protocol: str | None = None
    """Which rows train and which test, under which class names: a name of `clipalign list protocols`. Default:
    retrieval for methods and data of captions, else domain-shift."""
    backbone: str = "pocket"
    """"pocket", ARCHITECTURE:TAG as open_clip names them (ViT-B-16:openai), hf-hub:ORG/NAME, or
    ARCHITECTURE:FILE; with @PIXELS behind it for images of another size (pocket@96)."""
    cache_dir: str | None = None
    """Folder of downloaded weights. Default: the one of the Hugging Face hub."""
    template: tuple[str, ...] = ()
    """Prompt templates with {} for the class name; several are averaged. Default: those of the data set."""

    steps: int = 5000
    """Optimiser steps. Methods that do not iterate ignore it."""
    batch_size: int = 36
    """Images per step over all processes, shared equally between the source domains."""
    micro_batch_size: int | None = None
    """Images per forward pass; smaller needs less memory and gives the same gradient. Default: all at
    once."""
    lr: float = 5e-6
    """Peak learning rate of the optimiser."""
    weight_decay: float = 0.1
    """Decoupled weight decay (adamw) or L2 penalty (sgd, adam), on every trained tensor."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """Update rule, with PyTorch's own constants."""
    momentum: float = 0.9
    """Momentum of --optimizer sgd."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate over steps: to 0 along a half cosine, or held."""
    warmup_steps: int | float = 0
    """Steps before the schedule in which the learning rate grows linearly from 0 to --lr; below 1: a share of
    --steps, so that short runs warm up briefly."""
    warmup_lr: float | None = None
    """Hold this learning rate during the warm-up instead, as prompt learners do in their first epoch."""
    clip_grad_norm: float | None = None
    """Largest global gradient norm; larger ones are scaled down. Default: no clipping, as published."""
    average: Literal["none", "ema", "bma", "gaussian", "swad"] | None = None
    """Average of the weights over steps that predictions use: exponential, beta moving average, Gaussian, or
    the valley of the validation loss (SWAD, which may end the run early). Default: the method's own."""
    ema_decay: float = 0.999
    """Decay per step of --average ema."""
    bma_beta: float = 0.5
    """Both parameters of the Beta density that weighs steps in --average bma (published: 0.5; 0.1 for classes
    left out of training)."""
    gaussian_mean: float = 0.75
    """Share of the run around which --average gaussian takes weights (published: epoch 15 of 20)."""
    gaussian_std: float = 0.05
    """Its standard deviation, a share of the run (published: 1 epoch of 20)."""
    gaussian_parts: int = 20
    """Number of equal parts of the run whose last weights --average gaussian takes (published: epochs)."""
    swad_converge: int = 3
    """Validations without improvement after which --average swad sees a valley of the validation loss."""
    swad_tolerance: int = 6
    """Validations above the valley's threshold that end it, and the run."""
    swad_ratio: float = 0.3
    """Height of that threshold above the loss at the valley's beginning, a share of it."""

    seed: int = 0
    """Seed of batches, training views and whatever a method draws. Splits do not depend on it."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N. auto takes a GPU where there is one."""
    precision: Literal["auto", "fp32", "bf16", "fp16", "released-fp16"] = "auto"
    """Type of the forward pass; weights and their updates stay float32. auto: fp32 on a CPU, bf16 on a GPU
    that has it, else fp16 with loss scaling. released-fp16 rounds weights to half after each step, as
    CLIPood's and AlignCLIP's code does: small updates are lost."""
    workers: int = 0
    """Processes that prepare batches ahead. 0 prepares them in the training process; results are the same."""
    eval_batch_size: int = 256
    """Images per forward pass at evaluation."""
    keep_views: float = 1.0
    """Gigabytes of validation and test views that a process keeps in memory, so that they are decoded or composed
    once: for all validations and test sets of a run, and for all runs of a sweep. 0 keeps none."""
    log_to: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where metrics and results are written too: to TensorBoard (tensorboard/ in the run) or Weights & Biases.
    Each is an extra: pip install "clipalign[tensorboard]"."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl, which hold means over the steps between."""
    validate_every: int | None = None
    """Steps between two measurements on the source validation rows; 0 measures at the end only. Default: a
    fifth of the steps, a fiftieth with --average swad."""
    checkpoint_every: int = 500
    """Steps between two checkpoints that --resume starts from; 0 writes none."""
    resume: bool = False
    """Go on with the run in --out from its last checkpoint; a run that is done is left as it is."""
    overwrite: bool = False
    """Replace the run in --out."""

    def check(self) -> None:
        """Raise UserError for the first value out of range."""
        self.check_data()
        at_least(
            self,
            1,
            "steps",
            "batch_size",
            "micro_batch_size",
            "eval_batch_size",
            "log_every",
            "gaussian_parts",
            "swad_converge",
            "swad_tolerance",
        )
        at_least(
            self,
            0,
            "lr",
            "weight_decay",
            "warmup_steps",
            "warmup_lr",
            "swad_ratio",
            "keep_views",
            "workers",
            "validate_every",
            "checkpoint_every",
            "seed",
        )
        if self.clip_grad_norm is not None and not self.clip_grad_norm > 0:
            raise UserError(f"--clip-grad-norm must be above 0, not {self.clip_grad_norm:g}")
        if not 0 <= self.momentum < 1:
            raise UserError(f"--momentum must be in [0, 1), not {self.momentum:g}")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"--ema-decay must be in [0, 1), not {self.ema_decay:g}")
        if not self.bma_beta > 0:
            raise UserError(f"--bma-beta must be above 0, not {self.bma_beta:g}")
        if not self.gaussian_std > 0:
            raise UserError(f"--gaussian-std must be above 0, not {self.gaussian_std:g}")
        if self.resume and self.overwrite:
            raise UserError("--resume and --overwrite exclude each other: choose one")


@dataclass(frozen=True, kw_only=True)
class EvalConfig(DataConfig):
    """Score a run, or a backbone as it is (zero-shot), and write one row per test set."""

    model: Positional[str]
    """Run folder, or a backbone as in `clipalign train --backbone`."""
    out: Path
    """Folder for results.jsonl. Must be new or empty, unless --overwrite is given."""
    protocol: str | None = None
    """Test sets of this protocol. Default: one per domain, with all rows and all classes; retrieval for data
    that have captions alone."""
    weights: Literal["model", "last"] = "model"
    """Of a run: the weights predictions use (averaged if the method averages), or the last step's."""
    template: tuple[str, ...] = ()
    """Prompt templates with {} for the class name; several are averaged. Default: those of the data set."""
    cache_dir: str | None = None
    """Folder of downloaded weights."""
    seed: int = 0
    """Written to the rows; evaluation draws nothing."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Type of the forward pass; similarities are always float32."""
    eval_batch_size: int = 256
    """Images per forward pass."""
    overwrite: bool = False
    """Replace the results in --out."""

    def check(self) -> None:
        """Raise UserError for the first value out of range."""
        self.check_data()
        at_least(self, 1, "eval_batch_size")
        at_least(self, 0, "seed")


@dataclass(frozen=True)
class PredictConfig:
    """Name what is on images, among the classes of a file or those the run was trained on."""

    model: Positional[str]
    """Run folder, or a backbone as in `clipalign train --backbone`."""
    images: Positional[tuple[Path, ...]]
    """Image files (PNG, JPEG, WebP, GIF, BMP, TIFF), and folders of them at any depth."""
    out: Path | None = None
    """File to write instead of printing a table: .csv or .json."""
    overwrite: bool = False
    """Replace the file in --out."""
    classes_file: Path | None = None
    """Text file with one class name per line. Default: the classes the run was trained on."""
    topk: int = 5
    """Classes to print per image."""
    template: tuple[str, ...] = ()
    """Prompt templates with {} for the class name. Default: those the run was trained with."""
    weights: Literal["model", "last"] = "model"
    """Of a run: the weights predictions use, or the last step's."""
    cache_dir: str | None = None
    """Folder of downloaded weights."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Type of the forward pass."""

    def check(self) -> None:
        """Raise UserError for the first value out of range."""
        at_least(self, 1, "topk")
        if not self.images:
            raise UserError("predict needs at least one image file or folder")
        if self.out is not None and self.out.suffix.lower() not in (".csv", ".json"):
            raise UserError(f"--out: {self.out} must end in .csv or .json")
        if self.out is not None and self.out.exists() and not self.overwrite:
            raise UserError(f"--out: {self.out} exists; choose another file, or give --overwrite")


@dataclass(frozen=True)
class ListConfig:
    """Print the names an option takes."""

    what: Positional[Literal["methods", "data", "backbones", "protocols"]]
    """Which names."""


def at_least(config: object, low: float, *names: str) -> None:
    """Raise UserError unless each named field is None or a number >= `low` (which excludes NaN)."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value >= low:
            raise UserError(f"{flag(name)} must be at least {low}, not {value}")


def is_pocket(backbone: str) -> bool:
    """Whether a name is the shipped backbone, its random weights and other image sizes included."""
    return re.split("[:@]", backbone)[0] == "pocket"


def flag(name: str) -> str:
    """batch_size -> --batch-size"""
    return "--" + name.replace("_", "-")
