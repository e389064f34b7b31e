"""Texts to token ids, with a report of what did not fit."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """Token ids and how much of each text they hold.

    Attributes:
        ids: [n, context length] int64.
        lengths: tokens of each text before cutting, start and end token included.
        texts: the texts themselves.
    """

    ids: Tensor
    lengths: tuple[int, ...]
    texts: tuple[str, ...]

    @property
    def num_truncated(self) -> int:
        """How many texts lost tokens at their end."""
        return sum(length > self.ids.shape[1] for length in self.lengths)

    @property
    def tokens_cut(self) -> int:
        """How many tokens the texts lost together."""
        return sum(max(0, length - self.ids.shape[1]) for length in self.lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest text, before cutting."""
        return max(self.lengths, default=0)

    def warn_if_truncated(self) -> None:
        """Warn once per place in the program, naming the longest text: nothing is cut silently."""
        if not self.num_truncated:
            return
        text = self.texts[self.lengths.index(self.longest)]
        warnings.warn(
            f"{self.num_truncated} of {len(self.lengths)} texts have more than {self.ids.shape[1]} tokens "
            f'and were cut; the longest has {self.longest}: "{text[:60]}..."',
            stacklevel=3,
        )


def tokenize(tokenizer: Any, texts: Sequence[str]) -> Tokens:
    """Token ids of texts, by an open_clip tokenizer."""
    texts = tuple(texts)
    ids = tokenizer(list(texts))
    # Up to the last id that is not padding: 0 is also the id of "!" inside a word.
    lengths = (ids.shape[1] - (ids != 0).flip(1).int().argmax(dim=1)).tolist()
    for i, text in enumerate(texts):
        # Only a full row can have lost something; the others need no second pass through the tokenizer.
        if lengths[i] == ids.shape[1]:
            lengths[i] = _count(tokenizer, text, lengths[i])
    return Tokens(ids, tuple(lengths), texts)


def _count(tokenizer: Any, text: str, default: int) -> int:
    """Tokens of one text without a limit, start and end included; `default` where a tokenizer cannot say."""
    if hasattr(tokenizer, "encode"):
        return len(tokenizer.encode(text)) + 2
    inner = getattr(tokenizer, "tokenizer", None)
    if callable(inner):
        clean = getattr(tokenizer, "clean_fn", None)
        return len(inner(clean(text) if callable(clean) else text)["input_ids"])
    return default
