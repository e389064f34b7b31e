"""`clipalign predict`: what is on an image, among any class names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Column, Table

from .backbone import load
from .config import PredictConfig
from .data.decode import evaluation_view, read_image
from .errors import UserError
from .methods import Method, get_method
from .options import parse_config, to_arguments
from .precision import Precision, select_device
from .runs import NamesOnly, is_run, names_episode, open_run
from .text import DEFAULT_TEMPLATES, clean_class_names
from .training import preprocess_for

BATCH = 64


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image.

    Attributes:
        image: the file.
        classes: names, most probable first.
        probabilities: softmax over all classes given, in the same order.
    """

    image: Path
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


def predict(
    model: str | Path, images: Sequence[str | Path], classes: Sequence[str] | None = None, **options: Any
) -> list[Prediction]:
    """Name what is on images.

    Args:
        model: run folder or backbone.
        images: files.
        classes: names to choose from; None for those the run was trained on.
        options: those of the command line with underscores.

    Raises:
        UserError: bad input.
    """
    config = parse_config(
        PredictConfig,
        to_arguments(PredictConfig, {"model": model, "images": images, **options}),
        "clipalign predict",
    )
    return _predict(config, classes)


def run_prediction(arguments: Sequence[str], prog: str = "clipalign predict") -> list[Prediction]:
    """Predict as the tokens of a command line say, and print a table."""
    predictions = _predict(parse_config(PredictConfig, arguments, prog), None)
    table = Table(Column("image", overflow="fold"), "class", "probability")
    for prediction in predictions:
        for rank, (name, p) in enumerate(zip(prediction.classes, prediction.probabilities, strict=True)):
            table.add_row("" if rank else str(prediction.image), name, f"{100 * p:.1f} %")
        table.add_section()
    console = Console()
    if (
        not console.is_terminal
    ):  # a file has no width to keep to, and names cut in two would be of no use there
        console.width = 40 + max(len(cell) for p in predictions for cell in (str(p.image), *p.classes)) * 2
    console.print(table)
    return predictions


def _predict(config: PredictConfig, classes: Sequence[str] | None) -> list[Prediction]:
    if classes is None and config.classes_file is not None:
        classes = read_classes(config.classes_file)
    if classes is not None:
        clean_class_names(classes)
    images = [read_image(path) for path in config.images]
    device = select_device(config.device)
    precision = Precision(config.precision, device)
    method, known, templates = _open(config, device)
    names = tuple(classes or known)
    if not names:
        raise UserError("--classes-file is missing: a backbone has no classes of its own")
    classifier = method.classifier(names, templates)
    preprocess = preprocess_for(method.backbone)
    views = [preprocess.normalise(evaluation_view(image, preprocess)[None]) for image in images]
    predictions = []
    for start in range(0, len(views), BATCH):
        with torch.no_grad(), precision.autocast():
            logits = classifier(torch.cat(views[start : start + BATCH]).to(device))
        top = logits.float().softmax(dim=1).topk(min(config.topk, len(names)))
        for path, values, indices in zip(
            config.images[start : start + BATCH], *map(torch.Tensor.tolist, top), strict=True
        ):
            predictions.append(Prediction(path, tuple(names[i] for i in indices), tuple(values)))
    return predictions


def _open(config: PredictConfig, device: torch.device) -> tuple[Method, tuple[str, ...], tuple[str, ...]]:
    """The model, the classes it was trained on, and the templates."""
    if is_run(config.model):
        run = open_run(config.model, weights=config.weights, device=device, cache_dir=config.cache_dir)
        return run.method, run.class_names, config.template or run.method.templates
    if Path(config.model).exists():
        raise UserError(f"MODEL: {config.model} is not a run folder (no config.yaml)")
    templates = config.template or DEFAULT_TEMPLATES
    zeroshot = get_method("zeroshot")()
    zeroshot.setup(
        load(config.model, device, config.cache_dir),
        names_episode(NamesOnly("", (), (), templates)),
        templates,
    )
    return zeroshot, (), templates


def read_classes(path: Path) -> list[str]:
    """Class names of a text file, one a line; blank lines at its end do not count.

    Raises:
        UserError: no such file, no names, an empty or a repeated one.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--classes-file: cannot read {path} ({error})") from None
    if not lines:
        raise UserError(f"--classes-file: {path} holds no class names")
    try:
        clean_class_names(lines)
    except UserError as error:
        raise UserError(f"--classes-file {path}: {error}") from None
    return [line.strip() for line in lines]
