"""Photos and texts of visitors: limits, damage, unusual shapes; and the HTML that shows their texts."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipalign.app import html, inputs
from clipalign.app.answers import Answer
from clipalign.app.inputs import Photo, read_photo, split_captions, split_names
from clipalign.app.session import MapRow
from clipalign.core.errors import UserError
from clipalign.core.types import Preprocess

SQUARE = Preprocess((32, 32), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def read(path: Path) -> Photo:
    return read_photo(path, [SQUARE])


@pytest.mark.parametrize(
    ("size", "cropped"), [((1, 1), False), ((64, 64), False), ((30_000, 3), True), ((90, 60), True)]
)
def test_photo_of_any_shape_is_read(size: tuple[int, int], cropped: bool, tmp_path: Path) -> None:
    Image.new("RGB", size, "red").save(tmp_path / "photo.png")
    photo = read(tmp_path / "photo.png")
    assert photo.views[SQUARE].shape == (1, 3, 32, 32)
    assert photo.cropped == cropped
    assert min(photo.visible.shape[:2]) >= inputs.SHOWN and photo.visible.shape[2] == 3
    assert photo.visible.min() >= 0 and photo.visible.max() <= 1


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16", "1"])
def test_photo_of_any_mode_is_read(mode: str, tmp_path: Path) -> None:
    Image.new(mode, (20, 20)).save(tmp_path / "photo.tif")
    assert read(tmp_path / "photo.tif").visible.shape[2] == 3


def test_text_with_the_name_of_a_picture_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "note.png").write_text("no picture")
    with pytest.raises(UserError, match=r"^note\.png cannot be read: not an image\. Choose a PNG"):
        read(tmp_path / "note.png")


def test_truncated_file_is_an_error(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:4000])
    with pytest.raises(UserError, match=r"^half\.png does not decode"):
        read(tmp_path / "half.png")


def test_formats_with_their_own_interpreters_are_not_opened(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "page.eps")
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path / "page.eps")


def test_large_pictures_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "read_image", None)  # would be called to decode
    for side, message in ((8000, "has 8000 x 8000 pixels, more than 50 million"), (30_000, "exceeds limit")):
        (tmp_path / "huge.png").write_bytes(png_header(side))
        with pytest.raises(UserError, match=rf"^huge\.png .*{message}"):
            read(tmp_path / "huge.png")
    monkeypatch.setattr(inputs, "MAX_BYTES", 10)
    with pytest.raises(UserError, match=r"^huge\.png is larger than"):
        read(tmp_path / "huge.png")


def png_header(side: int) -> bytes:
    """Return the beginning of a grey PNG of side x side pixels, with an empty data chunk."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters=",\r\n", codec="utf-8"), max_size=20), max_size=20))
def test_names_are_split_at_commas_and_lines_without_empty_and_equal_ones(parts: list[str]) -> None:
    for separator in (",", "\n", " ,\n"):
        try:
            names = split_names(separator.join(parts))
        except UserError as error:
            assert "Type some class names" in str(error)
            assert not any(part.replace("_", " ").replace("-", " ").strip() for part in parts)
            continue
        keys = [name.lower().replace("_", " ").replace("-", " ").split() for name in names]
        assert all(keys) and len({tuple(key) for key in keys}) == len(names)
        assert {name.split()[0] for name in names} <= {word for part in parts for word in part.split()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Type some class names"),
        (" ,\n- ,_", "Type some class names"),
        (",".join(map(str, range(301))), "301 class names are too many; the page takes 300"),
        ("x" * 1001, "has 1001 characters; the page takes 1000"),
    ],
)
def test_unusable_names_are_an_error(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        split_names(text)


def test_captions_keep_their_commas() -> None:
    assert split_captions("a dog, a cat\n\n a  bird \nA dog, a cat") == ("a dog, a cat", "a bird")


def test_texts_are_escaped() -> None:
    bad = "<img src=x onerror=alert(1)>\"'&"
    picture = np.zeros((8, 8, 3), np.uint8)
    pages = [
        html.problem(bad),
        html.hint(bad),
        html.answer_bars([Answer(bad, (bad,), (1.0,)), Answer(bad, problem=bad)]),
        html.map_table([bad], [MapRow(bad, (picture,))]),
    ]
    for page in pages:
        assert "<img src=x" not in page and "&lt;img src=x" in page
