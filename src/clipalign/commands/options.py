"""Options of the commands; those of `train` are in `core.config`, those of studies in `study_options`.

They are not in the files of the commands, so that `--help` and completion import no command.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..core.config import DataOptions, MetricOptions, NameRule, Options, SplitOptions, facts
from ..core.errors import UserError

SHEET_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")  # of pictures that `data check` writes
MAX_SHARPNESS = 1000.0  # factor at which the softmax of cosines is a maximum


@dataclass(frozen=True)
class DemoConfig(Options):
    """Fine-tune the shipped model on the shipped data with three methods, and write a report with pictures."""

    out: Path = field(default=Path("clipalign-demo"), metadata=facts(unit="DIR"))
    """Folder of the runs and the report. Must be new or empty without --overwrite."""
    target: str = field(default="twemoji", metadata=facts(unit="STYLE"))
    """Style left out of training, and tested. A domain of pictograms."""
    steps: int = field(default=150, metadata=facts(unit="STEPS", at_least=1))
    """Optimiser steps per method that trains."""
    seed: int = field(default=0, metadata=facts(unit="SEED", at_least=0))
    """Seed of batches and augmentation."""
    pictures: int = field(default=6, metadata=facts(unit="COUNT", at_least=0))
    """Test images with maps, before and after training."""
    backbone: str = field(default="pocket", metadata=facts(unit="MODEL"))
    """pocket, or pocket:random to see the effect of pre-training."""
    overwrite: bool = False
    """Replace the demo in --out."""


@dataclass(frozen=True, kw_only=True)
class EvalConfig(Options):
    """Score a run, or a backbone zero-shot, and write one result row per test set."""

    model: str = field(metadata=facts(positional=True))
    """Run folder, or a backbone as in `clipalign train`."""
    out: Path = field(metadata=facts(unit="DIR"))
    """Folder for results.jsonl. Must be new or empty without --overwrite."""
    weights: Literal["model", "last"] = "model"
    """Of a run: model or last. model: those that predictions use, averaged if the method averages; last: those of
    the last step."""
    template: tuple[str, ...] = field(default=(), metadata=facts(unit="TEXT", unset="the data set's"))
    """Prompt templates with {}. {} stands for the class name; the features of several templates are averaged."""
    names: NameRule | None = field(default=None, metadata=facts(unset="the run's, or paper"))
    """Class names in prompts: paper or plain. paper: spaces for underscores and hyphens; plain: hyphens are kept, as in
    published zero-shot rows."""
    cache_dir: str | None = field(default=None, metadata=facts(unit="DIR", unset="Hugging Face cache"))
    """Downloaded weights."""
    seed: int = field(default=0, metadata=facts(unit="SEED", at_least=0))
    """Seed in the result rows. Evaluation is deterministic."""
    device: str = field(default="auto", metadata=facts(unit="DEVICE"))
    """auto, cpu, cuda or cuda:N."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto, fp32, bf16 or fp16. Type of the forward pass; similarities are always float32."""
    eval_batch_size: int = field(default=256, metadata=facts(unit="IMAGES", at_least=1))
    """Images per forward pass."""
    overwrite: bool = False
    """Replace the results in --out."""
    data: DataOptions = field(default_factory=DataOptions)
    split: SplitOptions = field(default_factory=SplitOptions)
    measures: MetricOptions = field(default_factory=MetricOptions)


@dataclass(frozen=True)
class CheckConfig(Options):
    """Print totals, counts, sizes, broken and duplicate files and doubtful class names, and how to train."""

    data: str = field(metadata=facts(positional=True))
    """Data set, as in `clipalign train --data`."""
    data_root: Path | None = field(default=None, metadata=facts(unit="DIR"))
    """Folder of published sets, or of a table's images."""
    data_options: tuple[str, ...] = field(default=(), metadata=facts(unit="K=V"))
    """Settings of the data set."""
    layout: Literal["auto", "class", "domain", "split"] = "auto"
    """First folder level: auto, class, domain or split."""
    class_names: Path | None = field(default=None, metadata=facts(unit="FILE"))
    """Display names of classes."""
    group_column: str | None = field(default=None, metadata=facts(unit="COLUMN"))
    """Column of groups that no split divides."""
    sheet: Path | None = field(default=None, metadata=facts(unit="FILE", unset="no picture"))
    """Contact sheet to write: random images of each class. .png, .jpg or .webp."""
    seed: int = field(default=0, metadata=facts(unit="SEED", at_least=0))
    """Seed of these images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sheet is not None and self.sheet.suffix.lower() not in SHEET_SUFFIXES:
            raise UserError(f"--sheet: {self.sheet} must end in {', '.join(SHEET_SUFFIXES)}")

    def source_options(self) -> DataOptions:
        """Return the options that name the data set."""
        return DataOptions(
            data=self.data,
            data_root=self.data_root,
            data_options=self.data_options,
            layout=self.layout,
            class_names=self.class_names,
            group_column=self.group_column,
        )


@dataclass(frozen=True)
class PrepareConfig:
    """Unpack the archives of a published set in the layout of its authors, and verify the counts."""

    name: str = field(metadata=facts(positional=True))
    """Name in `clipalign list data`."""
    archive: tuple[Path, ...] = field(default=(), metadata=facts(unit="FILE"))
    """Archives as downloaded (tar, zip). Other files, such as CoOp's split file, are copied next to the images."""
    root: Path = field(default=Path("data"), metadata=facts(unit="DIR"))
    """Folder of published sets, the later --data-root."""
    exclude: Path | None = field(default=None, metadata=facts(unit="FILE"))
    """Text file of images to leave out. For example DomainBed's list of duplicates in DomainNet."""

    def __post_init__(self) -> None:
        if not self.archive:
            raise UserError("data prepare needs --archive FILE [FILE ...]")


@dataclass(frozen=True)
class PredictConfig(Options):
    """Classify images among given classes, or those the run was trained on."""

    model: str = field(metadata=facts(positional=True))
    """Run folder, or a backbone as in `clipalign train`."""
    images: tuple[Path, ...] = field(metadata=facts(positional=True))
    """Image files and folders. PNG, JPEG, WebP, GIF, BMP and TIFF; folders are searched at any depth."""
    out: Path | None = field(default=None, metadata=facts(unit="FILE"))
    """.csv or .json file to write instead of a table."""
    overwrite: bool = False
    """Replace the file in --out."""
    classes: tuple[str, ...] | None = field(
        default=None, metadata=facts(unit="NAME", unset="the run's classes")
    )
    """Class names, such as cat "hot dog"."""
    classes_file: Path | None = field(default=None, metadata=facts(unit="FILE"))
    """Text file, one class name per line, instead of --classes."""
    topk: int = field(default=5, metadata=facts(unit="COUNT", at_least=1))
    """Classes to print per image."""
    template: tuple[str, ...] = field(default=(), metadata=facts(unit="TEXT", unset="the run's"))
    """Prompt templates with {}. {} stands for the class name."""
    weights: Literal["model", "last"] = "model"
    """Of a run: model or last. model: those that predictions use; last: those of the last step."""
    cache_dir: str | None = field(default=None, metadata=facts(unit="DIR", unset="Hugging Face cache"))
    """Downloaded weights."""
    device: str = field(default="auto", metadata=facts(unit="DEVICE"))
    """auto, cpu, cuda or cuda:N."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto, fp32, bf16 or fp16. Type of the forward pass."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.images:
            raise UserError("predict needs at least one image file or folder, before the options")
        if self.classes is not None and self.classes_file is not None:
            raise UserError("--classes and --classes-file exclude each other: choose one")
        if self.classes == ():
            raise UserError("--classes needs at least one class name")
        if self.out is not None and self.out.suffix.lower() not in (".csv", ".json"):
            raise UserError(f"--out: {self.out} must end in .csv or .json")
        if self.out is not None and self.out.exists() and not self.overwrite:
            raise UserError(f"--out: {self.out} exists; choose another file, or give --overwrite")


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(Options):
    """Encode images into a folder of feature vectors, in which `clipalign search` finds them by text or image."""

    images: tuple[Path, ...] = field(metadata=facts(positional=True))
    """Image files and folders. PNG, JPEG, WebP, GIF, BMP and TIFF; folders are searched at any depth."""
    model: str = field(metadata=facts(unit="MODEL"))
    """Run folder, or a backbone as in `clipalign train`."""
    out: Path = field(metadata=facts(unit="DIR"))
    """Folder to write. Must be new or empty without --resume or --overwrite."""
    weights: Literal["model", "last"] = "model"
    """Of a run: model or last. model: those that predictions use; last: those of the last step."""
    batch_size: int = field(default=64, metadata=facts(unit="IMAGES", at_least=1))
    """Images per forward pass."""
    resume: bool = False
    """Continue or update the vectors in --out. Only new and changed files are encoded; vectors of files that are not
    given any more are dropped."""
    overwrite: bool = False
    """Replace the vectors in --out."""
    cache_dir: str | None = field(default=None, metadata=facts(unit="DIR", unset="Hugging Face cache"))
    """Downloaded weights."""
    device: str = field(default="auto", metadata=facts(unit="DEVICE"))
    """auto, cpu, cuda or cuda:N."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto, fp32, bf16 or fp16. Type of the forward pass."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.images:
            raise UserError("embed needs at least one image file or folder")
        if self.resume and self.overwrite:
            raise UserError("--resume keeps what --overwrite deletes; give one of them")


@dataclass(frozen=True, kw_only=True)
class SearchConfig(Options):
    """Find the images of `clipalign embed` that are nearest to texts, or to other images."""

    text: tuple[str, ...] = field(default=(), metadata=facts(positional=True))
    """Texts to search for, each by itself. For example "a red bicycle"; they are encoded without a template."""
    vectors: Path = field(metadata=facts(unit="DIR", alias="in"))
    """Folder written by `clipalign embed`."""
    image: tuple[Path, ...] = field(default=(), metadata=facts(unit="FILE"))
    """Images to search for, each by itself."""
    top: int = field(default=10, metadata=facts(unit="COUNT", at_least=1))
    """Images to print per text."""
    sheet: Path | None = field(default=None, metadata=facts(unit="FILE"))
    """PNG file to write, with the images found."""
    json: bool = False
    """Print JSON instead of tables."""
    model: str | None = field(
        default=None, metadata=facts(unit="MODEL", unset="the one that wrote the vectors")
    )
    """Run folder or backbone, if it has moved. Its weights must be those that wrote the vectors."""
    index: Literal["auto", "numpy", "faiss"] = "auto"
    """auto, numpy or faiss. Both are exact; auto: faiss if it is installed (extra [search]). Masked models always use
    numpy."""
    cache_dir: str | None = field(default=None, metadata=facts(unit="DIR", unset="Hugging Face cache"))
    """Downloaded weights."""
    device: str = field(default="auto", metadata=facts(unit="DEVICE"))
    """auto, cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.text and not self.image:
            raise UserError(
                'search needs a text, such as clipalign search "a red bicycle" --in DIR; or --image FILE'
            )
        if any(not text.strip() for text in self.text):
            raise UserError("TEXT: one of the texts is empty; give words")
        if self.sheet is not None and self.sheet.suffix.lower() != ".png":
            raise UserError(f"--sheet: {self.sheet} must end in .png")


@dataclass(frozen=True)
class ExplainConfig(Options):
    """Draw where a model looks on an image and where it finds texts, before and after fine-tuning; or which
    dimensions its masks open for texts (--masks)."""

    model: str = field(metadata=facts(positional=True))
    """Run folder, or a backbone as in `clipalign train`."""
    images: tuple[Path, ...] = field(default=(), metadata=facts(positional=True))
    """Image files and folders, with --text. PNG, JPEG, WebP, GIF, BMP and TIFF; folders are searched at any depth."""
    compare: tuple[str, ...] = field(default=(), metadata=facts(unit="MODEL"))
    """Further runs or backbones, drawn beside the first. The maps of two models are also subtracted. Runs are drawn
    next to the backbone they started from."""
    text: tuple[str, ...] = field(default=(), metadata=facts(unit="TEXT"))
    """Texts to find, such as "a dog" "grass". Rows of the picture. They are encoded without a template; prompt
    learners put their learned context around them, as around class names."""
    structure: tuple[str, ...] = field(
        default=(), metadata=facts(unit="NAME", unset="the run's guide, or dv")
    )
    """Attention structures of the similarity maps: qkv, vvv, dv, qqv, kkv, ... Three of q, k, v: softmax(XY)Z; or d
    and one of them: identity attention."""
    layers: tuple[int, ...] = field(
        default=(), metadata=facts(unit="LAYER", unset="those the run aligns, and the last half")
    )
    """Layers of all maps, from 0; negative: from the end. Attention is averaged over them, and similarity maps have
    the structure in them."""
    heads: tuple[int, ...] = field(default=(), metadata=facts(unit="HEAD", unset="all"))
    """Attention heads of all maps, from 0; negative: from the end."""
    rollout: bool = False
    """Draw the attention rollout too. It multiplies the attention of all layers (Abnar and Zuidema, 2020)."""
    redundancy_removal: bool = False
    """Subtract from each similarity what all texts share. As CLIP Surgery; needs at least two texts."""
    view: Literal["whole", "centre"] = "whole"
    """Part of a photo to draw: whole or centre. whole: overlapping windows cover it, and a frame marks what
    predictions see; centre: only that part."""
    html: bool = False
    """Write a page too, explain.html. It has a slider between two models, and pickers of image, text, structure and
    layer; it works offline."""
    masks: tuple[str, ...] = field(default=(), metadata=facts(unit="TEXT"))
    """Texts whose masks are drawn. A mask is the set of dimensions that a text opens; their overlap is drawn too. For
    methods with masks, such as smartclip."""
    disentanglement: bool = False
    """Measure disentanglement on Pictograms. Compares masks of related and unrelated concepts, and unions and
    intersections of masks with the masks of joined texts."""
    out: Path = field(default=Path("clipalign-explain"), metadata=facts(unit="DIR"))
    """Folder to write. Gets explain.png and maps.npz, in a folder per image if there are several; explain.html;
    masks.png and masks.json; disentanglement.json. Must be new or empty without --overwrite."""
    cache_dir: str | None = field(default=None, metadata=facts(unit="DIR", unset="Hugging Face cache"))
    """Downloaded weights."""
    device: str = field(default="auto", metadata=facts(unit="DEVICE"))
    """auto, cpu, cuda or cuda:N."""
    overwrite: bool = False
    """Replace the files in --out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, texts in (("--text", self.text), ("--masks", self.masks)):
            for i, text in enumerate(texts):
                if not text.strip():
                    raise UserError(f"{name}: text number {i + 1} is empty; give words, or leave it out")
        if not self.text and (self.images or not (self.masks or self.disentanglement)):
            raise UserError('--text: give at least one text to look for, such as --text "a dog"')
        if self.text and not self.images:
            raise UserError("explain needs an image file to look for --text in; give it after the model")
        if self.redundancy_removal and len(dict.fromkeys(self.text)) < 2:
            raise UserError("--redundancy-removal subtracts what all texts share; give at least two --text")


@dataclass(frozen=True)
class AppConfig(Options):
    """Serve a page to try models on photos: answers, maps, weights between zero-shot and fine-tuned, masks of texts."""

    models: tuple[str, ...] = field(default=("pocket",), metadata=facts(positional=True))
    """Run folders, or backbones as in `clipalign train`. Shown side by side, each run after the backbone it started
    from."""
    host: str = field(default="127.0.0.1", metadata=facts(unit="ADDRESS"))
    """Address to listen on. 127.0.0.1: only this machine; 0.0.0.0: everybody who can reach this machine, without a
    password."""
    port: int = field(default=7860, metadata=facts(unit="PORT", at_least=0, at_most=65535))
    """Port to listen on; 0: any free one."""
    cache_dir: str | None = field(default=None, metadata=facts(unit="DIR", unset="Hugging Face cache"))
    """Downloaded weights."""
    device: str = field(default="auto", metadata=facts(unit="DEVICE"))
    """auto, cpu, cuda or cuda:N."""


@dataclass(frozen=True)
class ExportConfig(Options):
    """Write a model in the format of another library, load it again with that library, and compare features."""

    model: str = field(metadata=facts(positional=True))
    """Run folder, or a backbone as in `clipalign train`."""
    out: Path = field(metadata=facts(unit="DIR"))
    """Folder to write. Must be new or empty without --overwrite; it appears complete or not at all."""
    to: str = field(default="open_clip", metadata=facts(unit="FORMAT"))
    """open_clip, hf, hf-text, safetensors or onnx. open_clip: checkpoint and configuration; hf: CLIPModel
    with processor (extra [hf]); hf-text: text tower as CLIPTextModel with tokenizer, for text-to-image
    pipelines (extra [hf]); safetensors: every tensor by name; onnx: image and text tower (extra [onnx]).
    Other packages may add formats."""
    classes_file: Path | None = field(default=None, metadata=facts(unit="FILE", unset="the run's classes"))
    """Class names of the classifier, one per line."""
    template: tuple[str, ...] = field(default=(), metadata=facts(unit="TEXT", unset="the run's"))
    """Prompt templates with {}. {} stands for the class name."""
    weights: Literal["model", "last"] = "model"
    """Of a run: model or last. model: those that predictions use, averaged if the method averages; last: those of
    the last step."""
    towers_only: bool = False
    """Export the towers without a classifier. For methods whose predictions need more than the two towers."""
    cache_dir: str | None = field(default=None, metadata=facts(unit="DIR", unset="Hugging Face cache"))
    """Downloaded weights."""
    overwrite: bool = False
    """Replace an earlier export in --out."""


@dataclass(frozen=True)
class ReportConfig(Options):
    """Write tables, curves and pictures of all runs in a folder."""

    folder: Path = field(metadata=facts(positional=True))
    """Folder that holds runs, at any depth."""
    out: Path | None = field(default=None, metadata=facts(unit="DIR", unset="FOLDER/report"))
    """Folder of the report. Gets report.md, report.html, tables.csv, differences.csv, classes.csv and pictures. Must be
    new or empty without --overwrite."""
    baseline: str | None = field(default=None, metadata=facts(unit="NAME", unset="erm, or zeroshot"))
    """Method or table row that others are compared with."""
    title: str = field(default="Fine-tuning report", metadata=facts(unit="TEXT"))
    """First heading."""
    pictures: int = field(default=6, metadata=facts(unit="COUNT", at_least=0))
    """Test images with maps; 0: none. Each is drawn before and after training, and as many that changed from right to
    wrong and back; 0 opens no model."""
    sharpness: tuple[float, ...] = field(
        default=(), metadata=facts(unit="FACTOR", unset="1 and the released code's")
    )
    """Factors on class similarities in the heat map."""
    overwrite: bool = False
    """Replace the report in --out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if reject := [value for value in self.sharpness if not 0 <= value <= MAX_SHARPNESS]:
            raise UserError(f"--sharpness: {reject[0]} must be between 0 and {MAX_SHARPNESS:g}")


@dataclass(frozen=True)
class ListConfig:
    """Print the names of methods, data sets, backbones, protocols, metrics, export formats or trackers."""

    what: Literal["methods", "data", "backbones", "protocols", "metrics", "exports", "trackers"] = field(
        metadata=facts(positional=True)
    )
    """Kind of names."""
    json: bool = False
    """Print a JSON list of objects with name, summary and further facts."""


@dataclass(frozen=True)
class CompletionConfig:
    """Print a completion script for a shell. Try: source <(clipalign completion bash)"""

    shell: Literal["bash", "zsh", "fish"] = field(metadata=facts(positional=True))
    """bash, zsh or fish."""
