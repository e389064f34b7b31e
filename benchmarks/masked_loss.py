"""Time and memory of SmartCLIP's modular loss: two matrix products against the literal [B, N, D] form.

    python benchmarks/masked_loss.py

Forward and backward pass on B = N random pairs of dimension D. Each form runs in a separate process. Memory is the peak
resident size during the call minus the size before it, after a warm-up call on 8 pairs that triggers torch's lazy
initialisation. Time is the median processor time over calls, which is robust to other load on the machine. A form that
exceeds the free memory is skipped with a message.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from clipalign.commands.bench.machine import peak, reset_peak, resident
from clipalign.losses import masked_contrastive_loss
from clipalign.methods.shared.masks import hard_mask

MIB = 2**20
LITERAL_COPIES = 7  # [B, N, D] float32 tensors held by the literal form at its peak, with some headroom


def literal(image: Tensor, text: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """S[i, j] = 100 <I_i ⊙ m_j, t_j> / ‖I_i ⊙ m_j‖, computed from the [B, N, D] tensor of all masked images."""
    masked = F.normalize(image[:, None, :] * masks[None, :, :], dim=-1)  # [B, N, D]
    scores = 100 * (masked * text[None, :, :]).sum(dim=-1)  # [B, N]
    targets = torch.arange(len(image))
    return F.cross_entropy(scores, targets), F.cross_entropy(scores.T, targets)


FORMS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "products": masked_contrastive_loss,
    "literal": literal,
}


def call(form: str, rows: int, width: int) -> tuple[float, list[float]]:
    """Run one forward and backward pass; return its processor seconds and the two losses."""
    generator = torch.Generator().manual_seed(0)
    image, text, logits = (torch.randn(rows, width, generator=generator).requires_grad_() for _ in range(3))
    began = time.process_time()
    losses = FORMS[form](image, F.normalize(text, dim=-1), hard_mask(logits))
    sum(losses).backward()  # type: ignore[union-attr]
    return time.process_time() - began, [value.item() for value in losses]


def measure(form: str, rows: int, width: int, calls: int, threads: int) -> dict[str, object]:
    """Return median processor seconds per call, and memory in MiB and losses of the first call."""
    torch.set_num_threads(threads)
    call(form, 8, width)
    before = resident()
    reset_peak()
    first, losses = call(form, rows, width)
    memory = (peak() - before) / MIB
    seconds = statistics.median([first, *(call(form, rows, width)[0] for _ in range(calls - 1))])
    return {"seconds": seconds, "memory": memory, "losses": losses}


def measure_in_subprocess(task: dict[str, object]) -> dict[str, object]:
    """Run `measure` in a new interpreter."""
    done = subprocess.run(
        [sys.executable, __file__, "--task", json.dumps(task)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def free_memory() -> float:
    """Return the memory available to a new process in MiB, as estimated by Linux."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--calls", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(measure(**json.loads(options.task))))
        return
    print("| B = N | Form | Forward + backward | Memory | Time ratio | Memory ratio |")
    print("| --: | --- | --: | --: | --: | --: |")
    for rows in options.rows:
        task = {"rows": rows, "width": options.width, "calls": options.calls, "threads": options.threads}
        ours = measure_in_subprocess({"form": "products", **task})
        print(
            f"| {rows} | products | {ours['seconds']:.4f} s | {ours['memory']:.1f} MiB | 1 | 1 |", flush=True
        )
        needed, free = LITERAL_COPIES * rows * rows * options.width * 4 / MIB, free_memory()
        if needed > free:
            print(
                f"| {rows} | literal | skipped: needs about {needed:,.0f} MiB, {free:,.0f} MiB free | | | |"
            )
            continue
        theirs = measure_in_subprocess({"form": "literal", **task})
        if not torch.allclose(torch.tensor(theirs["losses"]), torch.tensor(ours["losses"]), rtol=1e-4):
            raise SystemExit(f"the two forms differ: {ours['losses']} and {theirs['losses']}")
        slower, larger = (theirs[key] / ours[key] for key in ("seconds", "memory"))
        print(
            f"| {rows} | literal | {theirs['seconds']:.4f} s | {theirs['memory']:.1f} MiB | {slower:.0f} | "
            f"{larger:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
