"""Time to first table: run `data check`, `train` and `report` on a folder of JPEGs.

    python benchmarks/first_table.py --out first-table

The folder has 4 domains x 20 classes x 10 images of 224 pixels, rendered from Pictograms. Prints the wall-clock time
of each command, including process start-up, and the load average before it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

MAKE_FOLDER = Path(__file__).resolve().parents[1] / "examples" / "make_folder.py"
SIZES = {"--domains": "4", "--classes": "20", "--images": "10", "--side": "224"}


def timed(*arguments: str) -> float:
    """Run a clipalign command and return its duration in seconds."""
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
    parser.add_argument("--out", type=Path, required=True, help="new folder for images, runs and the report")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=36)
    chosen = parser.parse_args()
    data, runs = chosen.out / "photos", chosen.out / "runs"
    if chosen.out.exists():
        sys.exit(f"--out: {chosen.out} exists; choose another folder")
    sizes = [token for item in SIZES.items() for token in item]
    subprocess.run([sys.executable, str(MAKE_FOLDER), str(data), *sizes], check=True)
    target = sorted(path.name for path in data.iterdir())[-1]
    training = ["--data", str(data), "--target", target, "--backbone", "pocket", "--method", "erm"]
    training += ["--steps", str(chosen.steps), "--batch-size", str(chosen.batch_size)]
    total = timed("data", "check", str(data), "--sheet", str(chosen.out / "sheet.png"))
    total += timed("train", *training, "--out", str(runs / "erm"))
    total += timed("report", str(runs))
    print(f"{total:7.1f} s  total")


if __name__ == "__main__":
    main()
