"""Chooses learning rates for the pocket backbone on source validation and writes configs/pocket/METHOD.yaml.

    python tools/choose_pocket_options.py --out runs/choose [--methods erm alignclip] [--steps 300]

For each method, every learning rate is run on each target (one seed); the one with the highest mean accuracy on the
source validation rows wins. Test rows are never looked at. Runs that are done are not run again.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
from pathlib import Path

from clipalign.cli import main as clipalign
from clipalign.methods import list_methods
from clipalign.results import read_results

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "pocket"


def measure(method: str, lr: float, target: str, arguments: argparse.Namespace) -> float:
    """Validation accuracy in [0, 1] of one run."""
    out = arguments.out / method / f"{lr:g}" / target
    tokens = ["train", "--method", method, "--backbone", "pocket", "--data", "pictograms"]
    tokens += ["--protocol", "in-the-wild", "--target", target, "--steps", str(arguments.steps)]
    tokens += ["--lr", f"{lr:g}", "--validate-every", "0", "--out", str(out), "--resume"]
    if clipalign(tokens) != 0:
        raise SystemExit(f"failed: clipalign {shlex.join(tokens)}")
    validation = read_results(out)[0].validation
    assert validation is not None
    return validation


def main() -> None:
    """Run the grid and write the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=["erm", "alignclip"], choices=list_methods())
    parser.add_argument("--lrs", nargs="+", type=float, default=[3e-5, 1e-4, 3e-4, 1e-3])
    parser.add_argument("--targets", nargs="+", default=["twemoji", "fluent-high-contrast"])
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    CONFIGS.mkdir(parents=True, exist_ok=True)
    for method in arguments.methods:
        found = {
            lr: statistics.fmean(measure(method, lr, target, arguments) for target in arguments.targets)
            for lr in arguments.lrs
        }
        best = max(found, key=lambda lr: found[lr])
        lines = [
            f"# python tools/choose_pocket_options.py {shlex.join(sys.argv[1:])}",
            f"# in-the-wild, mean over targets {', '.join(arguments.targets)}, seed 0, {arguments.steps} steps;",
            "# accuracy on source validation rows, percent, by learning rate:",
            "#   " + "   ".join(f"{lr:g}: {100 * value:.1f}" for lr, value in found.items()),
            f"lr: {best:g}",
            f"steps: {arguments.steps}",
        ]
        (CONFIGS / f"{method}.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print("\n".join(lines))


if __name__ == "__main__":
    main()
