"""Tokenisation that reports truncation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

Tokenizer = Callable[[list[str]], Tensor]  # texts -> [n, context length] int64, as open_clip's tokenizers


@dataclass(frozen=True)
class Tokens:
    """Token ids, and how much of each text they hold.

    Attributes:
        ids: [n, context length] int64.
        lengths: tokens of each text before truncation, including start and end token.
        texts: the texts.
    """

    ids: Tensor
    lengths: tuple[int, ...]
    texts: tuple[str, ...]

    @property
    def num_truncated(self) -> int:
        """Number of texts that were truncated."""
        return sum(length > self.ids.shape[1] for length in self.lengths)

    @property
    def longest(self) -> int:
        """Number of tokens of the longest text, before truncation."""
        return max(self.lengths, default=0)

    def warn_if_truncated(self) -> None:
        """Warn if texts were truncated, with the longest one; Python shows the warning once per caller."""
        if not self.num_truncated:
            return
        text = self.texts[self.lengths.index(self.longest)]
        warnings.warn(
            f"{self.num_truncated} of {len(self.lengths)} texts have more than {self.ids.shape[1]} tokens "
            f'and were truncated; the longest has {self.longest}: "{text[:60]}..."',
            stacklevel=3,
        )


def tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> Tokens:
    """Tokenise texts with an open_clip tokenizer."""
    texts = tuple(texts)
    ids = tokenizer(list(texts))  # [n, L]
    # Up to the last id that is not padding, since 0 is also the id of "!" inside a word.
    lengths = (ids.shape[1] - (ids != 0).flip(1).int().argmax(dim=1)).tolist()
    for i, text in enumerate(texts):
        # Only a full row can be truncated; the others need no second tokenisation.
        if lengths[i] == ids.shape[1]:
            lengths[i] = _count(tokenizer, text, lengths[i])
    return Tokens(ids, tuple(lengths), texts)


def _count(tokenizer: Tokenizer, text: str, default: int) -> int:
    """Return the number of tokens of a text without a limit, or `default` for an unknown kind of tokenizer."""
    if hasattr(tokenizer, "encode"):  # open_clip's SimpleTokenizer
        return len(tokenizer.encode(text)) + 2
    hf_tokenizer = getattr(tokenizer, "tokenizer", None)
    if callable(hf_tokenizer):
        clean = getattr(tokenizer, "clean_fn", None)
        return len(hf_tokenizer(clean(text) if callable(clean) else text)["input_ids"])
    return default
