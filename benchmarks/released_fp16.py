"""Measure how much of fine-tuning survives rounding the weights to float16 after every step.

    python benchmarks/released_fp16.py

Runs AdamW twice with the same gradients, once with float32 weights and once with the rounding of
`--precision released-fp16`, on a sample of the rounded tensors: weights drawn from N(0, 0.02), and open_clip's
ViT-B-16 at initialisation. Gradients are noise around a fixed mean per weight; Adam is invariant to their scale, so
only the ratio of mean to noise matters. Takes a few minutes on one core.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from clipalign.backbone import load
from clipalign.core.precision import half_weights, round_to_half
from clipalign.engine.averaging import make_average
from clipalign.engine.optimiser import lr_factor

SAMPLE = 50_000  # weights simulated per model


def sample_weights(model: str, generator: torch.Generator) -> Tensor:
    """Return a [SAMPLE] vector of weights that the released code keeps in float16."""
    if model == "normal":
        return 0.02 * torch.randn(SAMPLE, generator=generator)
    tower = load(f"{model}:random").model.visual
    flat = torch.cat([p.detach().flatten() for p in half_weights(tower)])
    return flat[torch.randint(len(flat), (SAMPLE,), generator=generator)].clone()


def simulate(start: Tensor, lr: float, steps: int, signal: float, seed: int = 0) -> dict[str, float]:
    """Run AdamW with float32 weights and with weights rounded to float16.

    Args:
        start: [n] weights.
        lr: peak learning rate of AdamW, with cosine decay.
        steps: number of steps.
        signal: standard deviation over weights of the mean gradient; the noise has standard deviation 1.

    Returns:
        Fractions and ratios by name.
    """
    generator = torch.Generator().manual_seed(seed + 1)  # independent of the seed of the weights
    round_to_half([start])
    exact, rounded = start.clone(), start.clone()
    parameters = [torch.nn.Parameter(exact), torch.nn.Parameter(rounded)]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.1)
    averages = [make_average("bma", [p.data], steps) for p in (parameters[1], parameters[1])]
    averages[0].accumulate_in_half([averages[0].parameters[0]])
    mean = signal * torch.randn(len(start), generator=generator)
    moved = torch.zeros(len(start), dtype=torch.bool)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * lr_factor(step, steps, 0, "cosine")
        gradient = 1e-3 * (mean + torch.randn(len(start), generator=generator))
        for parameter in parameters:
            parameter.grad = gradient
        optimizer.step()
        round_to_half([parameters[1].data])
        moved |= parameters[1].data != start
        for average in averages:
            average.update(step + 1)
    displacement = (parameters[1].data - start).double()
    true_average = averages[1].average[0].double()
    large = start.abs() >= 1 / 64
    return {
        "ever moved": float(moved.double().mean()),
        "of those >= 1/64": float(moved[large].double().mean()),
        "share >= 1/64": float(large.double().mean()),
        "displacement / fp32": float(displacement.norm() / (parameters[0].data - start).double().norm()),
        "error of the half average / its displacement": float(
            (averages[0].average[0].double() - true_average).norm() / (true_average - start).norm()
        ),
    }


def main() -> None:
    """Print the results as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=[300, 5000])
    parser.add_argument("--lr", type=float, nargs="+", default=[3e-6, 5e-6, 1e-5])
    parser.add_argument("--signal", type=float, nargs="+", default=[0.1])
    parser.add_argument("--models", nargs="+", default=["normal", "ViT-B-16"])
    options = parser.parse_args()
    head: list[str] = []
    for model in options.models:
        start = sample_weights(model, torch.Generator().manual_seed(0))
        for steps in options.steps:
            for signal in options.signal:
                for lr in options.lr:
                    result = simulate(start.clone(), lr, steps, signal)
                    if not head:
                        head = ["weights", "steps", "signal", "lr", *result]
                        print("| " + " | ".join(head) + " |\n" + "| --- " * len(head) + "|")
                    values = (f"{value:.3f}" for value in result.values())
                    print(f"| {model} | {steps} | {signal:g} | {lr:g} | {' | '.join(values)} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
