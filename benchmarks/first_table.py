"""How long a stranger waits for a table: a folder of JPEGs -> data check -> train -> report, each as a command.

    python benchmarks/first_table.py --out first-table

The folder has 4 domains x 20 classes x 10 images of 224 pixels, renders of Pictograms. Prints the seconds of each
command, start of the process included, with the machine's load before it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

DOMAINS, CLASSES, IMAGES, SIDE = 4, 20, 10, 224


def draw(folder: Path) -> int:
    """Write the folder; returns the number of images."""
    from clipalign.core.types import Preprocess
    from clipalign.data.builtin.pictograms import Pictograms

    source = Pictograms()
    plain = Preprocess((SIDE, SIDE), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    chosen = np.flatnonzero((source.labels < CLASSES) & (source.domains < DOMAINS))
    for row in chosen.tolist():
        views = source.images(np.full(IMAGES, row), "train", np.arange(IMAGES), 0, plain)
        name = source.class_names[source.labels[row]].replace(" ", "_")
        target = folder / source.domain_names[source.domains[row]] / name
        target.mkdir(parents=True)
        for i, view in enumerate(views):
            pixels = (view.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
            Image.fromarray(pixels).save(target / f"{i:02d}.jpg", quality=90)
    return len(chosen) * IMAGES


def timed(*arguments: str) -> float:
    """Run a command; returns its seconds."""
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "clipalign", *arguments], capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"clipalign {' '.join(arguments)}\n{done.stdout}{done.stderr}")
    print(f"{seconds:7.1f} s  (load {load})  clipalign {' '.join(arguments)}", flush=True)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="new folder for images, runs and report")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=36)
    chosen = parser.parse_args()
    data, runs = chosen.out / "photos", chosen.out / "runs"
    if chosen.out.exists():
        sys.exit(f"--out: {chosen.out} exists; choose another folder")
    print(f"{draw(data)} JPEGs of {SIDE} pixels: {DOMAINS} domains x {CLASSES} classes x {IMAGES}")
    target = sorted(path.name for path in data.iterdir())[-1]
    training = ["--data", str(data), "--target", target, "--backbone", "pocket", "--method", "erm"]
    training += ["--steps", str(chosen.steps), "--batch-size", str(chosen.batch_size)]
    total = timed("data", "check", str(data), "--sheet", str(chosen.out / "sheet.png"))
    total += timed("train", *training, "--out", str(runs / "erm"))
    total += timed("report", str(runs))
    print(f"{total:7.1f} s  from the check to the first table")


if __name__ == "__main__":
    main()
