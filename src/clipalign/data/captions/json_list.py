"""Read a JSON list of any length, one entry at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...core.errors import UserError
from ...core.reading import check_file
from ..decode import one_line

CHUNK = 1 << 20  # characters read at a time
LARGEST_ENTRY = 1 << 26  # characters; a longer entry is damaged
SEPARATOR = re.compile(r"[\s,]*")


def json_entries(path: Path) -> Iterator[Any]:
    """Yield the entries of a JSON list without holding the list in memory.

    Raises:
        UserError: the file is unreadable or not a list.
    """
    decoder, buffer, position, opened = json.JSONDecoder(), "", 0, False
    check_file(path, "--data: ", limit=None)  # read entry by entry
    try:
        with path.open(encoding="utf-8-sig") as file:
            while more := file.read(CHUNK):
                buffer, position = buffer[position:] + more, 0
                if not opened and not buffer.strip():
                    continue
                if not opened:
                    if not buffer.lstrip().startswith("["):
                        raise ValueError("not a list of entries")
                    opened, position = True, buffer.index("[") + 1
                while True:
                    position += len(SEPARATOR.match(buffer, position)[0])  # type: ignore[index]
                    if buffer[position : position + 1] == "]":
                        return
                    try:
                        entry, position = decoder.raw_decode(buffer, position)
                    except json.JSONDecodeError as error:
                        if len(buffer) - position > LARGEST_ENTRY:
                            raise ValueError(one_line(error)) from None
                        break  # the rest of the entry has not been read
                    yield entry
            raise ValueError("the list has no end")
    except RecursionError:
        raise UserError(f"--data: {path} nests too deeply") from None
    except (OSError, ValueError) as error:
        raise UserError(f"--data: cannot read {path} ({one_line(error)})") from None
