"""Write a folder of JPEGs rendered from Pictograms, as a stand-in for your own photos.

    python examples/make_folder.py my_photos

The layout is domain/class/image.jpg, which every clipalign command accepts as --data.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from clipalign import load_source


def write_folder(folder: Path, domains: int, classes: int, images: int, side: int) -> int:
    """Write the first classes of the first domains and return the number of files.

    Args:
        folder: root of the new layout.
        domains: number of domains (at most 5).
        classes: number of classes (at most 256).
        images: images per class and domain.
        side: width and height in pixels.
    """
    source = load_source("pictograms")
    rows = np.flatnonzero((source.labels < classes) & (source.domains < domains))
    for row in rows.tolist():
        name = source.class_names[source.labels[row]].replace(" ", "_")
        target = folder / source.domain_names[source.domains[row]] / name
        target.mkdir(parents=True)
        for i in range(images):
            pixels = source.sample(row, stage="train", draw=i).image.permute(1, 2, 0).numpy()  # [64, 64, 3]
            picture = Image.fromarray((pixels * 255).round().astype(np.uint8))
            picture.resize((side, side), Image.Resampling.LANCZOS).save(target / f"{i:02d}.jpg", quality=90)
    return len(rows) * images


def main() -> None:
    """Parse the command line and write the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder to create")
    parser.add_argument("--domains", type=int, default=3)
    parser.add_argument("--classes", type=int, default=12)
    parser.add_argument("--images", type=int, default=8, help="per class and domain")
    parser.add_argument("--side", type=int, default=96, help="pixels")
    options = parser.parse_args()
    if options.folder.exists():
        sys.exit(f"{options.folder} exists; choose another folder")
    count = write_folder(options.folder, options.domains, options.classes, options.images, options.side)
    print(f"{options.folder}: {count} images, {options.domains} domains x {options.classes} classes")


if __name__ == "__main__":
    main()
