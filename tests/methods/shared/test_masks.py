from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipalign.methods.shared.masks import MaskNetwork, hard_mask, soft_mask


def network(width: int = 16, embed_dim: int = 16) -> MaskNetwork:
    torch.manual_seed(0)
    return MaskNetwork(width, 4, embed_dim)


def reference_logits(net: MaskNetwork, states: Tensor, length: int) -> Tensor:
    """Return the mask logits of one caption, head by head, without its padding."""
    x = states[:length]
    W, H = x.shape[1], net.heads
    y = F.layer_norm(x, (W,), net.ln_1.weight, net.ln_1.bias)
    q, k, v = (y @ net.in_proj.weight.T + net.in_proj.bias).split(W, dim=1)
    heads = []
    for h in range(H):
        part = slice(h * W // H, (h + 1) * W // H)
        weights = (q[:, part] @ k[:, part].T / math.sqrt(W / H)).softmax(dim=1)
        heads.append(weights @ v[:, part])
    x = x + torch.cat(heads, dim=1) @ net.out_proj.weight.T + net.out_proj.bias
    y = F.layer_norm(x, (W,), net.ln_2.weight, net.ln_2.bias) @ net.c_fc.weight.T + net.c_fc.bias
    x = x + (y / (1 + (-1.702 * y).exp())) @ net.c_proj.weight.T + net.c_proj.bias
    weights = (x @ net.score.weight.flatten() + net.score.bias).softmax(dim=0)
    pooled = (weights[:, None] * x).sum(dim=0)
    if isinstance(net.projection, nn.Linear):
        return net.projection.weight @ pooled + net.projection.bias
    return pooled


@pytest.mark.parametrize("embed_dim", [16, 24])
def test_mask_network_equals_block_and_attention_pooling(embed_dim: int) -> None:
    net, lengths = network(16, embed_dim), torch.tensor([7, 3, 1])
    states = torch.randn(3, 7, 16)
    actual = net(states, lengths)
    expected = torch.stack([reference_logits(net, states[i], int(n)) for i, n in enumerate(lengths)])
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net(states)[0], actual[0])
    assert actual.shape == (3, embed_dim)


def test_mask_network_ignores_padding() -> None:
    net, lengths = network(), torch.tensor([4, 2])
    short = torch.randn(2, 4, 16)
    long = torch.cat([short, 100 * torch.randn(2, 5, 16)], dim=1)
    long[1, 2:] = 50.0
    torch.testing.assert_close(net(long, lengths), net(short, lengths))


def test_mask_network_detaches_input_and_trains_every_parameter() -> None:
    net = network(16, 24)
    states = torch.randn(3, 5, 16, requires_grad=True)
    net(states, torch.tensor([5, 4, 2])).square().sum().backward()
    assert states.grad is None
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())


def test_mask_network_is_initialised_like_clip() -> None:
    net = network(256, 256)
    expected = {
        net.in_proj: 256**-0.5,
        net.out_proj: 512**-0.5,
        net.c_fc: 512**-0.5,
        net.c_proj: 512**-0.5,
        net.score: 256**-0.5,
    }
    for layer, std in expected.items():
        assert layer.weight.std().item() == pytest.approx(std, rel=0.15 if layer is net.score else 0.02)
    assert not net.score.bias.any() and isinstance(net.projection, nn.Identity)


def test_hard_mask_is_a_threshold_with_the_gradient_of_the_sigmoid() -> None:
    logits = torch.tensor([-30.0, -0.1, 0.0, 1e-3, 0.7, 30.0], requires_grad=True)
    mask = hard_mask(logits)
    assert mask.tolist() == [0, 0, 1, 1, 1, 1]
    weights = torch.arange(1.0, 7.0)
    (hard,) = torch.autograd.grad((mask * weights).sum(), logits)
    (soft,) = torch.autograd.grad((soft_mask(logits) * weights).sum(), logits)
    assert torch.equal(hard, soft)
