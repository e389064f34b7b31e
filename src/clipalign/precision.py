"""The type of the forward pass. Weights, their updates and their averages stay float32 throughout."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from .errors import UserError

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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
        name: fp32, bf16, fp16 or auto. auto is fp32 on a CPU, whose bf16 is often emulated and tens of times
            slower, and on a GPU bf16 where the hardware has it, else fp16.
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
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, TYPES[self.name])
