"""Print the tables of docs/studies/smartclip.md from the runs of configs/studies/smartclip.yaml.

    python tools/measure_smartclip_study.py runs/smartclip

Recalls are read from the runs. Forgetting (zero-shot accuracy on Pictograms, target twemoji, 256 class names) and mask
disentanglement are measured once per run and stored in its `after.json`.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from clipalign.backbone import preprocess_for
from clipalign.core.checkpoint import write_text
from clipalign.data.registry import load_source
from clipalign.evaluation import EvalLoader
from clipalign.evaluation.masks import mask_report
from clipalign.evaluation.metrics.recall import DIRECTIONS, recall_field
from clipalign.evaluation.results import read_results
from clipalign.evaluation.scoring import score
from clipalign.methods import SupportsMasks
from clipalign.methods.shared.masks import MaskNetwork
from clipalign.protocols import build_episode
from clipalign.runs.run import Run, open_run

COLUMNS = [recall_field(way, k) for way in DIRECTIONS for k in (1, 10)]


def after(run: Run, shared: dict[str, Any]) -> dict[str, Any]:
    """Return the accuracy on single drawings and, for methods with masks, the mask report."""
    backbone = run.backbone
    if "loader" not in shared:
        source = load_source("pictograms")
        shared["episode"] = build_episode("domain-shift", source, "twemoji")
        shared["loader"] = EvalLoader(source, preprocess_for(backbone))
    episode, templates = shared["episode"], shared["episode"].source.templates
    scored = score(shared["loader"], lambda names: run.method.classifier(names, templates), episode.tests)
    assert scored[0].accuracy is not None
    found: dict[str, Any] = {"accuracy": scored[0].accuracy}
    if isinstance(run.method, SupportsMasks):
        found["masks"] = mask_report(run.method)
        network = run.method.extra["mask"]
        assert isinstance(network, MaskNetwork)
        trained = {name: value.clone() for name, value in network.state_dict().items()}
        torch.manual_seed(0)
        network.initialise()  # baseline: the same text tower with an untrained mask network
        found["untrained_masks"] = mask_report(run.method)
        network.load_state_dict(trained)
    return found


def mean_and_std(values: list[float], scale: float = 100) -> str:
    """Format the mean, with the standard deviation over seeds if there are several."""
    mean = f"{scale * statistics.fmean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {scale * statistics.stdev(values):.1f}"


def main(root: Path) -> None:
    """Measure runs without `after.json` and print the tables."""
    shared: dict[str, Any] = {}
    recalls: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    kept: dict[str, list[float]] = defaultdict(list)
    masks: dict[tuple[str, str], list[float]] = defaultdict(list)
    names: list[str] = []
    for path in sorted(root.rglob("results.jsonl")):
        folder, name = path.parent, path.parent.parent.name
        names += [] if name in names else [name]
        for row in read_results(folder):
            for field, value in row.extra.items():
                if "recall@" in field or field.startswith("active_"):
                    recalls[name, row.test, field].append(float(value))
        if not (folder / "after.json").is_file():
            write_text(folder / "after.json", json.dumps(after(open_run(folder), shared), indent=1) + "\n")
        found = json.loads((folder / "after.json").read_text(encoding="utf-8"))
        kept[name].append(found["accuracy"])
        for kind in ("masks", "untrained_masks"):
            if kind in found:
                report = found[kind]
                numbers = {
                    "active": report["single"]["mean"],
                    "auroc": report["relations"]["subgroup"]["auroc"],
                    "union": report["union"]["excess"],
                    "intersection": report["intersection"]["excess"],
                }
                for field, value in numbers.items():
                    masks[f"{name}{'' if kind == 'masks' else ', untrained'}", field].append(value)

    for test in ("long", "short", "long-twemoji", "short-twemoji"):
        for prefix in ("", "relevant_", "masked_"):
            print(f"\n{test} {prefix}\n| Method | T2I @1 | @10 | I2T @1 | @10 |\n|---|---|---|---|---|")
            for name in names:
                cells = [recalls.get((name, test, prefix + field)) for field in COLUMNS]
                if all(cells):
                    print(f"| {name} | {' | '.join(mean_and_std(cell) for cell in cells if cell)} |")
    print("\n| Method | Accuracy on single drawings |\n|---|---|")
    for name in names:
        print(f"| {name} | {mean_and_std(kept[name])} |")
    print("\n| Masks of | Active of 128 | AUROC | Union | Intersection |\n|---|---|---|---|---|")
    for name in dict.fromkeys(name for name, _ in masks):
        cells = [
            mean_and_std(masks[name, field], 1 if field == "active" else 100)
            for field in ("active", "auroc", "union", "intersection")
        ]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
