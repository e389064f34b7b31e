"""Data sets of the Hugging Face hub, by name or saved to disk."""

from __future__ import annotations

import bisect
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from ...core.errors import UserError
from ..decode import ImageFile
from .table import DEFAULTS, PARTS, ImageRecord, ImageTable, TableOptions

logger = logging.getLogger(__name__)

PREFIX = "hf:"
SETTINGS = ("image", "label", "domain", "caption", "config")
LABEL_COLUMNS = ("label", "labels", "class", "category", "fine_label")
CAPTION_COLUMNS = ("caption", "captions", "text")


def is_saved(path: Path) -> bool:
    """Return whether `save_to_disk` of the datasets library wrote this folder."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def read_hub(name: str, *, settings: Mapping[str, Any], options: TableOptions = DEFAULTS) -> ImageTable:
    """Load a data set with the datasets library.

    Its splits become the parts of the source if there are several of train, validation and test.

    Args:
        name: "hf:NAME" for the hub, or a folder.
        settings: names of the columns ("image", "label", "domain", "caption"), if they cannot be guessed; "group" and
            "config".
        options: see `TableOptions`.

    Raises:
        UserError: the library is missing, it cannot load the data set, a column is missing, or an image has no label.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(f'--data {name} needs the datasets library; pip install "clipalign[data]"') from None
    try:
        if name.startswith(PREFIX):
            loaded = datasets.load_dataset(name.removeprefix(PREFIX), settings.get("config"))
        else:
            loaded = datasets.load_from_disk(name)
    # Errors may come from the library, the hub client, the network or the files.
    except Exception as error:
        raise UserError(f"--data {name}: the datasets library cannot load it ({summarise(error)})") from None
    splits = select_splits(name, dict(loaded) if isinstance(loaded, dict) else {"": loaded})
    records: list[ImageRecord] = []
    classes: list[str] | None = None
    columns: dict[str, str] = {}
    for split, data in splits.items():
        columns = find_columns(name, data.features, settings, datasets)
        cells = {field: data[column][:] for field, column in columns.items() if field != "image"}
        labels, classes = label_texts(name, cells["label"], data.features[columns["label"]], classes)
        domains = cells.get("domain") or [""] * len(data)
        if "domain" in columns and isinstance(data.features[columns["domain"]], datasets.ClassLabel):
            domains = data.features[columns["domain"]].int2str(domains)
        captions = cells.get("caption") or [""] * len(data)
        groups = [str(group) for group in cells.get("group") or [""] * len(data)]
        part = PARTS[split.lower()] if len(splits) > 1 else ""
        for i, (label, domain, caption, group) in enumerate(
            zip(labels, domains, captions, groups, strict=True)
        ):
            first = caption[0] if isinstance(caption, list) else caption
            key = f"{split or 'data'}/{i}"
            records.append(ImageRecord(key, label, str(domain or ""), part, str(first or ""), group=group))
    # Undecoded images: bytes or paths, so that broken files are found and reported like any other.
    encoded = [data.cast_column(columns["image"], datasets.Image(decode=False)) for data in splits.values()]
    return ImageTable(
        name.removeprefix(PREFIX).rstrip("/").split("/")[-1],
        records,
        HubFiles(encoded, columns["image"]),
        options,
        labels=classes,
        identity=hashlib.sha256("".join(data._fingerprint for data in splits.values()).encode()).hexdigest(),
    )


@dataclass(frozen=True)
class HubFiles:
    """Row -> encoded image or path, over the splits of a data set in order.

    Attributes:
        splits: data sets of the library, whose images are not decoded.
        column: column of the images.
    """

    splits: Sequence[Any]
    column: str

    def __call__(self, row: int) -> ImageFile:
        ends = list(accumulate(len(split) for split in self.splits))
        number = bisect.bisect_right(ends, row)
        start = ends[number - 1] if number else 0
        stored = self.splits[number][row - start][self.column] or {}
        return stored["bytes"] if stored.get("bytes") is not None else Path(stored.get("path") or "missing")


def select_splits(name: str, splits: dict[str, Any]) -> dict[str, Any]:
    """Return the splits that are train, validation or test and not empty; "" is a data set without splits.

    Raises:
        UserError: there are none.
    """
    kept = {split: data for split, data in splits.items() if not split or split.lower() in PARTS}
    if others := sorted(set(splits) - set(kept)):
        logger.warning(
            "--data %s: ignoring splits other than train, validation, test: %s", name, ", ".join(others)
        )
    if not kept:
        raise UserError(f"--data {name} has no split train, validation or test; it has {', '.join(others)}")
    return {split: data for split, data in kept.items() if len(data)}


def find_columns(name: str, features: Any, settings: Mapping[str, Any], datasets: Any) -> dict[str, str]:
    """Return field -> column: as set by the user, otherwise by type and usual name.

    Raises:
        UserError: a column is missing, or cannot be guessed.
    """
    fields = ("image", "label", "domain", "caption", "group")
    found = {field: str(settings[field]) for field in fields if field in settings}
    if missing := [column for column in found.values() if column not in features]:
        raise UserError(f"--data {name} has no column {missing[0]}; it has {', '.join(features)}")
    images = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    classes = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    guesses = {
        "image": images,
        "label": [c for c in LABEL_COLUMNS if c in features] + [c for c in classes if c != "domain"],
        "domain": [c for c in ("domain",) if c in features],
        "caption": [c for c in CAPTION_COLUMNS if c in features],
    }
    for field, columns in guesses.items():
        if field not in found and columns:
            found[field] = columns[0]
    for field in ("image", "label"):
        if field not in found:
            raise UserError(
                f"--data {name}: cannot tell which column holds the {field}; it has {', '.join(features)}. "
                f"Name the column with --data-options {field}=COLUMN"
            )
    return found


def label_texts(
    name: str, values: Sequence[Any], feature: Any, known: list[str] | None
) -> tuple[list[str], list[str] | None]:
    """Return the label of each image as text, and the ordered class list if the data declare one.

    Args:
        name: of the data set, for messages.
        values: the label column of one split.
        feature: its type in the datasets library.
        known: class list of earlier splits.

    Raises:
        UserError: an image has no label, or the splits declare different classes.
    """
    from datasets import ClassLabel

    if any(value is None or value == -1 for value in values):
        raise UserError(f"--data {name}: some images have no label; set --data-options label=COLUMN")
    if not isinstance(feature, ClassLabel):
        return [str(value) for value in values], known
    if known is not None and known != list(feature.names):
        raise UserError(f"--data {name}: its splits have different classes")
    return [feature.names[value] for value in values], list(feature.names)


def summarise(error: BaseException) -> str:
    """Format an exception in one line of at most 200 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
