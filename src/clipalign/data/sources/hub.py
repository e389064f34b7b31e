"""Hugging Face data sets, by name or saved to disk, as a table."""

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
from ..decode import File
from .table import PARTS, ImageRecord, ImageTable

logger = logging.getLogger(__name__)

PREFIX = "hf:"
SETTINGS = ("image", "label", "domain", "caption", "config")
LABELS = ("label", "labels", "class", "category", "fine_label")


def is_saved(path: Path) -> bool:
    """Whether a folder is one that `save_to_disk` wrote."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def read_hub(
    name: str,
    *,
    settings: Mapping[str, Any],
    names: Mapping[str, str] | None = None,
    max_broken: float = 0.01,
) -> ImageTable:
    """A data set of the hub, downloaded by its own library, or a folder that the library wrote.

    Its splits are the parts of the data where it has more than one of train, validation and test.

    Args:
        name: "hf:NAME", or a folder.
        settings: columns ("image", "label", "domain", "caption") where they are not the usual ones, and "config".
        names, max_broken: see `ImageTable`.

    Raises:
        UserError: the library is not installed, no such data set, a column missing, images without a label.
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
    # The library raises its own errors, those of the hub's client, of the network and of the files.
    except Exception as error:
        raise UserError(f"--data {name}: the datasets library cannot load it ({one_line(error)})") from None
    members = dict(loaded) if isinstance(loaded, dict) else {"": loaded}
    kept = {key: data for key, data in members.items() if not key or key.lower() in PARTS}
    if left := sorted(set(members) - set(kept)):
        logger.warning("--data %s: splits that are not train, validation or test: %s", name, ", ".join(left))
    if not kept:
        raise UserError(f"--data {name} has no split train, validation or test; it has {', '.join(left)}")
    kept = {key: data for key, data in kept.items() if len(data)}
    rows: list[ImageRecord] = []
    known: list[str] | None = None
    for key, data in kept.items():
        columns = find_columns(name, data.features, settings, datasets)
        read = {field: data[column][:] for field, column in columns.items() if field != "image"}
        labels, known = label_texts(name, read["label"], data.features[columns["label"]], known)
        part = PARTS[key.lower()] if len(kept) > 1 else ""
        domains, captions = (read.get(field) or [""] * len(data) for field in ("domain", "caption"))
        domain_feature: Any = data.features[columns["domain"]] if "domain" in columns else None
        for i, label in enumerate(labels):
            domain = domain_feature.int2str(domains[i]) if hasattr(domain_feature, "int2str") else domains[i]
            caption = captions[i][0] if isinstance(captions[i], list) else captions[i]
            rows.append(
                ImageRecord(f"{key or 'data'}/{i}", label, str(domain or ""), part, str(caption or ""))
            )
    column = columns["image"]
    tables = [data.cast_column(column, datasets.Image(decode=False)) for data in kept.values()]
    short = name.removeprefix(PREFIX).rstrip("/").split("/")[-1]
    identity = hashlib.sha256("".join(data._fingerprint for data in kept.values()).encode()).hexdigest()
    return ImageTable(
        short,
        rows,
        HubFiles(tables, column),
        labels=known,
        names=names,
        max_broken=max_broken,
        identity=identity,
    )


@dataclass(frozen=True)
class HubFiles:
    """Row number -> the bytes of its image, or its file."""

    tables: Sequence[Any]
    column: str

    def __call__(self, row: int) -> File:
        ends = list(accumulate(len(table) for table in self.tables))
        which = bisect.bisect_right(ends, row)
        stored = self.tables[which][row - (ends[which - 1] if which else 0)][self.column] or {}
        return stored["bytes"] if stored.get("bytes") is not None else Path(stored.get("path") or "missing")


def find_columns(name: str, features: Any, settings: Mapping[str, Any], datasets: Any) -> dict[str, str]:
    """Field -> column: as told, or by type and usual name."""
    found = {
        field: str(settings[field]) for field in ("image", "label", "domain", "caption") if field in settings
    }
    if missing := [column for column in found.values() if column not in features]:
        raise UserError(f"--data {name} has no column {missing[0]}; it has {', '.join(features)}")
    images = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    classes = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    guesses = {
        "image": images,
        "label": [c for c in LABELS if c in features] + [c for c in classes if c != "domain"],
        "domain": [c for c in ("domain",) if c in features],
        "caption": [c for c in ("caption", "captions", "text") if c in features],
    }
    for field, columns in guesses.items():
        if field not in found and columns:
            found[field] = columns[0]
    for field in ("image", "label"):
        if field not in found:
            raise UserError(
                f"--data {name} has no column that is surely the {field}; it has {', '.join(features)}. "
                f"Name it: --data-options {field}=COLUMN"
            )
    return found


def label_texts(
    name: str, values: Sequence[Any], feature: Any, known: list[str] | None
) -> tuple[list[str], list[str] | None]:
    """Labels as text, and all of them in order where the data say so."""
    names = getattr(feature, "names", None)
    if any(value is None or value == -1 for value in values):
        raise UserError(
            f"--data {name}: some images have no label; choose another --data-options label=COLUMN"
        )
    if names is None:
        return [str(value) for value in values], known
    if known is not None and known != list(names):
        raise UserError(f"--data {name}: its splits have different classes")
    return [names[value] for value in values], list(names)


def one_line(error: BaseException) -> str:
    """An exception in one line of at most 200 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
