"""Tune learning rates of the pocket backbone on source validation and write configs/pocket/METHOD.yaml.

    python tools/choose_pocket_options.py --out runs/choose --methods erm alignclip --steps 120 --jobs 2
    python tools/choose_pocket_options.py --out runs/choose-captions --methods smartclip --data pictoscenes \
        --backbone pocket@96 --targets none --batch-size 64 --steps 100

Each learning rate is run on each target with one seed. The best mean over the source validation rows is selected, by
accuracy or, for caption methods, recall@1. Test rows are not used. The runs form a sweep, so repeating the command
skips completed ones.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

from clipalign.commands.cli import main as clipalign
from clipalign.evaluation.results import read_results
from clipalign.methods import get_method, list_methods

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "pocket"
NO_TARGET = "none"


def study(method: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the sweep over learning rates and targets of one method."""
    captions = get_method(method).learns_from == "captions"
    options = {"backbone": arguments.backbone, "steps": arguments.steps, "validate_every": 0}
    options |= {} if arguments.batch_size is None else {"batch_size": arguments.batch_size}
    targets = {} if arguments.targets == [NO_TARGET] else {"targets": arguments.targets}
    return {
        "methods": [method],
        "data": [arguments.data],
        "protocol": "retrieval" if captions else "in-the-wild",
        "seeds": 1,
        "options": options,
        "grid": {"lr": arguments.lrs},
        **targets,
    }


def measure(method: str, arguments: argparse.Namespace) -> dict[float, float]:
    """Return the mean source-validation score over targets, in [0, 1], by learning rate."""
    out = arguments.out / method
    out.mkdir(parents=True, exist_ok=True)
    config = out / "study.yaml"
    config.write_text(yaml.safe_dump(study(method, arguments), sort_keys=False), encoding="utf-8")
    tokens = ["sweep", "--config", str(config), "--out", str(out / "runs"), "--jobs", str(arguments.jobs)]
    if clipalign(tokens) != 0:
        raise SystemExit(f"command failed: clipalign {shlex.join(tokens)}")
    scores: dict[float, list[float]] = defaultdict(list)
    for path in sorted((out / "runs").rglob("results.jsonl")):
        row = read_results(path)[0]
        if row.lr in arguments.lrs and row.validation is not None:
            scores[row.lr].append(row.validation)
    return {lr: statistics.fmean(scores[lr]) for lr in arguments.lrs}


def main() -> None:
    """Run the grid of each method and write its file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=["erm", "alignclip"], choices=list_methods())
    parser.add_argument("--lrs", nargs="+", type=float, default=[1e-5, 3e-5, 1e-4])
    parser.add_argument("--data", default="pictograms")
    parser.add_argument("--backbone", default="pocket")
    parser.add_argument(
        "--targets",
        nargs="+",
        default=["noto", "twemoji", "fluent-high-contrast"],
        help='target domains; "none" for caption data',
    )
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--batch-size", type=int, help="default: the method's")
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    CONFIGS.mkdir(parents=True, exist_ok=True)
    for method in arguments.methods:
        scores = measure(method, arguments)
        best = max(scores, key=lambda lr: scores[lr])
        targets = (
            "" if arguments.targets == [NO_TARGET] else f", mean over targets {', '.join(arguments.targets)}"
        )
        metric = "Recall@1" if get_method(method).learns_from == "captions" else "Accuracy"
        lines = [
            f"# python tools/choose_pocket_options.py {shlex.join(sys.argv[1:])}",
            f"# {arguments.data.capitalize()}{targets}, seed 0, {arguments.steps} steps.",
            f"# {metric} on source validation rows in percent, by learning rate:",
            "#   " + "   ".join(f"{lr:g}: {100 * value:.1f}" for lr, value in scores.items()),
            f"lr: {best:g}",
            f"steps: {arguments.steps}",
        ]
        if arguments.batch_size is not None:
            lines.append(f"batch_size: {arguments.batch_size}")
        (CONFIGS / f"{method}.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print("\n".join(lines))


if __name__ == "__main__":
    main()
