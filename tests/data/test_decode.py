from __future__ import annotations

import io
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


def test_read_image_scales_16_bit_values() -> None:
    values = np.full((4, 4), 128 * 257, np.uint16)
    for kind in ("PNG", "TIFF"):
        assert pixel(encoded(Image.fromarray(values), kind)) == (128, 128, 128)
    assert pixel(encoded(Image.fromarray(values.astype(np.int32)), "TIFF")) == (128, 128, 128)


def test_read_image_detects_the_range_of_float_values() -> None:
    for scale in (1.0, 65535.0):
        values = np.full((4, 4), 0.5 * scale, np.float32)
        assert pixel(encoded(Image.fromarray(values), "TIFF"))[0] == pytest.approx(128, abs=1)


def test_read_image_converts_every_mode_to_rgb() -> None:
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    assert pixel(encoded(red.convert("CMYK"), "JPEG"))[0] > 240
    assert pixel(encoded(red.convert("P"), "PNG")) == (255, 0, 0)
    assert pixel(encoded(Image.new("L", (4, 4), 7), "PNG")) == (7, 7, 7)
    assert pixel(encoded(Image.new("1", (4, 4), 1), "PNG")) == (255, 255, 255)


def test_read_image_puts_transparent_pixels_on_white() -> None:
    clear = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    assert pixel(encoded(clear, "PNG")) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 0)
    assert pixel(encoded(palette, "PNG", transparency=0)) == (255, 255, 255)


def test_read_image_takes_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixel(content) == (255, 0, 0)


def test_read_image_applies_exif_rotation() -> None:
    image = Image.new("RGB", (10, 20))
    exif = image.getexif()
    exif[0x0112] = 6  # rotated by 90 degrees
    assert read_image(encoded(image, "JPEG", exif=exif)).size == (20, 10)


def test_views_of_a_single_pixel_have_full_size() -> None:
    image = read_image(encoded(Image.new("RGB", (1, 1), (9, 9, 9)), "PNG"))
    for view in (
        training_view(image, np.random.default_rng(0), PREPROCESS),
        evaluation_view(image, PREPROCESS),
    ):
        assert view.shape == (3, 32, 32) and torch.allclose(view, torch.tensor(9 / 255))


def test_read_image_refuses_decompression_bombs(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(noise(), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match=r"big\.png .*decompression bomb"):
        read_image(content, "big.png")
    assert "decompression bomb" in str(decode_error(content))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_decode_error_detects_truncated_files(kind: str) -> None:
    content = encoded(noise(), kind)
    assert decode_error(content) is None
    read_image(content)
    assert decode_error(content[: len(content) * 2 // 3]) is not None
    assert decode_error(content[:10]) is not None


def test_decode_error_accepts_bytes_after_the_end_of_a_jpeg() -> None:
    assert decode_error(encoded(noise(), "JPEG") + b"\0" * 100) is None


def test_decode_error_detects_a_wrong_png_checksum() -> None:
    content = bytearray(encoded(noise(), "PNG"))
    content[len(content) // 2] ^= 0xFF
    assert decode_error(bytes(content)) is not None


def test_decode_error_names_the_reason(tmp_path: Path) -> None:
    for name, content in (("text.jpg", b"not an image"), ("empty.jpg", b"")):
        (tmp_path / name).write_bytes(content)
        assert decode_error(tmp_path / name) == "not an image"
    (tmp_path / "nowhere.jpg").symlink_to(tmp_path / "gone.jpg")
    assert decode_error(tmp_path / "nowhere.jpg") == "no such file"
    with pytest.raises(UserError, match=r"no image file .*nowhere\.jpg"):
        read_image(tmp_path / "nowhere.jpg")


def test_read_image_error_is_printable_for_any_file_name(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_image(tmp_path / "caf\udce9.jpg")
    assert str(caught.value).encode("utf-8")
