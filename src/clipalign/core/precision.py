"""The type of the forward pass. Weights, their updates and their averages stay float32.

The exception is "released-fp16", which rounds as the published loop of CLIPood and AlignCLIP does: that loop
holds the weights of convolutions and linear layers in half, casts weights and gradients to float32 for the
optimiser's step, and casts the weights back. No float32 copy survives a step, so an update below half the
distance between neighbouring half numbers (7.6e-6 for weights from 1/64 to 1/32) is lost. docs/precision.md
shows what that does.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from .errors import UserError

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "released-fp16": torch.float16}
PROJECTIONS = ("in_proj_weight", "in_proj_bias", "q_proj_weight", "k_proj_weight", "v_proj_weight", "proj")


def select_device(name: str) -> torch.device:
    """auto, cpu, cuda or cuda:N as a device that is there.

    Raises:
        UserError: an unknown name, or a GPU that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f'--device: unknown "{name}"; choose auto, cpu, cuda or cuda:N') from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f'--device: "{name}" is not supported; choose auto, cpu, cuda or cuda:N')
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f'--device: there is no "{name}" here ({torch.cuda.device_count()} GPUs); try --device cpu'
        )
    return device


class Precision:
    """Autocast and loss scaling of a run.

    Args:
        name: fp32, bf16, fp16, released-fp16 or auto. auto is fp32 on a CPU, whose bf16 is often emulated and
            tens of times slower, and on a GPU bf16 where the hardware has it, else fp16. released-fp16 runs
            in fp32 on a CPU, with half-valued weights, and has no loss scaling on a GPU.
        device: where the model runs.

    Raises:
        UserError: fp16 on a CPU.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        if name == "auto":
            name = "fp32"
            if device.type == "cuda":
                name = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        if name == "fp16" and device.type == "cpu":
            raise UserError("--precision fp16 needs a GPU; use fp32 on a CPU")
        self.name = name
        self.device = device
        # fp16 gradients of a converged model underflow without a scale; the other types need none.
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    def autocast(self) -> AbstractContextManager[object]:
        """Context of a forward pass."""
        if self.name == "fp32" or (self.name == "released-fp16" and self.device.type == "cpu"):
            return nullcontext()
        return torch.autocast(self.device.type, TYPES[self.name])

    def rounded(self, model: nn.Module) -> list[nn.Parameter]:
        """The trained weights that are rounded to half after each step; none but with released-fp16."""
        return [p for p in half_weights(model) if p.requires_grad] if self.name == "released-fp16" else []


def half_weights(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that CLIP's own loader keeps in half.

    Weights and biases of convolutions and linear layers, attention's among them, and the projections into the
    joint space. Norms, class token, positions and token embeddings stay float32.
    """
    found: dict[int, nn.Parameter] = {}
    for module in model.modules():
        names: Iterable[str] = (*PROJECTIONS, "text_projection")
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            names = ("weight", "bias")
        for name in names:
            if isinstance(value := getattr(module, name, None), nn.Parameter):
                found[id(value)] = value
    return list(found.values())


@torch.no_grad()
def round_to_half(tensors: Iterable[Tensor]) -> None:
    """Replace float32 values by the nearest float16 ones, in place."""
    for tensor in tensors:
        tensor.copy_(tensor.half())
