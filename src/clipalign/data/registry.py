"""Registries of data sets and file formats, and the functions that open --data with them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.config import DataOptions
from ..core.errors import UserError
from ..core.registry import Registry
from ..core.types import CaptionSource, Source
from .published.declarations import SHIFT, caption_sets, find_image_set, image_sets
from .request import NamedSource, Reader, SourceRequest
from .sources.class_names import read_class_names
from .sources.folder import Layout
from .sources.table import TableOptions

_DATA = __package__

SOURCES: Registry[NamedSource] = Registry(
    "data set",
    "clipalign.sources",
    {
        "pictograms": f"{_DATA}.builtin.pictograms:PICTOGRAMS",
        "pictoscenes": f"{_DATA}.builtin.pictoscenes:PICTOSCENES",
        **dict.fromkeys((*image_sets(), SHIFT, *caption_sets()), f"{_DATA}.published_sets"),
    },
    flag="--data",
)

READERS: Registry[Reader] = Registry(
    "reader",
    "clipalign.readers",
    {
        "table": f"{_DATA}.readers:TABLE",
        "json": f"{_DATA}.readers:JSON",
        "hub": f"{_DATA}.readers:HUB",
        "shards": f"{_DATA}.readers:SHARDS",
        "folder": f"{_DATA}.readers:FOLDER",
    },
)


def list_data() -> list[str]:
    """Return the names that --data takes."""
    return SOURCES.names()


def load_source(
    name: str,
    options: Sequence[str] = (),
    *,
    root: str | Path | None = None,
    layout: Layout = "auto",
    class_names: str | Path | None = None,
    group_column: str | None = None,
    max_broken: float = 0.01,
    captions: bool = False,
    check_names: bool = True,
) -> Source:
    """Open a data set.

    Args:
        name: one of `list_data()`; a folder of class/image or domain/class/image files; a CSV, TSV or Parquet file of
            path, label[, domain][, split][, caption]; tar shards; "hf:NAME" or a folder of the datasets library; a
            JSON list of images with captions.
        options: KEY=VALUE settings of a named set, or names of a table's columns (label=species).
        root: folder that holds published sets, or that a table's relative paths start from.
        layout: meaning of the first level of a folder: "class", "domain", "split", or "auto" to detect it.
        class_names: file that maps labels to class names; see `read_class_names`.
        group_column: column of a table or Hugging Face data set whose values are groups; see `Source.groups`.
        max_broken: largest share of files that may fail to decode; these are skipped.
        captions: open data with classes and captions as a `CaptionSource`. Data without classes always are one.
        check_names: whether to reject class names that a model cannot tell apart.

    Raises:
        UserError: unknown name or path, no images, an unknown setting, or no captions if they are requested.
    """
    names = read_class_names(Path(class_names)) if class_names is not None else None
    request = SourceRequest(
        name,
        key_values(options),
        Path(root) if root is not None else None,
        layout,
        group_column,
        captions,
        TableOptions(names, max_broken, check_names),
    )
    entry = find_entry(request)
    for key in request.settings:
        if key not in entry.settings:
            accepted = ", ".join(entry.settings)
            raise UserError(
                f"--data-options: no setting {key}; this kind of data set "
                + (f"has {accepted}" if accepted else "has none")
            )
    if group_column is not None and not (isinstance(entry, Reader) and entry.grouped and not captions):
        raise UserError(
            f"--group-column: --data {name} has no columns of classes and groups; it needs a table (.csv, .tsv, "
            ".parquet) or a Hugging Face data set"
        )
    if isinstance(entry, NamedSource) and entry.needs_root and request.root is None:
        raise UserError(f"--data {name} needs --data-root, the folder that holds it")
    source = entry.open(request)
    return require_captions(source, name) if captions else source


def source_from(options: DataOptions, captions: bool = False, check_names: bool = True) -> Source:
    """Open the data set that options describe; `captions` and `check_names` as in `load_source`."""
    return load_source(
        options.data,
        options.data_options,
        root=options.data_root,
        layout=options.layout,
        class_names=options.class_names,
        group_column=options.group_column,
        max_broken=options.max_broken,
        captions=captions,
        check_names=check_names,
    )


def name_of(data: str | Path | Source) -> str:
    """Return the value of --data for a data set: the name or path, or the name of an open source."""
    return data.name if isinstance(data, Source) else str(data)


def opened(data: str | Path | Source) -> Source | None:
    """Return a data set that is open already, or None for a name or path."""
    return data if isinstance(data, Source) else None


def require_captions(source: Source, name: str | None = None) -> Source:
    """Return a source that has captions; `name` is its name in the message.

    Raises:
        UserError: it has none.
    """
    if not isinstance(source, CaptionSource):
        raise UserError(
            f"--data {name or source.name} has no captions for retrieval; use a table with a caption column, a JSON "
            "list, shards with .txt files, pictoscenes, or a published caption set (`clipalign list data`)"
        )
    return source


def find_entry(request: SourceRequest) -> NamedSource | Reader:
    """Return the named set or the reader that opens a request.

    A published set may share its name with a local path; without --data-root the path wins.

    Raises:
        UserError: there is none.
    """
    declared = find_image_set(request.data)
    name = request.data
    if name not in SOURCES and declared is not None:
        name = declared.name  # --data OfficeHome means office-home
    if name in SOURCES:
        named = SOURCES.get(name)
        if not (named.needs_root and request.root is None and request.path.exists()):
            return named
    for key in sorted(READERS, key=lambda key: key == "folder"):  # last, since it accepts any folder
        if (reader := READERS.get(key)).accepts(request.data):
            return reader
    near = difflib.get_close_matches(request.data, list_data(), n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UserError(
        f'--data: "{request.data}" is neither a folder, a table (.csv, .tsv, .parquet, .json) nor a name of '
        f"`clipalign list data`{hint}"
    )


def key_values(options: Sequence[str]) -> dict[str, Any]:
    """Parse KEY=VALUE settings; values that look like numbers become numbers.

    >>> key_values(("background_bias=0.5", "backgrounds=aligned"))
    {'background_bias': 0.5, 'backgrounds': 'aligned'}

    Raises:
        UserError: a setting without "=" or without a key.
    """
    values: dict[str, Any] = {}
    for option in options:
        key, equals, text = option.partition("=")
        if not equals or not key:
            raise UserError(f'--data-options: "{option}" is not KEY=VALUE')
        try:
            values[key.replace("-", "_")] = float(text) if "." in text or "e" in text else int(text)
        except ValueError:
            values[key.replace("-", "_")] = text
    return values
