"""Folders of images as a data set: `class/image` (one domain) or `domain/class/image`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from ..errors import UserError
from ..text import clean_class_names
from .base import Preprocess, Stage

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm"})
CROP_AREA = (0.7, 1.0)  # share of the image a training crop keeps, as DomainBed and CLIPood have it
CROP_RATIO = (3 / 4, 4 / 3)  # width over height of a training crop


class ImageFolder:
    """A `Source` over image files; rows are ordered by domain, class and path, as DomainBed counts them.

    Training views: a random crop of 70-100 % of the area, resized, flipped half of the time. Evaluation: the
    shorter side resized, the centre cropped (the transforms of CLIPood and AlignCLIP).

    Args:
        root: the folder. Its layout is read from its depth.

    Raises:
        UserError: no folder, no images, or class names that collide.
    """

    templates: tuple[str, ...] = ("a photo of a {}.",)

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise UserError(f"--data: {root} is not a folder")
        self.root = root
        self.name = root.resolve().name
        domains = {d.name: d for d in folders(root) if any(images_under(c) for c in folders(d))}
        # Images right under a first-level folder make that folder a class.
        if not domains or any(is_image(p) for d in folders(root) for p in d.iterdir()):
            domains = {self.name: root}
        found = {
            domain: {c.name: files for c in folders(path) if (files := images_under(c))}
            for domain, path in domains.items()
        }
        self.domain_names = tuple(sorted(found))
        self.class_names = tuple(sorted({name for classes in found.values() for name in classes}))
        if not self.class_names:
            raise UserError(f"--data: no images in {root}; it needs class/image or domain/class/image files")
        try:
            clean_class_names(self.class_names)
        except UserError as error:
            raise UserError(f"--data {root}: {error}") from None
        table = [
            (path, k, d)
            for d, domain in enumerate(self.domain_names)
            for k, name in enumerate(self.class_names)
            for path in found[domain].get(name, ())
        ]
        self.paths = tuple(path for path, _, _ in table)
        self.labels = np.array([k for _, k, _ in table], dtype=np.int64)
        self.domains = np.array([d for _, _, d in table], dtype=np.int64)

    def views(self, stage: Stage) -> int:
        """One: a photograph is shown once."""
        return 1

    def images(
        self, rows: np.ndarray, stage: Stage, draws: np.ndarray, seed: int, preprocess: Preprocess
    ) -> Tensor:
        """See `Source.images`.

        Raises:
            UserError: a file that does not decode.
        """
        shown = []
        for row, draw in zip(rows.tolist(), draws.tolist(), strict=True):
            image = read_image(self.paths[row])
            if stage == "train":
                shown.append(training_view(image, np.random.default_rng([seed, draw, row]), preprocess))
            else:
                shown.append(evaluation_view(image, preprocess))
        pixels = torch.stack(shown) if shown else torch.empty(0, 3, *preprocess.size)
        return preprocess.normalise(pixels)

    def fingerprint(self) -> str:
        """SHA-256 of the relative paths and sizes of all files."""
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(f"{path.relative_to(self.root).as_posix()}\0{path.stat().st_size}\n".encode())
        return digest.hexdigest()


def read_image(path: Path) -> Image.Image:
    """An image file upright (EXIF), as RGB, the first frame of an animation.

    Raises:
        UserError: the file is missing or does not decode.
    """
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError:
        raise UserError(f"no image file {path}") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} does not decode as an image: {' '.join(str(error).split())}") from None


def training_view(image: Image.Image, rng: np.random.Generator, preprocess: Preprocess) -> Tensor:
    """A random crop, resized, perhaps flipped: [3, H, W] in [0, 1]."""
    width, height = image.size
    for _ in range(10):
        area = width * height * rng.uniform(*CROP_AREA)
        ratio = np.exp(rng.uniform(*np.log(CROP_RATIO)))
        w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            break
    else:  # a very long image: the largest crop with an allowed ratio
        w, h = min(width, round(height * CROP_RATIO[1])), min(height, round(width / CROP_RATIO[0]))
    left, top = rng.integers(width - w + 1), rng.integers(height - h + 1)
    box = (float(left), float(top), float(left + w), float(top + h))
    view = image.resize(preprocess.size[::-1], resampling(preprocess), box=box)
    if rng.random() < 0.5:
        view = ImageOps.mirror(view)
    return TF.to_tensor(view)


def evaluation_view(image: Image.Image, preprocess: Preprocess) -> Tensor:
    """The shorter side resized, the centre cropped: [3, H, W] in [0, 1]."""
    mode = InterpolationMode(preprocess.interpolation)
    return TF.to_tensor(TF.center_crop(TF.resize(image, [max(preprocess.size)], mode), list(preprocess.size)))


def resampling(preprocess: Preprocess) -> Image.Resampling:
    """PIL's name of the interpolation."""
    return Image.Resampling[preprocess.interpolation.upper()]


def folders(path: Path) -> list[Path]:
    """Visible sub-folders, sorted by name."""
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def is_image(path: Path) -> bool:
    """Whether the name is that of a visible image file."""
    return path.suffix.lower() in EXTENSIONS and path.is_file() and not path.name.startswith(".")


def images_under(path: Path) -> list[Path]:
    """Image files at any depth, sorted by path."""
    found: Iterable[Path] = path.rglob("*")
    return sorted(p for p in found if is_image(p))
