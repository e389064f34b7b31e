"""Typed option groups: data, split, model, recipe, optimiser, schedule, average, evaluation and run.

One field is one command-line flag, one line of a YAML file and one keyword of the Python API. The docstring below
a field is its help text; `--help` prints its first sentence. Facts that a type cannot express (unit, range, the
reason for the default, whether the option affects the result) are in the field's metadata, see `OptionFacts`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from .errors import UserError

Precision = Literal["auto", "fp32", "bf16", "fp16"]
NameRule = Literal["paper", "plain"]
Pooling = Literal["class", "patches"]
FACTS = "option"  # key in the metadata of a dataclass field


@dataclass(frozen=True, kw_only=True)
class OptionFacts:
    """Facts about one option.

    Attributes:
        unit: placeholder of the value in help texts, such as STEPS.
        unset: what a default of None or () stands for.
        reason: why the default is what it is.
        affects_result: False if a run computes the same with any value, so that --resume may change it.
        positional: whether the command line takes it without a flag.
        alias: another name of the flag, for names that Python reserves.
        at_least, at_most, above, below: bounds of a number; NaN is outside of all of them.
    """

    unit: str = ""
    unset: str = ""
    reason: str = ""
    affects_result: bool = True
    positional: bool = False
    alias: str = ""
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None


def facts(**values: Any) -> Mapping[str, OptionFacts]:
    """Return metadata for `dataclasses.field`; the keywords are the fields of `OptionFacts`."""
    return {FACTS: OptionFacts(**values)}


class Options:
    """Base of all option groups: checks the range of every field."""

    def __post_init__(self) -> None:
        for f in fields(self):  # type: ignore[arg-type]  # subclasses are dataclasses
            check_range(f.name, getattr(self, f.name), f.metadata.get(FACTS, OptionFacts()))


@dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """Data."""

    data: str = field(default="pictograms", metadata=facts(unit="DATA"))
    """Name, folder, table, shards or hf:NAME. Names are listed by `clipalign list data`. A folder holds
    class/image or domain/class/image; a CSV, TSV or Parquet table has the columns path, label[, domain] [,
    split][, caption]; shards are tar files; a data set saved by Hugging Face `datasets` is a folder too."""
    data_root: Path | None = field(default=None, metadata=facts(unit="DIR"))
    """Folder of published sets, or of a table's images."""
    data_options: tuple[str, ...] = field(default=(), metadata=facts(unit="K=V"))
    """Settings of the data set. For example background_bias=0.5 for pictograms; label=species names a table's
    column."""
    layout: Literal["auto", "class", "domain", "split"] = "auto"
    """First level: auto, class, domain or split. Level of folders. class: classes; domain: domains; split: train,
    validation and test; auto: detect it."""
    class_names: Path | None = field(default=None, metadata=facts(unit="FILE"))
    """Display names of classes. JSON, or lines of label and name."""
    group_column: str | None = field(default=None, metadata=facts(unit="COLUMN"))
    """Column of groups that no split divides. Used by holdout: images of one patient, camera or product are then
    in one part. For tables and Hugging Face data sets."""
    max_broken: float = field(default=0.01, metadata=facts(unit="SHARE", at_least=0, at_most=1))
    """Images that may fail to decode. They are skipped and listed in skipped.csv of the run."""
    interpolation: Literal["bilinear", "bicubic"] | None = field(
        default=None, metadata=facts(unset="the data set's")
    )
    """bilinear or bicubic. Data sets of image files use bilinear, as CLIPood and AlignCLIP released; others
    use the backbone's."""


@dataclass(frozen=True, kw_only=True)
class SplitOptions(Options):
    """Split."""

    protocol: str | None = field(default=None, metadata=facts(unit="NAME"))
    """Which rows train and test, see `list protocols`. It also decides under which class names they are
    scored. `train` defaults to retrieval for methods and data with captions, to holdout for data with one domain, else
    to domain-shift; `eval` to one test set per domain with all rows and classes, and to retrieval for data with only
    captions."""
    target: str | None = field(default=None, metadata=facts(unit="DOMAIN"))
    """Domain left out of training, and tested. Required by domain-shift and in-the-wild."""
    target_split: Literal["all", "in", "out"] | None = field(default=None, metadata=facts(unset="all"))
    """Part of the target to test: all, in or out. Used by domain-shift. in: the 80 % that DomainBed
    tests; out: the 20 % that CLIPood and AlignCLIP test."""
    shots: int | None = field(default=None, metadata=facts(unit="IMAGES", at_least=1))
    """Training images per class. Sampled as in CoOp; used by few-shot and imagenet-shift (default 16) and by
    base-to-new (default: all)."""
    ratios: tuple[float, ...] = field(default=(), metadata=facts(unit="SHARE", unset="0.7 0.1 0.2"))
    """Training, validation, test. Shares of the images of each class; used by holdout, unless the data define their
    own split."""
    split_seed: int = field(default=0, metadata=facts(unit="SEED", at_least=0))
    """Seed of the split and of shots. Data sets that ship a split ignore it; in domain-shift it is
    DomainBed's trial seed."""
    split_file: Path | None = field(default=None, metadata=facts(unit="FILE"))
    """split.json of a run, to reuse its split. Replaces --protocol, --target and the other options of the
    split."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """Method and model."""

    method: str = field(default="alignclip", metadata=facts(unit="NAME"))
    """Name in `clipalign list methods`. Its hyper-parameters are options too; --help lists those of the
    chosen method."""
    backbone: str = field(default="pocket", metadata=facts(unit="MODEL"))
    """pocket, ARCH:TAG, ARCH:FILE or hf-hub:NAME. ARCH:TAG is a name of open_clip such as ViT-B-16:openai;
    SLIP-ViT-B-16:FILE and DeCLIP-ViT-B-32:FILE read the checkpoints of SLIP and DeCLIP; append @PIXELS for
    another image size (pocket@96)."""
    cache_dir: str | None = field(
        default=None, metadata=facts(unit="DIR", unset="Hugging Face cache", affects_result=False)
    )
    """Downloaded weights."""
    template: tuple[str, ...] = field(default=(), metadata=facts(unit="TEXT", unset="the data set's"))
    """Prompt templates with {}. {} stands for the class name; the features of several templates are
    averaged. Or one name: ensemble (CLIP's 80 templates), ensemble7 (7 of them), paper (AlignCLIP's)."""
    names: NameRule = "paper"
    """Class names in prompts: paper or plain. paper: spaces for underscores and hyphens (AlignCLIP's text); plain:
    hyphens are kept, as in the code of CoOp, CLIPood and AlignCLIP ("737-200"). The published recipes of zeroshot
    and of prompt learners, adapters and caches set plain."""
    pooling: Pooling = "class"
    """Image feature: class or patches. class: the class token; patches: the mean of the projected patch tokens
    (AlignCLIP, Table 9, for plain fine-tuning)."""


@dataclass(frozen=True, kw_only=True)
class RecipeOptions(Options):
    """Recipe."""

    recipe: Literal["published", "common"] = "published"
    """Training options: published or common. published: those of the method's publication, by data set and
    protocol (configs/recipes/published); common: one optimiser, batch, length and augmentation for all methods
    (configs/recipes/common.yaml), for fair comparisons. Other options override both."""
    augment: Literal["clip-crop", "coop", "tip-adapter", "domainbed", "none"] = field(
        default="clip-crop", metadata=facts(reason="CLIPood, AlignCLIP")
    )
    """Training views of image files. clip-crop: crops of 70-100 % of the area, mirrored; coop: 8-100 %;
    tip-adapter: 50-100 %; domainbed: clip-crop with colour jitter and greyscale; none: as in evaluation."""
    select: Literal["last", "best"] = field(default="last", metadata=facts(reason="CLIPood, CoOp"))
    """Weights to keep: last or best. best: those of the validation with the highest accuracy, a mean over source
    domains; the target is never used. --average swad chooses by itself."""


@dataclass(frozen=True, kw_only=True)
class OptimiserOptions(Options):
    """Optimiser."""

    batch_size: int = field(
        default=36, metadata=facts(unit="IMAGES", at_least=1, reason="CLIPood, AlignCLIP")
    )
    """Images per step, over all processes. Source domains have equal shares."""
    micro_batch_size: int | None = field(default=None, metadata=facts(unit="IMAGES", unset="all", at_least=1))
    """Images per forward pass. Fewer need less memory and give the same gradient."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """adamw, adam or sgd. Other constants are PyTorch's defaults."""
    lr: float = field(default=5e-6, metadata=facts(unit="RATE", at_least=0, reason="CLIPood, AlignCLIP"))
    """Peak learning rate."""
    weight_decay: float = field(
        default=0.1, metadata=facts(unit="RATE", at_least=0, reason="CLIPood, AlignCLIP")
    )
    """Weight decay. Decoupled in adamw, an L2 penalty in adam and sgd. It applies to every trained tensor."""
    momentum: float = field(default=0.9, metadata=facts(unit="SHARE", at_least=0, below=1))
    """Momentum of sgd."""
    clip_grad_norm: float | None = field(default=None, metadata=facts(unit="NORM", unset="off", above=0))
    """Maximum global gradient norm. Larger gradients are scaled down."""


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions(Options):
    """Schedule."""

    steps: int = field(default=5000, metadata=facts(unit="STEPS", at_least=1, reason="CLIPood, AlignCLIP"))
    """Optimiser steps. Methods that do not iterate ignore it."""
    epochs: float | None = field(default=None, metadata=facts(unit="EPOCHS", unset="--steps", above=0))
    """Passes over the training images. Replaces --steps; a later layer that sets --steps replaces it."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate: cosine or constant. cosine: half a cosine to 0 after the warm-up."""
    warmup_steps: int | float = field(default=0, metadata=facts(unit="STEPS", at_least=0))
    """Warm-up; below 1: a share of --steps. The learning rate grows linearly from 0 to --lr. A share keeps
    the warm-up of short runs short."""
    warmup_lr: float | None = field(default=None, metadata=facts(unit="RATE", unset="linear", at_least=0))
    """Constant learning rate of the warm-up. Prompt learners use it in their first epoch."""


@dataclass(frozen=True, kw_only=True)
class AverageOptions(Options):
    """Weight averaging."""

    average: Literal["none", "ema", "bma", "gaussian", "swad"] | None = field(
        default=None, metadata=facts(unset="the method's")
    )
    """none, ema, bma, gaussian or swad. Predictions use the averaged weights. ema: exponential; bma: beta
    moving average; gaussian: Gaussian over epochs; swad: the valley of the validation loss, which may end the
    run early."""
    ema_decay: float = field(default=0.999, metadata=facts(unit="SHARE", at_least=0, below=1))
    """ema: decay per step."""
    bma_beta: float = field(
        default=0.5, metadata=facts(unit="BETA", above=0, reason="CLIPood; 0.1 for unseen classes")
    )
    """bma: both parameters of the Beta density."""
    gaussian_mean: float = field(
        default=0.75, metadata=facts(unit="SHARE", reason="PromptSRC: epoch 15 of 20")
    )
    """gaussian: centre, as a share of the run."""
    gaussian_std: float = field(
        default=0.05, metadata=facts(unit="SHARE", above=0, reason="PromptSRC: 1 epoch of 20")
    )
    """gaussian: standard deviation, likewise."""
    gaussian_parts: int = field(
        default=20, metadata=facts(unit="PARTS", at_least=1, reason="PromptSRC: 20 epochs")
    )
    """gaussian: averages the weights after each part. The run has this many parts of equal length."""
    swad_converge: int = field(default=3, metadata=facts(unit="COUNT", at_least=1, reason="SWAD"))
    """swad: validations without improvement. They start the valley of the validation loss."""
    swad_tolerance: int = field(default=6, metadata=facts(unit="COUNT", at_least=1, reason="SWAD"))
    """swad: validations above the threshold. They end the valley, and the run."""
    swad_ratio: float = field(default=0.3, metadata=facts(unit="SHARE", at_least=0, reason="SWAD"))
    """swad: threshold over the valley's first loss. It is relative to that loss."""


@dataclass(frozen=True, kw_only=True)
class MetricOptions(Options):
    """Metrics beyond accuracy."""

    metrics: tuple[str, ...] = field(default=(), metadata=facts(unit="NAME", affects_result=False))
    """Groups of metrics beyond accuracy. attention, calibration, ood, severity, stability, or all (those that apply to
    the model and the data), separated by commas or spaces. They cost further passes over the test images and are
    defined in docs/measures.md."""
    class_tree: Path | None = field(
        default=None, metadata=facts(unit="FILE", unset="the data set's", affects_result=False)
    )
    """Hierarchy of classes for severity. Lines of a name, a tab and the name of its parent."""
    object_masks: Path | None = field(
        default=None, metadata=facts(unit="DIR", unset="the data set's", affects_result=False)
    )
    """Masks for attention. An image per test image, of its size, with its path and any suffix; white is the object."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = tuple(name for text in self.metrics for name in text.replace(",", " ").split())
        object.__setattr__(self, "metrics", tuple(dict.fromkeys(names)))


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(MetricOptions):
    """Evaluation."""

    eval_batch_size: int = field(default=256, metadata=facts(unit="IMAGES", at_least=1, affects_result=False))
    """Images per forward pass."""
    keep_views: float = field(default=1.0, metadata=facts(unit="GB", at_least=0, affects_result=False))
    """Memory for decoded evaluation images. Each process keeps them for all validations and test sets of a
    run, and for all runs of a sweep; 0 keeps none."""
    validate_every: int | None = field(
        default=None, metadata=facts(unit="STEPS", unset="5 times", at_least=0, affects_result=False)
    )
    """Steps between validations. They use source domains only; 0: one at the end. Default: a fifth of
    --steps, a fiftieth with --average swad."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    """Run."""

    out: Path = field(metadata=facts(unit="DIR", affects_result=False))
    """Run folder to write, such as runs/first. Must be new or empty without --resume and --overwrite."""
    seed: int = field(default=0, metadata=facts(unit="SEED", at_least=0))
    """Seed of batches and initial weights. Augmentation depends on it too, splits do not."""
    device: str = field(default="auto", metadata=facts(unit="DEVICE", affects_result=False))
    """auto, cpu, cuda or cuda:N. auto takes a GPU if there is one."""
    precision: Literal["auto", "fp32", "bf16", "fp16", "released-fp16"] = "auto"
    """auto, fp32, bf16, fp16 or released-fp16. Type of the forward pass; weights stay float32. auto: fp32 on
    a CPU, bf16 on a GPU that supports it, else fp16 with loss scaling. released-fp16 rounds weights to half
    precision after each step, as CLIPood's and AlignCLIP's code does, which loses small updates."""
    workers: int = field(default=0, metadata=facts(unit="COUNT", at_least=0, affects_result=False))
    """Processes that prepare batches. 0 uses the training process; results are the same."""
    log_to: tuple[str, ...] = field(default=(), metadata=facts(unit="NAME", affects_result=False))
    """Trackers: tensorboard, wandb. Each is an extra: pip install "clipalign[tensorboard]". Other packages may add
    trackers."""
    log_every: int = field(default=10, metadata=facts(unit="STEPS", at_least=1, affects_result=False))
    """Steps between lines of metrics.jsonl. A line holds means over these steps."""
    checkpoint_every: int = field(default=500, metadata=facts(unit="STEPS", at_least=0, affects_result=False))
    """Steps between checkpoints; 0: none."""
    resume: bool = field(default=False, metadata=facts(affects_result=False))
    """Resume the run in --out. It starts from the last checkpoint; a finished run is left unchanged."""
    overwrite: bool = field(default=False, metadata=facts(affects_result=False))
    """Replace the run in --out."""
    dry_run: bool = field(default=False, metadata=facts(affects_result=False))
    """Print what would run, and write nothing. Data, splits, method and parameters, and memory and time from three
    steps; --out is not needed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume and self.overwrite:
            raise UserError("--resume and --overwrite exclude each other: choose one")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Fine-tune a backbone on a protocol's training rows, and score its test rows."""

    model: ModelOptions = field(default_factory=ModelOptions)
    recipe: RecipeOptions = field(default_factory=RecipeOptions)
    data: DataOptions = field(default_factory=DataOptions)
    split: SplitOptions = field(default_factory=SplitOptions)
    optimiser: OptimiserOptions = field(default_factory=OptimiserOptions)
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    average: AverageOptions = field(default_factory=AverageOptions)
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    run: RunOptions


def check_range(name: str, value: object, about: OptionFacts) -> None:
    """Raise UserError if a number is outside of its bounds; None is always inside."""
    if not isinstance(value, (int, float)):
        return
    if about.at_least is not None and about.below is not None:
        if not about.at_least <= value < about.below:
            raise UserError(f"{flag(name)} must be in [{about.at_least:g}, {about.below:g}), not {value:g}")
    elif about.at_least is not None and about.at_most is not None:
        if not about.at_least <= value <= about.at_most:
            raise UserError(f"{flag(name)} must be in [{about.at_least:g}, {about.at_most:g}], not {value:g}")
    elif about.at_least is not None and not value >= about.at_least:
        raise UserError(f"{flag(name)} must be at least {about.at_least:g}, not {value}")
    elif about.above is not None and not value > about.above:
        raise UserError(f"{flag(name)} must be above {about.above:g}, not {value:g}")
    elif not math.isfinite(value):
        raise UserError(f"{flag(name)} must be finite, not {value}")


def flag(name: str) -> str:
    """Return the command-line flag of an option: batch_size -> --batch-size."""
    return "--" + name.replace("_", "-")
