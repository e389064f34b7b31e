"""Data sets by name, or from a folder."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from .base import Batch, Preprocess, Source

__all__ = ["Batch", "Preprocess", "Source", "list_data", "load_source"]

# Name -> what `clipalign list data` says of it.
BUILT_IN = {
    "pictograms": "everyday things as five vendors drew them, composed on backgrounds (shipped)",
}


def list_data() -> list[str]:
    """Names for --data."""
    return sorted(BUILT_IN)


def load_source(name: str, options: Sequence[str] = ()) -> Source:
    """Open a data set.

    Args:
        name: one of `list_data()`, or a folder of class/image or domain/class/image files.
        options: KEY=VALUE settings of a built-in set.

    Raises:
        UserError: neither a name nor a folder, a folder without images, an option the set does not have.
    """
    if name == "pictograms":
        from .pictograms import Pictograms

        try:
            return Pictograms(**key_values(options))
        except TypeError as error:
            raise UserError(f"--data-options: {name} does not take them: {error}") from None
    if not Path(name).is_dir():
        near = difflib.get_close_matches(name, BUILT_IN, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(
            f'--data: "{name}" is neither a folder nor a built-in data set ({", ".join(list_data())}){hint}'
        )
    if options:
        raise UserError("--data-options: a folder of images has none")
    from .folder import ImageFolder

    return ImageFolder(Path(name))


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
