"""`clipalign predict`: what is on images, among any class names."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Column
from rich.table import Table as RichTable

from ..backbone import load
from ..backbone.text.features import DEFAULT_TEMPLATES, clean_class_names
from ..backbone.text.templates import choose_templates
from ..core.checkpoint import write_text
from ..core.config import PredictConfig
from ..core.errors import UserError
from ..core.precision import Precision, select_device
from ..core.types import Interpolation
from ..data.decode import decode_error, evaluation_view, printable, read_image
from ..data.sources.folder import images_in
from ..engine.setup import preprocess_for
from ..methods import Method
from ..protocols.names_only import NamesOnly
from ..runs.folder import RunFolder, is_run
from ..runs.options import parse_config, to_arguments
from ..runs.run import open_run, zeroshot

BATCH = 64
SHOWN = 10  # files that are named when they are skipped


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image.

    Attributes:
        image: the file.
        classes: names, most probable first.
        probabilities: softmax over all classes given, in the same order.
        error: why there are none, of a file in a folder that is no image.
    """

    image: Path
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str | None = None


def predict(
    model: str | Path, images: Sequence[str | Path], classes: Sequence[str] | None = None, **options: Any
) -> list[Prediction]:
    """Name what is on images.

    Args:
        model: run folder or backbone.
        images: files, and folders of them.
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
    """Predict as the tokens of a command line say, and print a table or write a file."""
    config = parse_config(PredictConfig, arguments, prog)
    predictions = _predict(config, None)
    failed = [prediction for prediction in predictions if prediction.error]
    for prediction in failed[:SHOWN]:
        print(f"skipped {prediction.error}", file=sys.stderr)
    if len(failed) > SHOWN:
        print(f"... and {len(failed) - SHOWN} more files that are no images", file=sys.stderr)
    if config.out is not None:
        config.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(
            config.out, as_json(predictions) if config.out.suffix.lower() == ".json" else as_csv(predictions)
        )
        print(f"{len(predictions) - len(failed)} images named, {len(failed)} skipped: {config.out}")
    else:
        print_table(predictions)
    return predictions


def print_table(predictions: Sequence[Prediction]) -> None:
    """One line per image and class."""
    table = RichTable(Column("image", overflow="fold"), "class", "probability")
    for prediction in predictions:
        for rank, (name, p) in enumerate(zip(prediction.classes, prediction.probabilities, strict=True)):
            table.add_row("" if rank else printable(prediction.image), name, f"{100 * p:.1f} %")
        if prediction.classes:
            table.add_section()
    console = Console()
    if (
        not console.is_terminal
    ):  # a file has no width to keep to, and names cut in two would be of no use there
        console.width = 40 + max(len(cell) for p in predictions for cell in (str(p.image), *p.classes)) * 2
    console.print(table)


def as_csv(predictions: Sequence[Prediction]) -> str:
    """Lines of image, rank from 1, class, probability and error; one per image and class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image", "rank", "class", "probability", "error"))
    for prediction in predictions:
        image = printable(prediction.image)
        if prediction.error:
            writer.writerow((image, "", "", "", prediction.error))
        for rank, (name, p) in enumerate(zip(prediction.classes, prediction.probabilities, strict=True), 1):
            writer.writerow((image, rank, name, f"{p:.6f}", ""))
    return text.getvalue()


def as_json(predictions: Sequence[Prediction]) -> str:
    """A list of objects with the fields of `Prediction`."""
    return json.dumps([{**asdict(p), "image": printable(p.image)} for p in predictions], indent=1) + "\n"


def find_images(paths: Sequence[Path]) -> tuple[list[Path], frozenset[Path]]:
    """All images, and those among them that were named one by one, which have to be sound.

    Raises:
        UserError: a file that is missing or does not decode, a folder without images.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = images_in(path)
            if not inside:
                raise UserError(f"predict: no images in {path}")
            found += inside
        else:
            if decode_error(path):
                read_image(path)  # raises, with the file's name
            found.append(path)
    return found, frozenset(path for path in paths if not path.is_dir())


def _predict(config: PredictConfig, classes: Sequence[str] | None) -> list[Prediction]:
    if classes is None and config.classes_file is not None:
        classes = read_classes(config.classes_file)
    if classes is not None:
        clean_class_names(classes)
    paths, named = find_images(config.images)
    device = select_device(config.device)
    precision = Precision(config.precision, device)
    method, known, templates = _open(config, device)
    names = tuple(classes or known)
    if not names:
        raise UserError("--classes-file is missing: a backbone has no classes of its own")
    classifier = method.classifier(names, templates)
    preprocess = preprocess_for(method.backbone, interpolation_of(config))
    predictions = []
    for start in range(0, len(paths), BATCH):
        sound, views = [], []
        failed: dict[Path, str] = {}
        for path in paths[start : start + BATCH]:
            try:
                views.append(preprocess.normalise(evaluation_view(read_image(path), preprocess)[None]))
                sound.append(path)
            except UserError as error:
                if path in named:
                    raise
                failed[path] = str(error)
        answers = {path: Prediction(path, error=error) for path, error in failed.items()}
        if views:
            with torch.no_grad(), precision.autocast():
                logits = classifier(torch.cat(views).to(device))
            top = logits.float().softmax(dim=1).topk(min(config.topk, len(names)))
            for path, values, indices in zip(sound, *map(torch.Tensor.tolist, top), strict=True):
                answers[path] = Prediction(path, tuple(names[i] for i in indices), tuple(values))
        predictions += [answers[path] for path in paths[start : start + BATCH]]
    return predictions


def interpolation_of(config: PredictConfig) -> Interpolation | None:
    """How a run resized its images; None for a backbone, which has a way of its own."""
    return RunFolder(Path(config.model)).record().get("interpolation") if is_run(config.model) else None


def _open(config: PredictConfig, device: torch.device) -> tuple[Method, tuple[str, ...], tuple[str, ...]]:
    """The model, the classes it was trained on, and the templates."""
    if is_run(config.model):
        run = open_run(config.model, weights=config.weights, device=device, cache_dir=config.cache_dir)
        usual = NamesOnly("", (), (), tuple(run.method.templates))
        return run.method, run.class_names, choose_templates(config.template, usual)
    if Path(config.model).exists():
        raise UserError(f"MODEL: {config.model} is not a run folder (no config.yaml)")
    templates = choose_templates(config.template, NamesOnly("", (), (), DEFAULT_TEMPLATES))
    return zeroshot(load(config.model, device, config.cache_dir), templates), (), templates


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
