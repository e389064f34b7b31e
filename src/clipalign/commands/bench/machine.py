"""The machine that is measured on, and the memory this process holds of it."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Where the numbers are from."""
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
    return {"machine": name, "threads": torch.get_num_threads(), "torch": str(torch.__version__)}


def cpu_name() -> str:
    """Model name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def resident() -> int:
    """Bytes of memory this process holds now."""
    return _status("VmRSS") or _most()


def peak() -> int:
    """Most bytes held since `forget_peak` (since the start where the system cannot forget)."""
    return _status("VmHWM") or _most()


def forget_peak() -> None:
    """Start anew with `peak`, on Linux and on GPUs."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(name)), 0)


def _most() -> int:
    if os.name != "posix":
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
