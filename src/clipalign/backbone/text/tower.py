"""open_clip's causal text tower, from token embeddings to features. W is the token width, L the context length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..hooks import Hooks, before, run_block
from ..towers import Layer, Transformer


@dataclass(frozen=True)
class TextTower:
    """The parts of a causal text tower whose feature is that of the end token.

    No token of a causal tower depends on later ones, so everything after the end token can be cut without changing the
    feature: most prompts need 8 to 25 of 77 positions.
    """

    transformer: Transformer
    token_embedding: nn.Embedding
    positional_embedding: Tensor  # [L, W]
    ln_final: Layer
    projection: nn.Linear | Tensor | None  # [W, d]
    mask: Tensor  # [L, L]
    pool: str
    end_id: int

    def end_positions(self, tokens: Tensor) -> Tensor:
        """Return the position of each end token: ids [C, n] -> [C]."""
        if self.pool == "argmax":  # the end token has the largest id of CLIP's vocabulary
            return tokens.argmax(dim=-1)
        return (tokens == self.end_id).int().argmax(dim=-1)

    def cut(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return ids up to the last end token, on the tower's device, and end positions: [C, n] -> [C, L], [C]."""
        ends = self.end_positions(tokens)
        return tokens[:, : int(ends.max()) + 1].to(self.token_embedding.weight.device), ends

    def embed(self, tokens: Tensor) -> Tensor:
        """Return token embeddings without positions: ids [C, n] -> [C, n, W]."""
        return self.token_embedding(tokens)

    def encode(self, embeddings: Tensor, ends: Tensor, hooks: Hooks) -> Tensor:
        """Return features [C, d] of token embeddings [C, n, W] without positions, with end positions [C]."""
        x = self.run(embeddings, hooks)
        # The norm acts on each token, so only the end tokens need it.
        return self.project(self.ln_final(x[torch.arange(len(x), device=x.device), ends.to(x.device)]))

    def states(self, embeddings: Tensor, ends: Tensor, hooks: Hooks) -> tuple[Tensor, Tensor]:
        """Return `encode` [C, d] and all tokens after the final LayerNorm [C, n, W]."""
        x = self.ln_final(self.run(embeddings, hooks))
        return self.project(x[torch.arange(len(x), device=x.device), ends.to(x.device)]), x

    def run(self, embeddings: Tensor, hooks: Hooks) -> Tensor:
        """Run all blocks: token embeddings [C, n, W] without positions -> [C, n, W], before the final LayerNorm."""
        n = embeddings.shape[1]
        x = embeddings + self.positional_embedding[:n].to(embeddings.dtype)
        mask = self.mask[:n, :n].to(x.dtype)
        for i, block in enumerate(self.transformer.resblocks):
            x = run_block(self.transformer, block, before(hooks.text, i, x), mask)
            if hooks.tap is not None:
                hooks.tap("text", i, x)
        return x

    def project(self, x: Tensor) -> Tensor:
        """Project to the joint space: [..., W] -> [..., d]."""
        if self.projection is None:
            return x
        return self.projection(x) if isinstance(self.projection, nn.Linear) else x @ self.projection


def text_tower(model: Any) -> TextTower | None:
    """Return the text tower of an open_clip `CLIP` or `CustomTextCLIP`, or None if it is of another kind.

    Other kinds (bidirectional, with a class token at the end, pooling the last position, Hugging Face models) are
    encoded by open_clip, at all positions.
    """
    tower = getattr(model, "text", model)
    mask = getattr(tower, "attn_mask", None)
    # The names differ between `CLIP` and the text tower of `CustomTextCLIP`.
    pool = getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))
    if mask is None or pool not in ("argmax", "eos") or getattr(tower, "cls_emb", None) is not None:
        return None
    return TextTower(
        transformer=tower.transformer,
        token_embedding=tower.token_embedding,
        positional_embedding=tower.positional_embedding,
        ln_final=tower.ln_final,
        projection=tower.text_projection,
        mask=mask,
        pool=pool,
        end_id=getattr(tower, "text_eos_id", getattr(tower, "eos_id", -1)),
    )
