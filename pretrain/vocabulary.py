"""Train embeddings of the words that captions use only: their gradients and optimiser states are dense."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from clipalign.backbone.model import Backbone

from .atlas import Atlas
from .captions import COLUMNS, OPENINGS, ROWS, TEMPLATES
from .restyle import NAMES

WORDS = (
    "a picture. a thing, a thing and a thing. there is a small thing in the top left. a large thing is to the left of "
    "the thing. to the right of above below on at and in. bottom middle centre"
)


class Vocabulary:
    """Order-preserving renumbering of the tokens that occur in training.

    Args:
        atlas: Drawings whose names occur.
        tokenizer: Texts to token ids [n, L], padded with 0.
    """

    def __init__(self, atlas: Atlas, tokenizer: Callable[[list[str]], Tensor]) -> None:
        texts = [*atlas.names, *(name for names in atlas.synonyms.values() for name in names), WORDS]
        texts += [
            f"a {t}." for t in texts
        ]  # tokens do not depend on their neighbours, but punctuation joins words
        texts += [t.format("thing") for t in TEMPLATES] + [o + "a thing" for o in OPENINGS]
        texts += [" ".join((*COLUMNS, *ROWS, *NAMES))]
        used = torch.cat([tokenizer(texts[i : i + 1024]).unique() for i in range(0, len(texts), 1024)])
        self.ids = torch.cat(
            [used, torch.zeros(1, dtype=used.dtype)]
        ).unique()  # sorted: padding first, end last
        self._tokenizer = tokenizer
        self._lookup = torch.full((int(self.ids.max()) + 1,), -1)
        self._lookup[self.ids] = torch.arange(len(self.ids))

    def __call__(self, texts: list[str]) -> Tensor:
        """Tokenise texts to renumbered ids [n, L].

        Raises:
            ValueError: A text holds a word that is not in the vocabulary.
        """
        ids = self._lookup[self._tokenizer(texts)]
        if (ids < 0).any():
            unknown = [texts[i] for i in (ids < 0).any(1).nonzero()[:, 0].tolist()]
            raise ValueError(f"words outside the training vocabulary: {unknown[:3]}")
        return ids

    def shrink(self, backbone: Backbone) -> None:
        """Keep the used embeddings only, and let the backbone tokenise with this vocabulary."""
        embedding = backbone.model.token_embedding
        small = nn.Embedding(len(self.ids), embedding.embedding_dim, device=embedding.weight.device)
        with torch.no_grad():
            small.weight.copy_(embedding.weight[self.ids])
        backbone.model.token_embedding = small
        backbone.tokenizer = self

    def expand(self, weight: Tensor, size: int) -> Tensor:
        """Return the full embedding [size, W]; unused words are zero."""
        full = weight.new_zeros(size, weight.shape[1])
        full[self.ids.to(weight.device)] = weight
        return full
