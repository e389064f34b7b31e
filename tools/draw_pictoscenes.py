"""Draw docs/images/pictoscenes.png, nine test scenes with their captions: python tools/draw_pictoscenes.py"""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from clipalign.data.builtin.pictoscenes import Pictoscenes
from clipalign.data.captions.sentences import join_sentences

TARGET = Path(__file__).resolve().parents[1] / "docs" / "images" / "pictoscenes.png"


def main(target: Path = TARGET) -> None:
    """Draw the first six test scenes and the first three of the held-out style."""
    scenes = Pictoscenes()
    rows = [*scenes.parts["test"][:6], *scenes.style_rows[:3]]
    figure, axes = plt.subplots(3, 3, figsize=(9, 11.2), dpi=75)
    for axis, row in zip(axes.flat, rows, strict=True):
        sample = scenes.sample(int(row), size=192)
        axis.imshow(sample.image.permute(1, 2, 0).numpy())
        caption = join_sentences([sentence.text for sentence in sample.sentences])
        axis.set_title("\n".join(textwrap.wrap(caption, 52)), fontsize=7, loc="left", y=-0.03, va="top")
        axis.axis("off")
    figure.subplots_adjust(0.01, 0.09, 0.99, 0.995, wspace=0.04, hspace=0.32)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, pil_kwargs={"optimize": True})
    plt.close(figure)
    print(f"{target}: {target.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    main()
