from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from clipalign.core.errors import UserError
from clipalign.core.types import Preprocess, Source
from clipalign.data.decode import evaluation_view, read_image, training_view
from clipalign.data.registry import load_source
from clipalign.data.sources.folder import ImageFolder

PREPROCESS = Preprocess((32, 32), (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))


def test_domain_class_image(squares: ImageFolder) -> None:
    assert isinstance(squares, Source)
    assert squares.domain_names == ("dark", "grey", "light")
    assert squares.class_names == ("blue_square", "green_square", "red_square", "yellow_square")
    assert len(squares.labels) == 60
    for row in (0, 17, 59):
        path = squares.paths[row]
        assert path.parent.name == squares.class_names[squares.labels[row]]
        assert path.parent.parent.name == squares.domain_names[squares.domains[row]]


def test_class_image(squares_folder: Path) -> None:
    source = ImageFolder(squares_folder / "grey")
    assert source.domain_names == ("grey",)
    assert len(source.class_names) == 4 and len(source.labels) == 20


def test_a_class_folder_may_have_folders_inside(tmp_path: Path) -> None:
    for path in ("cat/a.png", "cat/more/b.png", "dog/c.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / path)
    source = ImageFolder(tmp_path)
    assert source.class_names == ("cat", "dog") and len(source.domain_names) == 1


def test_evaluation_is_what_open_clip_does(squares: ImageFolder) -> None:
    transform = open_clip.image_transform(32, is_train=False, mean=PREPROCESS.mean, std=PREPROCESS.std)
    wanted = torch.stack([transform(Image.open(squares.paths[row])) for row in (0, 30)])
    shown = squares.images(np.array([0, 30]), "test", np.zeros(2, int), 0, PREPROCESS)
    assert torch.allclose(shown, wanted, atol=1e-6)


def test_training_views_depend_on_seed_draw_and_row(squares: ImageFolder) -> None:
    def view(draw: int, seed: int) -> torch.Tensor:
        return squares.images(np.array([3]), "train", np.array([draw]), seed, PREPROCESS)

    assert torch.equal(view(1, 0), view(1, 0))
    assert not torch.equal(view(1, 0), view(2, 0)) and not torch.equal(view(1, 0), view(1, 1))
    assert squares.images(np.array([], int), "train", np.array([], int), 0, PREPROCESS).shape == (
        0,
        3,
        32,
        32,
    )


def test_training_crops_keep_most_of_the_image() -> None:
    # Pixel values that grow with x and y measure how much of each axis a crop keeps.
    ramp = np.zeros((100, 120, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(120), np.arange(100)[:, None]
    image, shares, flips = Image.fromarray(ramp), [], 0
    for i in range(200):
        view = training_view(image, np.random.default_rng(i), PREPROCESS) * 255
        width, height = (float(view[c].max() - view[c].min()) + 3 for c in (0, 1))
        shares.append(width * height / (120 * 100))
        flips += bool(view[0, 0, 0] > view[0, 0, -1])
    assert min(shares) > 0.65 and max(shares) < 1.05
    assert 70 < flips < 130


def test_a_very_long_image_still_gives_a_view() -> None:
    long = Image.new("RGB", (400, 2))
    assert training_view(long, np.random.default_rng(0), PREPROCESS).shape == (3, 32, 32)
    assert evaluation_view(long, PREPROCESS).shape == (3, 32, 32)


def test_images_are_upright_rgb(tmp_path: Path) -> None:
    image = Image.new("RGB", (10, 20), (255, 0, 0))
    exif = image.getexif()
    exif[0x0112] = 6  # rotated by 90 degrees
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").size == (20, 10)
    Image.new("LA", (4, 4)).save(tmp_path / "b.png")
    assert read_image(tmp_path / "b.png").mode == "RGB"


def test_files_that_are_no_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("not an image")
    with pytest.raises(UserError, match=r"a\.png does not decode"):
        read_image(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"b\.png does not decode"):
        read_image(tmp_path / "b.png")
    with pytest.raises(UserError, match=r"no image file .*c\.png"):
        read_image(tmp_path / "c.png")


def test_folders_without_images_and_unknown_names(tmp_path: Path) -> None:
    (tmp_path / "class").mkdir()
    with pytest.raises(UserError, match="no images"):
        load_source(str(tmp_path))
    with pytest.raises(UserError, match="did you mean pictograms"):
        load_source("pictogram")
    with pytest.raises(UserError, match="KEY=VALUE"):
        load_source("pictograms", ["background_bias"])
    with pytest.raises(UserError, match="--data-options"):
        load_source("pictograms", ["size=3"])


def test_class_names_must_differ(tmp_path: Path) -> None:
    for name in ("alarm_clock", "Alarm-clock"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "a.png")
    with pytest.raises(UserError, match=r"--data .*alarm_clock"):
        load_source(str(tmp_path))


def test_the_fingerprint_is_of_the_files(squares: ImageFolder, squares_folder: Path) -> None:
    assert squares.fingerprint() == ImageFolder(squares_folder).fingerprint()
    assert squares.fingerprint() != ImageFolder(squares_folder / "dark").fingerprint()
