"""Data sets by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.config import DataOptions
from ..core.errors import UserError
from ..core.types import CaptionSource, Source
from .builtin.pictograms import Pictograms
from .builtin.pictoscenes import Pictoscenes
from .captions.files import (
    captions_alone,
    read_caption_json,
    read_caption_shards,
    read_caption_table,
    shard_captions_alone,
)
from .captions.sets import caption_sets, open_caption_set
from .published.tables import SHIFT, declarations, declared, open_published, open_shift
from .sources.folder import ImageFolder
from .sources.hub import PREFIX, SETTINGS, is_saved, read_hub
from .sources.shards import is_shards, read_shards
from .sources.table import read_names
from .sources.tabular import COLUMNS, SUFFIXES, read_table

# Name -> what `clipalign list data` says of it.
BUILT_IN = {
    "pictograms": "everyday things as five vendors drew them, composed on backgrounds (shipped)",
    "pictoscenes": "scenes of several pictograms with captions whose every truth is known (shipped)",
}


def summaries() -> dict[str, str]:
    """Name for --data -> what it is."""
    published = {
        name: f"{facts.title}, {facts.classes} classes; needs --data-root"
        for name, facts in declarations().items()
    }
    captioned = {
        name: f"{facts.title}: captions; needs --data-root" for name, facts in caption_sets().items()
    }
    shift = {SHIFT: "ImageNet and its variants as domains; needs --data-root"}
    return BUILT_IN | published | shift | captioned


def list_data() -> list[str]:
    """Names for --data."""
    return list(summaries())


def source_from(options: DataOptions, captions: bool = False) -> Source:
    """Open the data set that options name; see `load_source`."""
    return load_source(
        options.data,
        options.data_options,
        root=options.data_root,
        layout=options.layout,
        class_names=options.class_names,
        max_broken=options.max_broken,
        captions=captions,
    )


def name_of(data: str | Path | Source) -> str:
    """Return the value of --data that stands for a data set."""
    return str(data) if isinstance(data, (str, Path)) else data.name


def opened(data: str | Path | Source) -> Source | None:
    """Return a data set that is open already, or None for a name or path."""
    return None if isinstance(data, (str, Path)) else data


def load_source(
    name: str,
    options: Sequence[str] = (),
    *,
    root: str | Path | None = None,
    layout: str = "auto",
    class_names: str | Path | None = None,
    max_broken: float = 0.01,
    captions: bool = False,
) -> Source:
    """Open a data set.

    Args:
        name: one of `list_data()`; a folder of class/image or domain/class/image files; a CSV, TSV or Parquet
            file of path, label[, domain][, split][, caption]; tar shards; "hf:NAME" or a data set saved to disk;
            a JSON list of images with captions.
        options: KEY=VALUE settings: of a built-in set, or the names of a table's columns (label=species).
        root: folder that holds published sets, or that a table's relative paths start from.
        layout: what the first level of a folder is: "class", "domain", "split", or "auto" to look.
        class_names: file that gives classes other names; see `table.read_names`.
        max_broken: largest share of files that may fail to decode and be skipped.
        captions: open it for its captions, as a `captions.CaptionSource`, where it has classes too. Tables and
            shards that have captions and no labels are opened so in any case, and so is JSON.

    Raises:
        UserError: neither a name nor a path, no images, an option the set does not have, no captions.
    """
    source = _open(name, key_values(options), root, layout, class_names, max_broken, captions)
    return checked(source, captions, name)


def checked(source: Source, captions: bool, name: str | None = None) -> Source:
    """Return a data set, or raise UserError if it lacks the captions that are needed."""
    if captions and not isinstance(source, CaptionSource):
        raise UserError(
            f"--data {name or source.name} has no captions to retrieve with; these have: tables with a caption "
            "column, JSON lists, shards with .txt files, pictoscenes, published caption sets (`clipalign list data`)"
        )
    return source


def _open(
    name: str,
    settings: dict[str, Any],
    root: str | Path | None,
    layout: str,
    class_names: str | Path | None,
    max_broken: float,
    captions: bool,
) -> Source:
    if name in BUILT_IN:
        try:
            return Pictograms(**settings) if name == "pictograms" else Pictoscenes(**settings)
        except TypeError as error:
            raise UserError(f"--data-options: {name} does not take them: {error}") from None
    names = read_names(Path(class_names)) if class_names is not None else None
    path, folder = Path(name), Path(root) if root is not None else None
    declaration = declared(name)
    if (declaration is not None or name == SHIFT) and (folder is not None or not path.exists()):
        refuse(settings, ())
        if folder is None:
            raise UserError(f"--data {name} needs --data-root, the folder that holds it")
        if declaration is None:
            return open_shift(folder, names=names, max_broken=max_broken)
        return open_published(declaration, folder, names=names, max_broken=max_broken)
    if name in caption_sets() and (folder is not None or not path.exists()):
        refuse(settings, ())
        if folder is None:
            raise UserError(f"--data {name} needs --data-root, the folder that holds it")
        return open_caption_set(caption_sets()[name], folder, names=names, max_broken=max_broken)
    if path.suffix.lower() in SUFFIXES and path.is_file():
        refuse(settings, COLUMNS)
        columns = {field: str(column) for field, column in settings.items()}
        if captions or captions_alone(path, columns):
            return read_caption_table(path, root=folder, columns=columns, names=names, max_broken=max_broken)
        return read_table(path, root=folder, columns=columns, names=names, max_broken=max_broken)
    if path.suffix.lower() == ".json" and path.is_file():
        refuse(settings, ())
        return read_caption_json(path, root=folder, names=names, max_broken=max_broken)
    if name.startswith(PREFIX) or is_saved(path):
        refuse(settings, SETTINGS)
        return read_hub(name, settings=settings, names=names, max_broken=max_broken)
    if is_shards(name):
        refuse(settings, ())
        if captions or shard_captions_alone(name):
            return read_caption_shards(name, names=names, max_broken=max_broken)
        return read_shards(name, names=names, max_broken=max_broken)
    if path.is_dir():
        refuse(settings, ())
        return ImageFolder(path, layout, names, max_broken)  # type: ignore[arg-type]
    near = difflib.get_close_matches(name, list_data(), n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UserError(
        f'--data: "{name}" is neither a folder, a table (.csv, .tsv, .parquet, .json) nor a name of '
        f"`clipalign list data`{hint}"
    )


def refuse(settings: Mapping[str, Any], known: Sequence[str] | Mapping[str, Any]) -> None:
    """Raise UserError for a setting that the data set does not have."""
    for key in settings:
        if key not in known:
            takes = f"takes {', '.join(known)}" if known else "has none"
            raise UserError(f"--data-options: no setting {key}; a data set of this kind {takes}")


def key_values(options: Sequence[str]) -> dict[str, Any]:
    """("background_bias=0.5",) -> {"background_bias": 0.5}; numbers are read as such."""
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
