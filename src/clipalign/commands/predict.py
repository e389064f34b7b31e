"""`clipalign predict`: classify images among any class names."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Column
from rich.table import Table as RichTable

from ..backbone.pocket import POCKET_NOTE
from ..backbone.text.features import DEFAULT_TEMPLATES, clean_class_names
from ..backbone.text.templates import choose_templates
from ..core.checkpoint import write_text
from ..core.errors import UserError
from ..core.parsing import make_config, parse_config
from ..core.precision import select_device
from ..core.reading import read_text
from ..data.decode import decode_error, printable, read_image
from ..data.sources.folder import images_in
from ..protocols.names_only import NamesOnly
from ..runs.model import Model, Prediction
from ..runs.opening import open_model
from ..runs.options import is_pocket
from .options import PredictConfig

BATCH = 64  # images per forward pass
LISTED = 10  # skipped files that are named


def predict(
    model: str | Path,
    images: Sequence[str | Path],
    classes: Sequence[str] | None = None,
    *,
    classes_file: str | Path | None = None,
    topk: int = 5,
    template: Sequence[str] = (),
    weights: Literal["model", "last"] = "model",
    cache_dir: str | Path | None = None,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
) -> list[Prediction]:
    """Classify images, as `clipalign predict` does.

    Args:
        model: run folder or backbone.
        images: files and folders.
        classes: class names; None for `classes_file`, or for the classes the run was trained on.

    The keywords are the options of the command line; see `PredictConfig`.

    Raises:
        UserError: invalid input.
    """
    return classify(make_config(PredictConfig, locals()))


def run_prediction(tokens: Sequence[str], prog: str = "clipalign predict") -> list[Prediction]:
    """Classify images as a command line says, and print a table or write a file."""
    config = parse_config(PredictConfig, tokens, prog)
    predictions = classify(config, note=lambda text: print(text, file=sys.stderr))
    failed = [prediction for prediction in predictions if prediction.error]
    for prediction in failed[:LISTED]:
        print(f"skipped {prediction.error}", file=sys.stderr)
    if len(failed) > LISTED:
        print(f"... and {len(failed) - LISTED} more files that are not images", file=sys.stderr)
    if config.out is not None:
        config.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(
            config.out, as_json(predictions) if config.out.suffix.lower() == ".json" else as_csv(predictions)
        )
        print(f"{len(predictions) - len(failed)} images classified, {len(failed)} skipped: {config.out}")
    else:
        print_table(predictions)
    return predictions


def print_table(predictions: Sequence[Prediction]) -> None:
    """Print one line per image and class."""
    table = RichTable(Column("image", overflow="fold"), "class", "probability")
    for prediction in predictions:
        for rank, (name, p) in enumerate(zip(prediction.classes, prediction.probabilities, strict=True)):
            table.add_row("" if rank else printable(prediction.image), name, f"{100 * p:.1f} %")
        if prediction.classes:
            table.add_section()
    console = Console()
    if not console.is_terminal:  # names in a file must not be cut to a terminal's width
        console.width = 40 + max(len(cell) for p in predictions for cell in (str(p.image), *p.classes)) * 2
    console.print(table)


def as_csv(predictions: Sequence[Prediction]) -> str:
    """Return lines of image, rank from 1, class, probability and error; one per image and class."""
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
    """Return a list of objects with the fields of `Prediction`."""
    return json.dumps([{**asdict(p), "image": printable(p.image)} for p in predictions], indent=1) + "\n"


def find_images(paths: Sequence[Path]) -> tuple[list[Path], frozenset[Path]]:
    """Return all images, and those among them that were named one by one, which have to decode.

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


def classify(config: PredictConfig, note: Callable[[str], None] = lambda text: None) -> list[Prediction]:
    """Return the predictions of a model for every image, in order.

    Args:
        config: options.
        note: gets the remark that the shipped backbone does not know photos.
    """
    classes = config.classes
    if classes is None and config.classes_file is not None:
        classes = tuple(read_classes(config.classes_file))
    if classes is not None:
        clean_class_names(classes)
    paths, named = find_images(config.images)
    device = select_device(config.device)
    opened = open_model(config.model, weights=config.weights, device=device, cache_dir=config.cache_dir)
    usual = DEFAULT_TEMPLATES if opened.run is None else tuple(opened.method.templates)
    templates = choose_templates(config.template, NamesOnly("", (), (), usual))
    if is_pocket(opened.method.backbone.spec):
        note(POCKET_NOTE)
    names = tuple(classes or opened.class_names)
    if not names:
        raise UserError("a backbone has no classes; give --classes NAME ... or --classes-file FILE")
    model = Model(opened, config.model, config.precision)
    return model.predict(
        paths,
        names,
        templates=templates,
        topk=config.topk,
        batch_size=BATCH,
        tolerated=frozenset(paths) - named,
    )


def read_classes(path: Path) -> list[str]:
    """Return the class names of a text file, one per line; blank lines at its end are ignored.

    Raises:
        UserError: the file cannot be read, has no names, or has empty or duplicate ones.
    """
    try:
        lines = read_text(path, "--classes-file: ", "utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--classes-file: cannot read {path} ({error})") from None
    if not lines:
        raise UserError(f"--classes-file: {path} holds no class names")
    try:
        clean_class_names(lines)
    except UserError as error:
        raise UserError(f"--classes-file {path}: {error}") from None
    return [line.strip() for line in lines]
