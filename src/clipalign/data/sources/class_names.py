"""Class names of the user's data: read names from a file, and reject names that a model cannot tell apart."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...backbone.text.features import clean_class_names
from ...core.errors import UserError
from ...core.reading import parse_json, read_text
from ..decode import one_line, printable


def read_class_names(path: Path) -> dict[str, str]:
    """Read a file of class names: label -> name.

    The file is JSON ({label: name}), or has one label and name per line, separated by a comma in a .csv, otherwise
    by a tab or the first blank. ImageNet's `classnames.txt` (`n01440764 tench`) is of the last form.

    Raises:
        UserError: the file is unreadable, or a line has no name.
    """
    try:
        text = read_text(path, "--class-names: ", "utf-8-sig")
        if path.suffix.lower() == ".json":
            return {
                str(label): str(name) for label, name in parse_json(text, path, "--class-names: ").items()
            }
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"--class-names: cannot read {path} ({one_line(error)})") from None
    names = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        separator = "," if path.suffix.lower() == ".csv" else "\t" if "\t" in line else " "
        label, _, name = line.partition(separator)
        if not (label.strip() and name.strip()):
            raise UserError(f'--class-names: {path}, line {number}: "{line}" is not a label and a name')
        names[label.strip()] = name.strip()
    return names


def name_classes(
    data: str, labels: Sequence[str], names: Mapping[str, str] | None, check: bool = True
) -> tuple[str, ...]:
    """Map labels to class names; labels without an entry in `names` are used as they are.

    Args:
        data: name of the data set, for messages.
        labels: classes as the data write them.
        names: label -> class name.
        check: whether to reject names that a model cannot use.

    Raises:
        UserError: `names` has none of the labels; two names are the same to a model, or one is empty or not UTF-8.
    """
    if names and not any(label in names for label in labels):
        raise UserError(f'--class-names: the file has none of the classes of {data}, such as "{labels[0]}"')
    found = tuple((names or {}).get(label, label) for label in labels)
    if not check:
        return found
    for name in found:
        if printable(name) != name:
            raise UserError(f'--data {data}: the class name "{printable(name)}" is not UTF-8; rename it')
    try:
        clean_class_names(found)
    except UserError as error:
        raise UserError(f"--data {data}: {error}, or map them with --class-names") from None
    return found


def looks_like_id(name: str) -> bool:
    """Return whether a class name is an identifier without meaning: a number, a WordNet id, a hash.

    >>> [looks_like_id(name) for name in ("n01440764", "class_7", "tench", "747")]
    [True, True, False, True]
    """
    return re.fullmatch(r"[a-z]{0,3}[-_]?\d+|class[-_ ]?\d+|[0-9a-f]{8,}", name, re.IGNORECASE) is not None
