"""Runs of a few steps, and pages of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipalign.app.models import PageModel, open_models
from clipalign.commands.train import run_training


@pytest.fixture(scope="package")
def erm_run(tmp_path_factory: pytest.TempPathFactory, squares_folder: Path, tiny_spec: str) -> Path:
    """Fine-tune the image tower of the tiny ViT on coloured squares."""
    out = tmp_path_factory.mktemp("erm") / "squares"
    tokens = f"--method erm --data {squares_folder} --protocol base-to-new --backbone {tiny_spec} --lr 0.01"
    run_training([*tokens.split(), "--steps", "6", "--batch-size", "8", "--out", str(out)])
    return out


@pytest.fixture(scope="package")
def smartclip_run(
    tmp_path_factory: pytest.TempPathFactory, captions_csv: Path, squares_folder: Path, tiny_spec: str
) -> Path:
    """Fine-tune both towers of the tiny ViT, and masks, on captions."""
    out = tmp_path_factory.mktemp("smartclip") / "masks"
    tokens = f"--method smartclip --data {captions_csv} --data-root {squares_folder} --backbone {tiny_spec} --lr 0.001"
    run_training([*tokens.split(), "--steps", "3", "--batch-size", "6", "--out", str(out)])
    return out


@pytest.fixture(scope="package")
def models(erm_run: Path, smartclip_run: Path) -> tuple[PageModel, ...]:
    """Open both runs."""
    return open_models([erm_run, smartclip_run])


@pytest.fixture(scope="package")
def photo_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a noisy picture."""
    path = tmp_path_factory.mktemp("photos") / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)).save(path)
    return path
