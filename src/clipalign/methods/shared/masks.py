"""SmartCLIP's mask network: from the tokens of a caption to the dimensions that the caption describes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MaskKind = Literal["hard", "soft"]


def soft_mask(logits: Tensor) -> Tensor:
    """Return sigmoid(logits), in (0, 1); any shape."""
    return logits.sigmoid()


def hard_mask(logits: Tensor) -> Tensor:
    """Return 1 where sigmoid(logits) >= 0.5, else 0, with the gradient of the sigmoid (straight-through); any shape.

    >>> hard_mask(torch.tensor([-1.0, 0.0, 2.0]))
    tensor([0., 1., 1.])
    """
    soft = logits.sigmoid()
    # (soft - soft.detach()) is exactly 0, so the value is exactly 0 or 1.
    return (soft >= 0.5).to(soft.dtype) + (soft - soft.detach())


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x), the activation of OpenAI's CLIP."""
    return x * torch.sigmoid(1.702 * x)


class MaskNetwork(nn.Module):
    """One transformer block over the tokens of a caption, then attention pooling: one logit per dimension.

    A pre-norm block like those of CLIP's text tower, but without a causal mask; then a score per token, a softmax
    over tokens, and the weighted sum of the tokens. If text width and joint size differ, a linear layer follows. The
    input is detached: only the contrastive loss trains the text tower.

    Padding is masked in attention and pooling. (The released code attends to it, so a mask depends on the length that
    captions are padded to.)

    Args:
        width: W, of the text tower.
        heads: attention heads, as in the text tower.
        embed_dim: D, size of the joint space.

    Source: Xie et al., SmartCLIP, CVPR 2025.
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
        self.init_parameters()

    def init_parameters(self) -> None:
        """Initialise like CLIP's text tower, for a transformer of one layer."""
        width = self.out_proj.in_features
        residual_std = width**-0.5 * 2**-0.5  # CLIP: width^-0.5 (2 layers)^-0.5
        stds = {
            self.in_proj: width**-0.5,
            self.out_proj: residual_std,
            self.c_fc: (2 * width) ** -0.5,
            self.c_proj: residual_std,
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
        """Return mask logits.

        Args:
            states: [B, L, W], token states of the text tower after its final layer norm.
            lengths: [B], tokens per caption with the end token; None if no token is padding.

        Returns:
            [B, D].
        """
        x = states.detach()
        valid = None
        if lengths is not None:
            valid = torch.arange(x.shape[1], device=x.device) < lengths.to(x.device).unsqueeze(1)  # [B, L]
        x = x + self.attention(self.ln_1(x), valid)
        x = x + self.c_proj(quick_gelu(self.c_fc(self.ln_2(x))))
        scores = self.score(x).squeeze(-1).float()  # [B, L]
        if valid is not None:
            scores = scores.masked_fill(~valid, float("-inf"))
        weights = scores.softmax(dim=-1).to(x.dtype).unsqueeze(1)  # [B, 1, L]
        pooled = (weights @ x).squeeze(1)  # [B, W]
        return self.projection(pooled)

    def attention(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Bidirectional self-attention: [B, L, W], and [B, L] bool to mask padding -> [B, L, W]."""
        q, k, v = self.in_proj(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [B, H, L, W/H]
        mask = None if valid is None else valid[:, None, None, :]  # [B, 1, 1, L]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # [B, H, L, W/H]
        return self.out_proj(mixed.transpose(1, 2).flatten(2))
