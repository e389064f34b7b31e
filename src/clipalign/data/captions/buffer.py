"""A compact store for millions of captions."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from typing import overload

import numpy as np


class CaptionBuffer(Sequence[tuple[str, ...]]):
    """Row -> its captions, packed into one byte buffer.

    1.2 million long captions need little more memory than their characters, and worker processes share the pages.
    """

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("q", [0])
        self._rows = array("q")
        self._order: np.ndarray | None = None  # [captions], sorted by row; None: out of date
        self._starts = np.zeros(1, np.int64)  # [rows + 1], of each row in `_order`

    def add(self, row: int, text: str) -> None:
        """Append one caption of a row.

        Raises:
            UnicodeEncodeError: the text was not UTF-8 in its file.
        """
        self._bytes += text.encode("utf-8")
        self._ends.append(len(self._bytes))
        self._rows.append(row)
        self._order = None

    def __len__(self) -> int:
        self._sort()
        return len(self._starts) - 1

    @overload
    def __getitem__(self, row: int) -> tuple[str, ...]: ...

    @overload
    def __getitem__(self, row: slice) -> list[tuple[str, ...]]: ...

    def __getitem__(self, row: int | slice) -> tuple[str, ...] | list[tuple[str, ...]]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        row %= len(self)
        captions = self._sort()[self._starts[row] : self._starts[row + 1]]
        return tuple(
            self._bytes[self._ends[i] : self._ends[i + 1]].decode("utf-8") for i in captions.tolist()
        )

    def digest(self) -> str:
        """Return the SHA-256 of all captions and of the row that each belongs to."""
        digest = hashlib.sha256(self._bytes)
        for numbers in (self._ends, self._rows):
            digest.update(numbers.tobytes())
        return digest.hexdigest()

    def _sort(self) -> np.ndarray:
        """Return the captions sorted by row; those of one row keep the order of the file."""
        if self._order is None:
            rows = np.frombuffer(self._rows, np.int64) if self._rows else np.zeros(0, np.int64)
            self._order = np.argsort(rows, kind="stable")
            self._starts = np.concatenate([[0], np.cumsum(np.bincount(rows))])
        return self._order
