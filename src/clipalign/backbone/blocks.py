"""Transformer image towers, computed block by block, from the parts that open_clip's and timm's ViTs have in common.

The second path ("guide") follows CLIP Surgery as AlignCLIP uses it: in the last `dual_blocks` blocks, an attention of
another structure runs beside the original one. It reads the first LayerNorm of the *original* path, has no MLP by
default, and its outputs are added to the tokens that entered the first dual block:

    x_n = x at the first dual block + sum over dual blocks of W_O . structured(q, k, v) + b_O

followed by the tower's last LayerNorm and projection. Queries, keys and values are those of the original path, so the
identity structure costs one output projection per block.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .attention import class_attention_row, class_scores, structured
from .dense import DenseFeatures, DenseOptions
from .hooks import Hooks, before
from .trace import Trace


class Parts(Protocol):
    """The steps of a ViT. Tokens are [B, N, W], the class token first if there is one, then the patches.

    Attributes:
        blocks: the transformer blocks.
        save_memory: whether gradient checkpointing is enabled.
    """

    @property
    def blocks(self) -> Sequence[Any]: ...

    @property
    def save_memory(self) -> bool: ...

    def embed(self, images: Tensor, hooks: Hooks) -> tuple[Tensor, int]:
        """Return the tokens that enter block 0, and the number of patches M."""
        ...

    def run(self, block: Any, x: Tensor) -> Tensor:
        """Run a block as the library does, with gradient checkpointing if enabled."""
        ...

    def run_with_heads(self, block: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return a block's output [B, N, W] and its queries, keys and values, each [B, H, N, W/H]."""
        ...

    def attention_output(self, block: Any, attended: Tensor) -> Tensor:
        """Return what a block adds to its input, given its merged heads: [B, N, W] -> [B, N, W]."""
        ...

    def mlp_output(self, block: Any, x: Tensor) -> Tensor:
        """Return what a block's MLP adds: [B, N, W] -> [B, N, W]."""
        ...

    def project(self, x: Tensor) -> Tensor:
        """Apply the last LayerNorm and the projection: [..., W] -> [..., d]."""
        ...


def run_blocks(parts: Parts, images: Tensor, hooks: Hooks) -> tuple[Tensor, int]:
    """Return the tokens after the last block, [B, N, W], and M."""
    x, patches = parts.embed(images, hooks)
    for i, block in enumerate(parts.blocks):
        x = parts.run(block, before(hooks.vision, i, x))
        if hooks.tap is not None:
            hooks.tap("vision", i, x)
    return x, patches


def encode_class_token(parts: Parts, images: Tensor, hooks: Hooks) -> Tensor:
    """Return image features read from the class token: [B, 3, H, W] -> [B, d]."""
    return parts.project(run_blocks(parts, images, hooks)[0][:, 0])


def dense_class_token(parts: Parts, images: Tensor, options: DenseOptions, hooks: Hooks) -> DenseFeatures:
    """Compute `Backbone.dense` in one pass through a tower that reads its class token."""
    x, patches = parts.embed(images, hooks)
    blocks = parts.blocks
    first_dual = len(blocks) - options.dual_blocks if options.guide else len(blocks)
    save_memory = parts.save_memory and torch.is_grad_enabled()
    attention: dict[int, Tensor] = {}  # layer -> [B, M]
    second: Tensor | None = None  # tokens of the second path

    for i, block in enumerate(blocks):
        x = before(hooks.vision, i, x)
        if i == first_dual:
            second = x[:, 1 : 1 + patches]  # [B, M, W], without class token and prompts
        if i not in options.attention_layers and i < first_dual:
            x = parts.run(block, x)
        else:
            if save_memory:
                x, q, k, v = checkpoint(parts.run_with_heads, block, x, use_reentrant=False)
            else:
                x, q, k, v = parts.run_with_heads(block, x)
            if i in options.attention_layers:
                scores = class_scores(q, k)[..., : 1 + patches]  # [B, H, 1 + M], without prompts
                attention[i] = class_attention_row(scores, options.attention_over)
            if second is not None:
                assert options.guide is not None
                with torch.no_grad() if options.detach_guide else nullcontext():
                    second = _second_path(parts, block, second, (q, k, v), options.guide, options.keep_mlp)
        if hooks.tap is not None:
            hooks.tap("vision", i, x)

    features = parts.project(x[:, : 1 + patches])  # [B, 1 + M, d]
    guide = None
    if second is not None:
        with torch.no_grad() if options.detach_guide else nullcontext():
            guide = parts.project(second)  # [B, M, d]
    layers = [attention[i] for i in options.attention_layers]
    return DenseFeatures(
        image=features[:, 0],
        patches=features[:, 1:],
        cls_attention=torch.stack(layers) if layers else x.new_zeros((0, len(x), patches)),  # [L, B, M]
        guide=guide,
    )


def trace_class_token(parts: Parts, images: Tensor, hooks: Hooks) -> Trace:
    """Compute `Backbone.trace` in one pass through a tower that reads its class token."""
    x, patches = parts.embed(images, hooks)
    entering, projected = [], []  # per block: patch tokens [B, M, W]; queries, keys and values
    for i, block in enumerate(parts.blocks):
        x = before(hooks.vision, i, x)
        entering.append(x[:, 1 : 1 + patches])
        x, q, k, v = parts.run_with_heads(block, x)
        projected.append((q, k, v))
        if hooks.tap is not None:
            hooks.tap("vision", i, x)

    def second_path(
        structure: str, layers: Sequence[int], heads: Sequence[int] | None, keep_mlp: bool
    ) -> Tensor:
        second = entering[layers[0]]  # [B, M, W]
        for i in layers:
            second = _second_path(parts, parts.blocks[i], second, projected[i], structure, keep_mlp, heads)
        return parts.project(second)  # [B, M, d]

    features = parts.project(x[:, : 1 + patches])  # [B, 1 + M, d]
    return Trace(features[:, 0], features[:, 1:], tuple(projected), second_path)


def _second_path(
    parts: Parts,
    block: Any,
    x: Tensor,
    projected: tuple[Tensor, Tensor, Tensor],
    structure: str,
    keep_mlp: bool,
    heads: Sequence[int] | None = None,
) -> Tensor:
    """Return the patch tokens [B, M, W] of the second path after one block.

    This must run after the original path has used the same weights: autocast caches half-precision copies of weights,
    and a copy made under `no_grad` would cut the gradient of the original path.
    """
    x = x + parts.attention_output(block, structured(*projected, structure, x.shape[1], heads=heads))
    if keep_mlp:
        x = x + parts.mlp_output(block, x)
    return x
