from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipalign.core.errors import UserError
from clipalign.core.types import Preprocess
from clipalign.data.decode import decode_error, evaluation_view, read_image, training_view

PREPROCESS = Preprocess((32, 32), (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))


def noise(mode: str = "RGB", size: tuple[int, int] = (60, 50)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pixel(content: bytes) -> tuple[int, int, int]:
    image = read_image(content)
    assert image.mode == "RGB"
    return image.getpixel((0, 0))  # type: ignore[return-value]


def test_sixteen_bits_are_scaled_not_cut_off() -> None:
    values = np.full((4, 4), 128 * 257, np.uint16)
    for kind in ("PNG", "TIFF"):
        assert pixel(encoded(Image.fromarray(values), kind)) == (128, 128, 128)
    assert pixel(encoded(Image.fromarray(values.astype(np.int32)), "TIFF")) == (128, 128, 128)


def test_floats_are_shares_or_sixteen_bits() -> None:
    for scale in (1.0, 65535.0):
        values = np.full((4, 4), 0.5 * scale, np.float32)
        assert pixel(encoded(Image.fromarray(values), "TIFF"))[0] == pytest.approx(128, abs=1)


def test_cmyk_palette_and_grey() -> None:
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    assert pixel(encoded(red.convert("CMYK"), "JPEG"))[0] > 240
    assert pixel(encoded(red.convert("P"), "PNG")) == (255, 0, 0)
    assert pixel(encoded(Image.new("L", (4, 4), 7), "PNG")) == (7, 7, 7)
    assert pixel(encoded(Image.new("1", (4, 4), 1), "PNG")) == (255, 255, 255)


def test_transparent_parts_are_white() -> None:
    clear = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    assert pixel(encoded(clear, "PNG")) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 0)
    assert pixel(encoded(palette, "PNG", transparency=0)) == (255, 255, 255)


def test_of_an_animation_the_first_frame_is_shown() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixel(content) == (255, 0, 0)


def test_exif_turns_images_upright() -> None:
    image = Image.new("RGB", (10, 20))
    exif = image.getexif()
    exif[0x0112] = 6  # rotated by 90 degrees
    assert read_image(encoded(image, "JPEG", exif=exif)).size == (20, 10)


def test_one_pixel_is_an_image() -> None:
    image = read_image(encoded(Image.new("RGB", (1, 1), (9, 9, 9)), "PNG"))
    for view in (
        training_view(image, np.random.default_rng(0), PREPROCESS),
        evaluation_view(image, PREPROCESS),
    ):
        assert view.shape == (3, 32, 32) and torch.allclose(view, torch.tensor(9 / 255))


def test_more_pixels_than_pillow_allows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(noise(), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match=r"big\.png .*decompression bomb"):
        read_image(content, "big.png")
    assert "decompression bomb" in str(decode_error(content))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_faults_of_cut_files_are_found(kind: str) -> None:
    content = encoded(noise(), kind)
    assert decode_error(content) is None
    read_image(content)
    assert decode_error(content[: len(content) * 2 // 3]) is not None
    assert decode_error(content[:10]) is not None


def test_bytes_after_the_end_of_a_jpeg_do_no_harm() -> None:
    assert decode_error(encoded(noise(), "JPEG") + b"\0" * 100) is None


def test_a_png_with_a_wrong_checksum_is_found() -> None:
    content = bytearray(encoded(noise(), "PNG"))
    content[len(content) // 2] ^= 0xFF
    assert decode_error(bytes(content)) is not None
    assert zlib.crc32(bytes(content)) != zlib.crc32(encoded(noise(), "PNG"))


def test_files_that_are_no_images(tmp_path: Path) -> None:
    for name, content in (("text.jpg", b"not an image"), ("empty.jpg", b"")):
        (tmp_path / name).write_bytes(content)
        assert decode_error(tmp_path / name) == "not an image"
    (tmp_path / "nowhere.jpg").symlink_to(tmp_path / "gone.jpg")
    assert decode_error(tmp_path / "nowhere.jpg") == "no such file"
    with pytest.raises(UserError, match=r"no image file .*nowhere\.jpg"):
        read_image(tmp_path / "nowhere.jpg")


def test_an_error_can_be_printed_whatever_the_name(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_image(tmp_path / "caf\udce9.jpg")
    assert str(caught.value).encode("utf-8")
