"""Precision of the forward pass. Weights, optimiser updates and weight averages stay float32.

The exception is "released-fp16", which reproduces the rounding of the code released for CLIPood and AlignCLIP. That
code keeps the weights of convolutions and linear layers in float16, casts weights and gradients to float32 for the
optimiser step, and casts the weights back. No float32 copy survives the step, so updates smaller than half the
spacing of float16 values (7.6e-6 for weights between 1/64 and 1/32) are lost; see docs/precision.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .errors import UserError

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "released-fp16": torch.float16}
PROJECTIONS = ("in_proj_weight", "in_proj_bias", "q_proj_weight", "k_proj_weight", "v_proj_weight", "proj")


def select_device(name: str) -> torch.device:
    """Return the device for "auto", "cpu", "cuda" or "cuda:N"; "auto" prefers a GPU.

    Raises:
        UserError: the name is unknown, or there is no such GPU.
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
            f'--device: no "{name}" on this machine ({torch.cuda.device_count()} GPUs); try --device cpu'
        )
    return device


class Precision:
    """Autocast and loss scaling of a run.

    Args:
        name: "fp32", "bf16", "fp16", "released-fp16" or "auto". "auto" is fp32 on a CPU, where emulated bf16 can be
            tens of times slower; on a GPU it is bf16 if the hardware supports it, else fp16. "released-fp16"
            computes in fp32 on a CPU, and uses no loss scaling on a GPU.
        device: device of the model.

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
        # Unscaled fp16 gradients of a converged model underflow; other types do not need scaling.
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of a forward pass."""
        if self.name == "fp32" or (self.name == "released-fp16" and self.device.type == "cpu"):
            return nullcontext()
        if self.device.type == "cpu":
            return _cpu_autocast(TYPES[self.name])
        return torch.autocast(self.device.type, TYPES[self.name])

    def half_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """Return the trained weights to round to float16 after each step; empty unless "released-fp16"."""
        return [p for p in half_weights(model) if p.requires_grad] if self.name == "released-fp16" else []


@contextmanager
def _cpu_autocast(dtype: torch.dtype) -> Iterator[None]:
    # The backward pass of the CPU's flash attention takes 40 % of a bfloat16 step with 145 tokens; matrix products,
    # for which AMX has instructions, make the step 1.3 times faster (docs/precision.md).
    with torch.autocast("cpu", dtype), sdpa_kernel(SDPBackend.MATH):
        yield


def half_weights(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that CLIP's `convert_weights` casts to float16.

    These are the weights and biases of convolutions, linear layers and attention, and the projections into the joint
    space. Norms, class token, positions and token embeddings stay float32.
    """
    weights: dict[int, nn.Parameter] = {}
    for module in model.modules():
        names: Iterable[str] = (*PROJECTIONS, "text_projection")
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            names = ("weight", "bias")
        for name in names:
            if isinstance(value := getattr(module, name, None), nn.Parameter):
                weights[id(value)] = value
    return list(weights.values())


@torch.no_grad()
def round_to_half(tensors: Iterable[Tensor]) -> None:
    """Round float32 tensors to the nearest float16 values, in place."""
    for tensor in tensors:
        tensor.copy_(tensor.half())
