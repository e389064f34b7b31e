"""Reference implementations of a ViT's class attention and second path."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipalign.backbone import Backbone


def multihead_attention_rows(backbone: Backbone, images: Tensor) -> list[Tensor]:
    """Return the class token's attention weights as PyTorch computes them, [B, H, N] per block."""
    rows = []

    def record(module: nn.MultiheadAttention, inputs: tuple[Tensor, ...]) -> None:
        _, weights = F.multi_head_attention_forward(
            *(t.transpose(0, 1) for t in inputs[:3]),
            module.embed_dim,
            module.num_heads,
            module.in_proj_weight,
            module.in_proj_bias,
            None,
            None,
            False,
            0.0,
            module.out_proj.weight,
            module.out_proj.bias,
            need_weights=True,
            average_attn_weights=False,
        )
        rows.append(weights[:, :, 0])

    handles = [b.attn.register_forward_pre_hook(record) for b in backbone.model.visual.transformer.resblocks]
    backbone.model.encode_image(images)
    for handle in handles:
        handle.remove()
    return rows


def reference_guide(
    backbone: Backbone, images: Tensor, structure: str, dual_blocks: int, keep_mlp: bool = False
) -> Tensor:
    """Return the second path's patch tokens from full attention matrices, head by head."""
    visual = backbone.model.visual
    x = visual._embeds(images)
    second = None
    for i, block in enumerate(visual.transformer.resblocks):
        normed = block.ln_1(x)
        weight, bias, heads = block.attn.in_proj_weight, block.attn.in_proj_bias, block.attn.num_heads
        width = weight.shape[1]
        size = width // heads
        if i >= len(visual.transformer.resblocks) - dual_blocks:
            second = x if second is None else second
            parts = {
                name: normed @ weight[n * width : (n + 1) * width].T + bias[n * width : (n + 1) * width]
                for n, name in enumerate("qkv")
            }
            outputs = []
            for head in range(heads):
                one = {name: t[..., head * size : (head + 1) * size] for name, t in parts.items()}
                if structure[0] == "d":
                    attention = torch.eye(x.shape[1])
                else:
                    scores = one[structure[0]] @ one[structure[1]].transpose(1, 2) / size**0.5
                    attention = scores.softmax(dim=-1)
                outputs.append(attention @ one[structure[-1]])
            second = second + block.attn.out_proj(torch.cat(outputs, dim=-1))
            if keep_mlp:
                second = second + block.mlp(block.ln_2(second))
        x = block(x)
    assert second is not None
    second = torch.cat([x[:, :1], second[:, 1:]], dim=1)  # the class token of the original path
    return (visual.ln_post(second) @ visual.proj)[:, 1:]
