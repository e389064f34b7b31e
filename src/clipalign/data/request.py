"""The value of --data with its options, and the two kinds of entries that turn it into a `Source`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.types import Source
from .sources.folder import Layout
from .sources.table import DEFAULTS, TableOptions

SHIPPED = "ships with clipalign; the licences of its sources are in the package's NOTICE"


@dataclass(frozen=True)
class SourceRequest:
    """A data set to open.

    Attributes:
        data: a name, a path, a pattern of shards, or "hf:NAME".
        settings: parsed KEY=VALUE pairs of --data-options.
        root: folder of published sets, or of a table's relative paths.
        layout: meaning of the first level of a folder.
        group_column: column of groups that no split divides.
        captions: whether to open the captions of data that have classes too.
        table: options of image files.
    """

    data: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    root: Path | None = None
    layout: Layout = "auto"
    group_column: str | None = None
    captions: bool = False
    table: TableOptions = DEFAULTS

    @property
    def path(self) -> Path:
        """`data` as a path."""
        return Path(self.data)


@dataclass(frozen=True)
class NamedSource:
    """A data set with a name, for `--data NAME`.

    Attributes:
        summary: one line for `clipalign list data`.
        open: builds the source.
        title: name in model cards.
        licence: terms of the data, for model cards.
        settings: keys that --data-options may set.
        needs_root: whether the files lie below --data-root.
    """

    summary: str
    open: Callable[[SourceRequest], Source]
    title: str
    licence: str
    settings: tuple[str, ...] = ()
    needs_root: bool = False


@dataclass(frozen=True)
class Reader:
    """A file format, for `--data PATH`.

    Attributes:
        accepts: whether this reader opens the value of --data.
        open: builds the source.
        settings: keys that --data-options may set.
        grouped: whether it reads a column of groups.
    """

    accepts: Callable[[str], bool]
    open: Callable[[SourceRequest], Source]
    settings: tuple[str, ...] = ()
    grouped: bool = False
