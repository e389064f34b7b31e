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


def test_folder_of_domains_reads_domains_and_classes(squares: ImageFolder) -> None:
    assert isinstance(squares, Source)
    assert squares.domain_names == ("dark", "grey", "light")
    assert squares.class_names == ("blue_square", "green_square", "red_square", "yellow_square")
    assert len(squares.labels) == 60
    for row in (0, 17, 59):
        path = squares.paths[row]
        assert path.parent.name == squares.class_names[squares.labels[row]]
        assert path.parent.parent.name == squares.domain_names[squares.domains[row]]


def test_folder_of_classes_is_one_domain(squares_folder: Path) -> None:
    source = ImageFolder(squares_folder / "grey")
    assert source.domain_names == ("grey",)
    assert len(source.class_names) == 4 and len(source.labels) == 20


def test_class_folders_are_searched_at_any_depth(tmp_path: Path) -> None:
    for path in ("cat/a.png", "cat/more/b.png", "dog/c.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / path)
    source = ImageFolder(tmp_path)
    assert source.class_names == ("cat", "dog") and len(source.domain_names) == 1


def test_evaluation_view_equals_open_clip(squares: ImageFolder) -> None:
    transform = open_clip.image_transform(32, is_train=False, mean=PREPROCESS.mean, std=PREPROCESS.std)
    expected = torch.stack([transform(Image.open(squares.paths[row])) for row in (0, 30)])
    views = squares.images(np.array([0, 30]), "test", np.zeros(2, int), 0, PREPROCESS)
    assert torch.allclose(views, expected, atol=1e-6)


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


def test_training_view_keeps_most_of_the_image_and_flips_half() -> None:
    # Pixel values that grow with x and y reveal which share of each axis a crop keeps.
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


def test_views_of_elongated_images_have_full_size() -> None:
    long = Image.new("RGB", (400, 2))
    assert training_view(long, np.random.default_rng(0), PREPROCESS).shape == (3, 32, 32)
    assert evaluation_view(long, PREPROCESS).shape == (3, 32, 32)


def test_read_image_gives_upright_rgb(tmp_path: Path) -> None:
    image = Image.new("RGB", (10, 20), (255, 0, 0))
    exif = image.getexif()
    exif[0x0112] = 6  # rotated by 90 degrees
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").size == (20, 10)
    Image.new("LA", (4, 4)).save(tmp_path / "b.png")
    assert read_image(tmp_path / "b.png").mode == "RGB"


def test_read_image_names_invalid_files(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("not an image")
    with pytest.raises(UserError, match=r"a\.png does not decode"):
        read_image(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"b\.png does not decode"):
        read_image(tmp_path / "b.png")
    with pytest.raises(UserError, match=r"no image file .*c\.png"):
        read_image(tmp_path / "c.png")


def test_load_source_names_invalid_data_and_settings(tmp_path: Path) -> None:
    (tmp_path / "class").mkdir()
    with pytest.raises(UserError, match="no images"):
        load_source(str(tmp_path))
    with pytest.raises(UserError, match="did you mean pictograms"):
        load_source("pictogram")
    with pytest.raises(UserError, match="KEY=VALUE"):
        load_source("pictograms", ["background_bias"])
    with pytest.raises(UserError, match="--data-options"):
        load_source("pictograms", ["size=3"])


def test_ambiguous_class_names_raise_an_error(tmp_path: Path) -> None:
    for name in ("alarm_clock", "Alarm-clock"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "a.png")
    with pytest.raises(UserError, match=r"--data .*alarm_clock"):
        load_source(str(tmp_path))


def test_fingerprint_depends_on_the_files(squares: ImageFolder, squares_folder: Path) -> None:
    assert squares.fingerprint() == ImageFolder(squares_folder).fingerprint()
    assert squares.fingerprint() != ImageFolder(squares_folder / "dark").fingerprint()
