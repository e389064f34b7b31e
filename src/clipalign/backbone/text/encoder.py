"""The text half of `Backbone`: tokens, features, and what prompt learners need of a causal text tower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import UserError
from ..hooks import Hooks
from .prefix import encode_whole, encode_with_prefix, supports_prefix
from .tokens import Tokenizer, Tokens, tokenize
from .tower import TextTower, text_tower


class TextEncoder(nn.Module):
    """Text features of an open_clip model.

    In shapes, C is texts, W the token width of the tower and d the embedding dimension.

    Attributes:
        model: the open_clip model.
        tokenizer: open_clip's tokenizer.
        spec: the name it was loaded by.
        context_length: token positions of the text tower.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer, spec: str) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.spec = spec
        self.context_length: int = model.context_length
        self._hooks = Hooks()
        self._supports_prefix: bool | None = None  # determined on first use

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.model.logit_scale.device

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Tokenise texts; the result reports which of them exceed the context length."""
        return tokenize(self.tokenizer, texts)

    def encode_text(self, texts: Sequence[str] | Tensor) -> Tensor:
        """Return text features, not normalised.

        Causal towers run only up to the last end token, which does not change the result.

        Args:
            texts: C texts (a warning reports truncation), or their token ids [C, n].

        Returns:
            [C, d].
        """
        if isinstance(texts, Tensor):
            ids = texts
        else:
            tokens = self.tokenize(texts)
            tokens.warn_if_truncated()
            ids = tokens.ids
        tower = text_tower(self.model)
        if tower is None:
            if self._hooks.text is not None:
                self._causal_tower()  # raises: open_clip encodes other towers, without hooks
            return self.model.encode_text(ids.to(self.device), normalize=False)  # CoCa's default is True
        ids, ends = tower.cut(ids)
        return tower.encode(tower.embed(ids), ends, self._hooks)

    def text_states(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return text features, and the final state of every token.

        Args:
            tokens: token ids, [B, n].

        Returns:
            Features [B, d], not normalised, and states [B, L, W] after the final LayerNorm, with L up to the last end
            token of the batch. The states of a text after its end token (see `text_lengths`) are those of padding.

        Raises:
            UserError: the text tower is not causal.
        """
        tower = self._causal_tower()
        ids, ends = tower.cut(tokens)
        return tower.states(tower.embed(ids), ends, self._hooks)

    def text_lengths(self, tokens: Tensor) -> Tensor:
        """Return the number of tokens up to and including the end token: ids [B, n] -> [B], on `device`."""
        return (self._causal_tower().end_positions(tokens) + 1).to(self.device)

    def embed_tokens(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return token embeddings, in which prompt learners replace or insert vectors.

        Args:
            tokens: token ids, [C, n].

        Returns:
            Embeddings without positions, [C, L, W], with L up to the last end token, and end positions [C].

        Raises:
            UserError: the text tower is not causal.
        """
        tower = self._causal_tower()
        ids, ends = tower.cut(tokens)
        return tower.embed(ids), ends.to(self.device)

    def encode_with_prefix(self, prefix: Tensor, rest: Tensor, ends: Tensor) -> Tensor:
        """Return features of prompts given as token embeddings: every continuation after every prefix.

        Prefixes run once, not once per continuation, which is several times faster if learned vectors precede class
        names. Text hooks receive the prefixes, and can change nothing else.

        Args:
            prefix: G prefixes, start token first, without positions, [G, P, W].
            rest: C continuations without positions, cut after the last end token, [C, S, W].
            ends: position of each end token in `rest`, [C].

        Returns:
            [G, C, d], not normalised.

        Raises:
            UserError: the text tower is not causal, or P + S exceeds its context length.
        """
        tower = self._causal_tower()
        length = prefix.shape[1] + rest.shape[1]
        if length > self.context_length:
            raise UserError(
                f"prompts of {length} tokens; the context length of this backbone is {self.context_length}"
            )
        if self._supports_prefix is None:
            self._supports_prefix = supports_prefix(tower)
        # Taps expect the output of whole prompts.
        encode = encode_with_prefix if self._supports_prefix and self._hooks.tap is None else encode_whole
        return encode(tower, prefix, rest, ends.to(rest.device), self._hooks)

    @property
    def text_shape(self) -> tuple[int, int]:
        """Number of blocks and token width of the (causal) text tower."""
        tower = self._causal_tower()
        return len(tower.transformer.resblocks), tower.token_embedding.embedding_dim

    @property
    def text_heads(self) -> int:
        """Attention heads per block of the (causal) text tower."""
        return int(self._causal_tower().transformer.resblocks[0].attn.num_heads)

    def _causal_tower(self) -> TextTower:
        if (tower := text_tower(self.model)) is None:
            raise UserError(
                f'backbone "{self.spec}": prompts and text hooks need a causal text tower that reads its end token'
            )
        return tower
