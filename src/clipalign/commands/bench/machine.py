"""Name of this machine, and memory of this process."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from pathlib import Path
from typing import TypedDict

import torch


class Machine(TypedDict):
    """Where costs were measured.

    Keys:
        machine: name of the GPU, or of the processor.
        threads: number of threads of PyTorch.
        torch: version of PyTorch.
    """

    machine: str
    threads: int
    torch: str


def machine() -> Machine:
    """Describe this machine."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
    return {"machine": name, "threads": torch.get_num_threads(), "torch": str(torch.__version__)}


def cpu_name() -> str:
    """Return the model name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def resident() -> int:
    """Return the resident memory of this process in bytes; its maximum so far on systems other than Linux."""
    return _status("VmRSS") or _max_resident()


def peak() -> int:
    """Return the maximum of resident memory in bytes since `reset_peak`, or since the start if not on Linux."""
    return _status("VmHWM") or _max_resident()


def reset_peak() -> None:
    """Reset the peaks of resident memory (on Linux) and of GPU memory."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int:
    """Return a field of /proc/self/status in bytes; 0 if there is none."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(name)), 0)


def _max_resident() -> int:
    """Return the maximum of resident memory in bytes; 0 if the system does not tell."""
    if os.name != "posix":
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, others kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
