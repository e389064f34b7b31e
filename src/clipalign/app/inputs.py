"""What visitors send: photos and texts, checked before a model sees them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from ..backbone.text.features import prompt_name
from ..core.errors import UserError
from ..core.types import Preprocess
from ..data.decode import evaluation_view, one_line, printable, read_image
from ..explain.photo import on_screen
from ..explain.windows import centre_box

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_BYTES = 20_000_000
MAX_PIXELS = 50_000_000
MAX_NAMES = 300  # class names
MAX_TEXTS = 12  # captions
MAX_LENGTH = 1000  # characters of a text
SHOWN = 384  # pixels of the shorter side that small pictures are enlarged to, for maps


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded photo.

    Attributes:
        visible: the part that the models see, [H, W, 3] in [0, 1].
        views: preprocessing -> model input, [1, 3, H, W], normalised.
        cropped: whether the models see only its centre.
    """

    visible: np.ndarray
    views: dict[Preprocess, Tensor]
    cropped: bool


def read_photo(path: str | Path, preprocesses: Iterable[Preprocess]) -> Photo:
    """Decode an uploaded file.

    Args:
        path: the file; messages contain only its name.
        preprocesses: those of all models.

    Raises:
        UserError: a file that is too large, of another format, or damaged.
    """
    path = Path(path)
    name = printable(path.name)
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{name} is larger than {MAX_BYTES // 10**6} MB; choose a smaller file")
    try:
        # Only these decoders, and only the header, before the size is known.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of many pixels
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
    except Exception as error:  # decoders raise almost any exception on a damaged file
        raise UserError(
            f"{name} cannot be read: {one_line(error)}. Choose a PNG, JPEG, WebP, GIF, BMP or TIFF file"
        ) from None
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{name} has {width} x {height} pixels, more than {MAX_PIXELS // 10**6} million; choose a smaller one"
        )
    picture = read_image(path, name)
    views = {each: each.normalise(evaluation_view(picture, each)[None]) for each in preprocesses}
    first = next(iter(views))
    visible = on_screen(picture, centre_box(picture.size, first.size))
    wide, high = picture.width / first.size[1], picture.height / first.size[0]
    return Photo(_enlarged(visible), views, cropped=max(wide, high) > 1.02 * min(wide, high))


def _enlarged(visible: np.ndarray) -> np.ndarray:
    """Enlarge a small picture, so that maps over it are smooth."""
    height, width = visible.shape[:2]
    factor = SHOWN / min(height, width)
    if factor <= 1:
        return visible
    size = (round(width * factor), round(height * factor))
    picture = Image.fromarray((visible * 255).round().astype(np.uint8))
    return np.asarray(picture.resize(size, Image.Resampling.BICUBIC), dtype=np.float64) / 255


def split_names(text: str) -> tuple[str, ...]:
    """Return class names separated by commas or line breaks; duplicates are dropped.

    Example:
        >>> split_names("dog, cat\\nhot_dog,, Dog")
        ('dog', 'cat', 'hot_dog')

    Raises:
        UserError: no names, too many, or one that is too long.
    """
    return _distinct(re.split(r"[,\n]", text), "class names", MAX_NAMES)


def split_captions(text: str) -> tuple[str, ...]:
    """Return captions, one per line; duplicates are dropped.

    Raises:
        UserError: no captions, too many, or one that is too long.
    """
    return _distinct(text.splitlines(), "captions", MAX_TEXTS)


def _distinct(parts: Iterable[str], kind: str, most: int) -> tuple[str, ...]:
    found: dict[str, str] = {}
    for part in parts:
        if key := prompt_name(part).lower():
            found.setdefault(key, " ".join(part.split()))
    if not found:
        raise UserError(f"Type some {kind}.")
    if len(found) > most:
        raise UserError(f"{len(found)} {kind} are too many; the page takes {most}.")
    if (longest := max(map(len, found.values()))) > MAX_LENGTH:
        raise UserError(f"One of the {kind} has {longest} characters; the page takes {MAX_LENGTH}.")
    return tuple(found.values())
