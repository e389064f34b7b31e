"""Structural types of the open_clip modules that this package computes by itself.

open_clip has no type annotations. The protocols list the attributes that are read and no others, so they also say what
another version of open_clip has to provide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from torch import Tensor, nn

Layer = Callable[[Tensor], Tensor]


class Attention(Protocol):
    """`torch.nn.MultiheadAttention`, or open_clip's own `Attention`. W is the token width.

    It is never called: its forward takes different arguments in each version of open_clip.
    """

    num_heads: int
    in_proj_weight: Tensor  # [3W, W]
    in_proj_bias: Tensor | None  # [3W]
    out_proj: Layer


class Block(Protocol):
    """Pre-norm transformer block: x + ls_1(attn(ln_1(x))), then x + ls_2(mlp(ln_2(x)))."""

    attn: Attention
    ln_1: Layer
    ln_2: Layer
    ls_1: Layer
    ls_2: Layer
    mlp: Layer

    def __call__(self, x: Tensor, *, attn_mask: Tensor | None = None) -> Tensor: ...


class Blocks(Protocol):
    """The module list of a transformer."""

    def __iter__(self) -> Iterator[Block]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Block: ...


class Transformer(Protocol):
    """A stack of blocks; `batch_first` says whether they take [B, N, W] or [N, B, W]."""

    resblocks: Blocks
    batch_first: bool
    grad_checkpointing: bool


class VisionTransformer(Protocol):
    """open_clip's ViT."""

    conv1: Layer  # [B, 3, H, W] -> [B, W, rows, columns]
    class_embedding: Tensor  # [W]
    positional_embedding: Tensor  # [1 + M, W]
    patch_dropout: Layer
    ln_pre: Layer
    transformer: Transformer
    ln_post: Layer
    proj: Tensor  # [W, d]
    grid_size: tuple[int, int]
    attn_pool: nn.Module | None
    pool_type: str


class AttentionPool(Protocol):
    """open_clip's attention pool over the cells of a feature map with C channels."""

    num_heads: int
    positional_embedding: Tensor  # [1 + M, C]
    q_proj: Layer
    k_proj: Layer
    v_proj: Layer
    c_proj: Layer  # [..., C] -> [..., d]

    def __call__(self, x: Tensor) -> Tensor: ...


class ModifiedResNet(Protocol):
    """open_clip's ResNet with an attention pool."""

    stem: Layer
    layer1: Layer
    layer2: Layer
    layer3: Layer
    layer4: Layer
    attnpool: AttentionPool


class TextTransformer(Protocol):
    """open_clip's text tower: a `CLIP` itself, or the module `text` of a `CustomTextCLIP`."""

    token_embedding: nn.Embedding  # [vocabulary, W]
    positional_embedding: nn.Parameter  # [L, W]
    transformer: Transformer
    ln_final: Layer
    text_projection: nn.Linear | nn.Parameter | None  # [W, d]
    attn_mask: Tensor | None  # [L, L], causal; None for a bidirectional tower
    context_length: int

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None: ...


def differs(actual: Tensor, expected: Tensor) -> bool:
    """Return whether two computations of the same features differ by more than rounding."""
    return bool((actual - expected).norm() > 1e-3 * expected.norm())
