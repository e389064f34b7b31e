"""open_clip's causal text tower, from embedded prompts to features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..hooks import Hooks, before, run_block


@dataclass(frozen=True)
class TextTower:
    """The parts of a text tower that reads its end token through a causal mask.

    In such a tower no token sees what comes after it, so everything behind the end token can be cut without
    changing the feature: most prompts need 8 to 25 of 77 positions.
    """

    transformer: Any
    token_embedding: nn.Embedding
    positional_embedding: Tensor
    ln_final: nn.Module
    projection: nn.Linear | Tensor | None
    mask: Tensor
    pool: str
    end_id: int

    def end_positions(self, tokens: Tensor) -> Tensor:
        """[C, n] token ids -> [C] position of the end token (where the feature is read)."""
        if self.pool == "argmax":
            return tokens.argmax(dim=-1)
        return (tokens == self.end_id).int().argmax(dim=-1)

    def embed(self, tokens: Tensor) -> Tensor:
        """[C, n] token ids -> [C, n, W], without positions."""
        return self.token_embedding(tokens)

    def encode(self, embeddings: Tensor, ends: Tensor, hooks: Hooks) -> Tensor:
        """[C, n, W] prompts without positions, [C] end positions -> [C, d]."""
        x = self.run(embeddings, hooks)
        return self.project(self.ln_final(x[torch.arange(len(x), device=x.device), ends.to(x.device)]))

    def states(self, embeddings: Tensor, ends: Tensor, hooks: Hooks) -> tuple[Tensor, Tensor]:
        """`encode`, and every token after the final layer norm: [C, d], [C, n, W]."""
        x = self.ln_final(self.run(embeddings, hooks))
        return self.project(x[torch.arange(len(x), device=x.device), ends.to(x.device)]), x

    def run(self, embeddings: Tensor, hooks: Hooks) -> Tensor:
        """All blocks: [C, n, W] without positions -> [C, n, W] before the final layer norm."""
        n = embeddings.shape[1]
        x = embeddings + self.positional_embedding[:n].to(embeddings.dtype)
        mask = self.mask[:n, :n].to(x.dtype)
        for i, block in enumerate(self.transformer.resblocks):
            x = run_block(self.transformer, block, before(hooks.text, i, x), mask)
            if hooks.tap is not None:
                hooks.tap("text", i, x)
        return x

    def project(self, x: Tensor) -> Tensor:
        """[C, W] -> [C, d]."""
        if self.projection is None:
            return x
        return self.projection(x) if isinstance(self.projection, nn.Linear) else x @ self.projection


def text_tower(model: Any) -> TextTower | None:
    """The text tower of a `CLIP` or `CustomTextCLIP`; None where it is of another kind.

    Other kinds (bidirectional, a class token at the end, pooling of the last position, Hugging Face models)
    are encoded by open_clip itself, all positions.
    """
    tower = getattr(model, "text", model)
    mask = getattr(tower, "attn_mask", None)
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
