"""SmartCLIP's mask network: from the tokens of a caption to the dimensions it speaks about."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MaskKind = Literal["hard", "soft"]


def soft_mask(logits: Tensor) -> Tensor:
    """s = sigmoid(logits), in (0, 1)."""
    return logits.sigmoid()


def hard_mask(logits: Tensor) -> Tensor:
    """m = 1[s >= 0.5], whose gradient is that of s (straight-through)."""
    soft = logits.sigmoid()
    # The difference is exactly 0, so that the value is exactly 0 or 1.
    return (soft >= 0.5).to(soft.dtype) + (soft - soft.detach())


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x), the activation of OpenAI's CLIP."""
    return x * torch.sigmoid(1.702 * x)


class MaskNetwork(nn.Module):
    """One transformer block over a caption's tokens, and attention pooling: a logit per dimension.

    A pre-norm block as in CLIP's text tower, but every token sees every other; then a score per token, a softmax
    over tokens, and the weighted sum of tokens. Its input is detached: the text tower learns from the contrastive
    loss alone. Where text width and joint size differ, a linear layer follows.

    Tokens behind the end token are left out, of attention and of pooling. (The released code runs them along, so
    that a mask depends on how far captions are padded. Here it does not, and short captions cost less.)

    Args:
        width: W of the text tower.
        heads: attention heads; the text tower's.
        embed_dim: D of the joint space.
    """

    def __init__(self, width: int, heads: int, embed_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1 = nn.LayerNorm(width)
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)
        self.ln_2 = nn.LayerNorm(width)
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)
        self.score = nn.Linear(width, 1)
        self.projection = nn.Identity() if width == embed_dim else nn.Linear(width, embed_dim)
        self.initialise()

    def initialise(self) -> None:
        """As CLIP's text blocks, of a transformer of one layer."""
        width = self.out_proj.in_features
        out = width**-0.5 * 2**-0.5
        stds = {
            self.in_proj: width**-0.5,
            self.out_proj: out,
            self.c_fc: (2 * width) ** -0.5,
            self.c_proj: out,
            self.score: width**-0.5,
        }
        for layer, std in stds.items():
            nn.init.normal_(layer.weight, std=std)
        for layer in (self.in_proj, self.out_proj, self.score):
            nn.init.zeros_(layer.bias)
        if isinstance(self.projection, nn.Linear):
            nn.init.normal_(self.projection.weight, std=width**-0.5)
            nn.init.zeros_(self.projection.bias)

    def forward(self, states: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Mask logits.

        Args:
            states: [B, L, W], the text tower's tokens after its final layer norm.
            lengths: [B] tokens of each caption, end token included; None if all L count.

        Returns:
            [B, D].
        """
        x = states.detach()
        seen = None
        if lengths is not None:
            seen = torch.arange(x.shape[1], device=x.device) < lengths.to(x.device).unsqueeze(1)
        x = x + self.attention(self.ln_1(x), seen)
        x = x + self.c_proj(quick_gelu(self.c_fc(self.ln_2(x))))
        scores = self.score(x).squeeze(-1).float()
        if seen is not None:
            scores = scores.masked_fill(~seen, float("-inf"))
        pooled = (scores.softmax(dim=-1).to(x.dtype).unsqueeze(1) @ x).squeeze(1)
        return self.projection(pooled)

    def attention(self, x: Tensor, seen: Tensor | None) -> Tensor:
        """Self-attention without a causal mask: [B, L, W], [B, L] bool -> [B, L, W]."""
        q, k, v = self.in_proj(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        over = None if seen is None else seen[:, None, None, :]
        return self.out_proj(
            F.scaled_dot_product_attention(q, k, v, attn_mask=over).transpose(1, 2).flatten(2)
        )
