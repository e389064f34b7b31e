"""Files from outside, read in one place: their kind and size are checked, and every failure is one `UserError`."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import yaml

from .errors import UserError

LIMIT = 1 << 30  # bytes of a text file: 1 GiB; longer tables belong in Parquet files or in shards


def check_file(path: Path, where: str = "", limit: int | None = LIMIT) -> None:
    """Refuse what is not a regular file, such as a device or a pipe, and files larger than `limit` bytes.

    Args:
        path: file to be read.
        where: start of the message, such as "--config: ".
        limit: largest size in bytes; None for any.

    Raises:
        UserError: names the file.
    """
    try:
        facts = path.stat()
    except (OSError, ValueError) as error:  # a null byte in a path is a ValueError
        raise UserError(f"{where}cannot read {shown(path)}: {getattr(error, 'strerror', error)}") from None
    if not stat.S_ISREG(facts.st_mode):
        kind = "a folder" if stat.S_ISDIR(facts.st_mode) else "a device or pipe"
        raise UserError(f"{where}cannot read {shown(path)}: it is {kind}, not a file")
    if limit is not None and facts.st_size > limit:
        size, most = facts.st_size / 2**30, limit / 2**30
        raise UserError(
            f"{where}cannot read {shown(path)}: it has {size:.1f} GiB, and the limit is {most:g} GiB"
        )


def read_text(path: Path, where: str = "", encoding: str = "utf-8") -> str:
    """Return the text of a file.

    Raises:
        UserError: it cannot be read, or is not text.
    """
    check_file(path, where)
    try:
        return path.read_text(encoding=encoding)
    except OSError as error:
        raise UserError(f"{where}cannot read {shown(path)}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}{shown(path)} is not UTF-8 text ({error.reason} at byte {error.start})"
        ) from None


def read_json(path: Path, where: str = "", encoding: str = "utf-8") -> Any:
    """Return the content of a JSON file.

    Raises:
        UserError: it cannot be read, is not JSON, or nests too deeply.
    """
    return parse_json(read_text(path, where, encoding), path, where)


def parse_json(text: str, name: str | Path, where: str = "") -> Any:
    """Return the content of JSON text; `name` is that of its file, for messages.

    Raises:
        UserError: it is not JSON, or nests too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise UserError(f"{where}{shown(name)} nests too deeply") from None
    except ValueError as error:
        raise UserError(f"{where}{shown(name)} is not valid JSON: {error}") from None


def load_yaml(path: Path, where: str = "") -> Any:
    """Return the content of a YAML file; tags that would create objects are refused.

    Raises:
        UserError: it cannot be read, is not YAML, or nests too deeply.
    """
    text = read_text(path, where)
    try:
        return yaml.safe_load(text)
    except RecursionError:
        raise UserError(f"{where}{shown(path)} nests too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        raise UserError(f"{where}{shown(path)} is not valid YAML: {' '.join(str(error).split())}") from None


def shown(path: str | Path) -> str:
    """Return a path as a message prints it: on one line, shortened if it is very long."""
    text = str(path)
    if not text.isprintable():
        text = text.encode("unicode_escape", "backslashreplace").decode()
    return text if len(text) <= 300 else f"{text[:300]} ..."
