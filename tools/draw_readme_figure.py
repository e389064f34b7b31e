"""Draw docs/images/readme.png: class-token attention before and after fine-tuning, and base/new accuracy.

    python tools/draw_readme_figure.py --jobs 2

Runs the sweep configs/studies/readme.yaml first; runs that are complete are reused. Test images are drawn with a seed,
half of them of new classes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import yaml
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import clipalign

ROOT = Path(__file__).resolve().parents[1]
STUDY = ROOT / "configs" / "studies" / "readme.yaml"
TARGET = ROOT / "docs" / "images" / "readme.png"
SHOWN = ("zeroshot", "erm", "alignclip")  # methods whose attention is drawn
TITLES = {
    "zeroshot": "zero-shot",
    "erm": "plain fine-tuning",
    "erm-bma": "  + weight averaging",
    "wise-ft": "WiSE-FT",
    "clipood": "CLIPood",
    "alignclip": "AlignCLIP",
}
INK, FAINT, RIGHT, WRONG = "#1a1a1a", "#6b6b6b", "#1b7a3d", "#b3261e"
BASE, NEW = "#0072b2", "#e69f00"


@dataclass(frozen=True)
class Answer:
    """One model on one image.

    Attributes:
        attention: [gh, gw] class-token attention over the patches.
        name: most probable of all class names.
        probability: its probability.
    """

    attention: np.ndarray
    name: str
    probability: float


def run_folder(runs: Path, method: str, target: str) -> Path:
    """Return the run of a method in the sweep's output folder."""
    return runs / "pictograms" / "in-the-wild" / target / method / "seed-0"


def choose_rows(runs: Path, target: str, count: int, seed: int) -> list[int]:
    """Draw test rows of the target: half of base classes, half of new ones."""
    source = clipalign.load_source("pictograms")
    base = set(clipalign.load_run(run_folder(runs, "erm", target)).class_names)
    labels = np.array([source.class_names[label] in base for label in source.labels])
    in_target = source.domains == source.domain_names.index(target)
    rng = np.random.default_rng(seed)
    halves = [
        rng.choice(np.flatnonzero(in_target & (labels == is_base)), size, replace=False)
        for is_base, size in ((True, count - count // 2), (False, count // 2))
    ]
    return [int(row) for half in halves for row in half]


def ask(model: str | Path, image: Path, class_names: Sequence[str], label: str, scratch: Path) -> Answer:
    """Return a model's attention on an image file and its prediction among all class names."""
    files = clipalign.explain_image(model, [image], [label], out=scratch, overwrite=True)
    with np.load(next(file for file in files if file.name == "maps.npz")) as maps:
        # A run is explained next to its backbone, whose maps come first.
        attention = maps[[key for key in maps.files if key.endswith("_attention")][-1]]
    (prediction,) = clipalign.predict(model, [image], classes=class_names)
    return Answer(attention, prediction.classes[0], prediction.probabilities[0])


def overlay(pixels: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """Blend an attention map, scaled to its range, over the greyed image: [H, W, 3] in [0, 1]."""
    height, width = pixels.shape[:2]
    scaled = (attention - attention.min()) / max(float(np.ptp(attention)), 1e-12)
    resized = Image.fromarray(scaled.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    heat = matplotlib.colormaps["inferno"](np.clip(np.asarray(resized), 0, 1))[..., :3]  # [H, W, 3]
    grey = 0.25 + 0.75 * (pixels @ np.array([0.299, 0.587, 0.114]))[..., None]  # [H, W, 1]
    return np.clip(0.25 * grey + 0.75 * heat, 0, 1)


def draw_attention(
    figure: matplotlib.figure.SubFigure, runs: Path, target: str, count: int, seed: int
) -> None:
    """Draw a row per image: the image, and each model's attention with its prediction."""
    source = clipalign.load_source("pictograms")
    base = set(clipalign.load_run(run_folder(runs, "erm", target)).class_names)
    backbone = yaml.safe_load(STUDY.read_text(encoding="utf-8"))["options"]["backbone"]
    models = {m: backbone if m == "zeroshot" else run_folder(runs, m, target) for m in SHOWN}
    axes = figure.subplots(count, 1 + len(SHOWN), squeeze=False)
    for line, row in zip(axes, choose_rows(runs, target, count, seed), strict=True):
        sample = source.sample(row, stage="test", draw=0)
        label = source.class_names[sample.label]
        pixels = sample.image.permute(1, 2, 0).numpy()  # [H, W, 3]
        large = Image.fromarray((255 * pixels).round().astype(np.uint8)).resize(
            (192, 192), Image.Resampling.LANCZOS
        )
        line[0].imshow(large)
        line[0].set_xlabel(
            f"{label} ({'base' if label in base else 'new'})", fontsize=8, color=INK, labelpad=3
        )
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "image.png"
            Image.fromarray((255 * pixels).round().astype(np.uint8)).save(file)
            for axis, (method, model) in zip(line[1:], models.items(), strict=True):
                answer = ask(model, file, source.class_names, label, Path(folder) / method)
                axis.imshow(overlay(np.asarray(large) / 255, answer.attention))
                right = answer.name == label
                text = f"{'✓' if right else '✗'} {answer.name} ({100 * answer.probability:.0f} %)"
                axis.set_xlabel(text, fontsize=8, color=RIGHT if right else WRONG, labelpad=3)
        for axis in line:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    for axis, title in zip(axes[0], ["test image", *(TITLES[m] for m in SHOWN)], strict=True):
        axis.set_title(title, fontsize=8, color=FAINT, pad=4)
    figure.suptitle(
        "Class-token attention and prediction among all classes",
        y=0.985,
        fontsize=10,
        weight="bold",
        color=INK,
    )
    figure.subplots_adjust(0.01, 0.04, 0.99, 0.89, wspace=0.06, hspace=0.2)


def draw_accuracy(figure: matplotlib.figure.SubFigure, runs: Path, target: str) -> None:
    """Draw base and new accuracy of every method as horizontal bars, with zero-shot as reference lines."""
    axis = figure.subplots()
    accuracy = {}
    for method in TITLES:
        rows = clipalign.read_results(run_folder(runs, method, target))
        accuracy[method] = {row.test: 100 * (row.accuracy or 0.0) for row in rows}
    place = np.arange(len(TITLES))
    for test, colour, shift in (("base", BASE, -0.2), ("new", NEW, 0.2)):
        values = [accuracy[method][test] for method in TITLES]
        axis.barh(place + shift, values, height=0.38, color=colour, label=f"{test} classes")
        axis.axvline(accuracy["zeroshot"][test], color=colour, linestyle=":", linewidth=1, zorder=0)
        for y, value in zip(place + shift, values, strict=True):
            axis.text(value - 0.6, y, f"{value:.1f}", ha="right", va="center", fontsize=7.5, color="white")
    axis.set_yticks(place, list(TITLES.values()), fontsize=8.5)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.08 * max(max(values["base"], values["new"]) for values in accuracy.values()))
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.08), ncol=2)
    axis.set_xlabel("accuracy in the unseen style (%); dotted: zero-shot", fontsize=8)
    figure.suptitle(
        "What fine-tuning gains and what it forgets", y=0.985, fontsize=10, weight="bold", color=INK
    )
    figure.subplots_adjust(0.28, 0.1, 0.98, 0.88)


def main() -> None:
    """Run the sweep and draw the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "readme", help="folder of the sweep")
    parser.add_argument("--out", type=Path, default=TARGET, help="PNG file to write")
    parser.add_argument("--jobs", type=int, default=1, help="runs in parallel")
    parser.add_argument("--images", type=int, default=4, help="number of test images")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw of test images")
    arguments = parser.parse_args()
    clipalign.sweep_study(STUDY, arguments.runs, jobs=arguments.jobs)
    (target,) = yaml.safe_load(STUDY.read_text(encoding="utf-8"))["targets"]
    figure = plt.figure(figsize=(10.5, 1.3 * arguments.images + 0.6), dpi=110, facecolor="white")
    left, right = figure.subfigures(1, 2, width_ratios=[1.25, 1])
    draw_attention(left, arguments.runs, target, arguments.images, arguments.seed)
    draw_accuracy(right, arguments.runs, target)
    figure.savefig(arguments.out)
    plt.close(figure)
    with Image.open(arguments.out) as image:
        small = image.convert("RGB").quantize(256)  # a third of the bytes
    small.save(arguments.out, optimize=True)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    main()
