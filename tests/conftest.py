"""Fixtures for all tests: tiny CLIPs in folders, and a folder of coloured squares."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image, ImageDraw

from clipalign.backbone import Backbone, load
from clipalign.data.sources.folder import ImageFolder
from tests.helpers.backbones import RESNET, write_backbone

torch.set_num_threads(1)  # tensors are tiny, and the other cores run other tests

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 220), "yellow": (230, 220, 40)}
DOMAINS = ("dark", "grey", "light")


@pytest.fixture(scope="session")
def tiny_spec(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the `--backbone` of a ViT with 3 blocks of width 32 and 32 x 32 images."""
    return write_backbone(tmp_path_factory.mktemp("backbones") / "vit")


@pytest.fixture(scope="session")
def resnet_spec(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the `--backbone` of a small ModifiedResNet with 64 x 64 images."""
    return write_backbone(tmp_path_factory.mktemp("backbones") / "resnet", vision=RESNET)


@pytest.fixture(scope="session")
def _tiny(tiny_spec: str) -> Backbone:
    return load(tiny_spec)


@pytest.fixture
def tiny(_tiny: Backbone) -> Backbone:
    """Return a copy of the tiny ViT, which the test may change."""
    return copy.deepcopy(_tiny)


@pytest.fixture(scope="session")
def squares_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write domain/class/image: squares of four colours on three backgrounds, five images each."""
    root = tmp_path_factory.mktemp("data") / "squares"
    rng = np.random.default_rng(0)
    for d, domain in enumerate(DOMAINS):
        for name, colour in COLOURS.items():
            folder = root / domain / f"{name}_square"
            folder.mkdir(parents=True)
            for i in range(5):
                image = Image.new("RGB", (40, 36), (90 * d + 20,) * 3)
                x, y = (int(v) for v in rng.integers(2, 16, 2))
                ImageDraw.Draw(image).rectangle((x, y, x + 18, y + 18), fill=colour)
                image.save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def squares(squares_folder: Path) -> ImageFolder:
    """Return the coloured squares as a data source."""
    return ImageFolder(squares_folder)


@pytest.fixture(scope="session")
def square_masks(squares_folder: Path) -> Path:
    """Write a mask of each square: white where the image has another colour than its corner."""
    root = squares_folder.parent / "masks"
    for path in squares_folder.rglob("*.png"):
        pixels = np.asarray(Image.open(path)).astype(int)  # [H, W, 3]
        mask = (pixels != pixels[0, 0]).any(axis=2)  # [H, W]
        file = root / path.relative_to(squares_folder)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 * mask).astype(np.uint8)).save(file)
    return root


@pytest.fixture(scope="session")
def captions_csv(squares_folder: Path) -> Path:
    """Write a table of the coloured squares with captions of one to three sentences.

    36 rows are for training, 12 for validation and 12 for testing.
    """
    lines = ["path,caption,split"]
    for d, domain in enumerate(DOMAINS):
        for c, name in enumerate(COLOURS):
            for i in range(5):
                sentences = [f"A {name} square", f"The ground is {domain}", f"It is number {i} of five"]
                caption = ". ".join(sentences[: 1 + (i + c + d) % 3]) + "."
                split = ("train", "train", "train", "val", "test")[i]
                lines.append(f"{domain}/{name}_square/{i}.png,{caption},{split}")
    path = squares_folder.parent / "captions.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tokenizer() -> object:
    """Return CLIP's tokenizer."""
    return open_clip.get_tokenizer("ViT-B-32")
