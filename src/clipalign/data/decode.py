"""From an image file to what a model sees: any kind of file in, upright RGB and views of it out."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from ..core.errors import UserError
from ..core.types import Preprocess

File = Path | bytes  # on a disk, or the content itself where images lie inside tables and archives

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})
CROP_AREA = (0.7, 1.0)  # share of the image a training crop keeps, as DomainBed and CLIPood have it
CROP_RATIO = (3 / 4, 4 / 3)  # width over height of a training crop
# Modes that surely become RGB; the others are tried.
PLAIN_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})


def read_image(file: File, name: str = "") -> Image.Image:
    """An image upright (EXIF), as RGB: the first frame of an animation, transparent parts on white.

    Args:
        file: where it is.
        name: what to call it in an error. Default: its path.

    Raises:
        UserError: the file is missing or does not decode; more pixels than Pillow's guard against
            decompression bombs allows are refused too.
    """
    if isinstance(file, Path) and not file.is_file():
        raise UserError(f"no image file {printable(name or file)}")
    try:
        with Image.open(opened(file)) as image:
            return to_rgb(ImageOps.exif_transpose(image))
    # Decoders of damaged files raise almost anything.
    except Exception as error:
        raise UserError(
            f"{printable(name or str(file))} does not decode as an image: {said(error)}"
        ) from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Eight bits of red, green and blue from any mode.

    Sixteen bits are scaled, not cut off; numbers without a range of their own (floats above 1, 32-bit
    integers above 255) are taken as sixteen bits.
    """
    if image.mode[0] in "IF":
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        if image.mode == "F" and values.max() <= 1:
            values = values * 255
        elif image.mode not in ("I", "F") or values.max() > 255:
            values = values / 257
        return Image.fromarray(values.round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def fault(file: File) -> str | None:
    """Why a file is no image, or None; much faster than decoding for JPEG and PNG.

    Of these, the header is read and the end looked for (JPEG: the end marker, PNG: all chunks with their
    checksums); damage inside the data of a JPEG with both ends is not found, decoders pass over it. Files of
    other formats are decoded.
    """
    if isinstance(file, Path) and not file.is_file():
        return "no such file"
    try:
        with Image.open(opened(file)) as image:
            if image.mode in PLAIN_MODES and image.format == "PNG":
                image.verify()
                return None
            if (
                image.mode in PLAIN_MODES
                and image.format in ("JPEG", "MPO")
                and last_bytes(file) == b"\xff\xd9"
            ):
                return None
            to_rgb(image)
    except Exception as error:
        return said(error)
    return None


def training_view(image: Image.Image, rng: np.random.Generator, preprocess: Preprocess) -> Tensor:
    """A random crop of 70-100 % of the area, resized, flipped half of the time: [3, H, W] in [0, 1]."""
    width, height = image.size
    for _ in range(10):
        area = width * height * rng.uniform(*CROP_AREA)
        ratio = np.exp(rng.uniform(*np.log(CROP_RATIO)))
        w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            break
    else:  # a very long image: the largest crop with an allowed ratio
        w = max(1, min(width, round(height * CROP_RATIO[1])))
        h = max(1, min(height, round(width / CROP_RATIO[0])))
    left, top = rng.integers(width - w + 1), rng.integers(height - h + 1)
    box = (float(left), float(top), float(left + w), float(top + h))
    view = image.resize(preprocess.size[::-1], Image.Resampling[preprocess.interpolation.upper()], box=box)
    if rng.random() < 0.5:
        view = ImageOps.mirror(view)
    return TF.to_tensor(view)


def evaluation_view(image: Image.Image, preprocess: Preprocess) -> Tensor:
    """The shorter side resized, the centre cropped: [3, H, W] in [0, 1]."""
    mode = InterpolationMode(preprocess.interpolation)
    return TF.to_tensor(TF.center_crop(TF.resize(image, [max(preprocess.size)], mode), list(preprocess.size)))


def stack(views: list[Tensor], preprocess: Preprocess) -> Tensor:
    """Views as one normalised tensor [n, 3, H, W]."""
    return preprocess.normalise(torch.stack(views) if views else torch.empty(0, 3, *preprocess.size))


def opened(file: File) -> Path | io.BytesIO:
    """What Pillow can open."""
    return io.BytesIO(file) if isinstance(file, bytes) else file


def last_bytes(file: File) -> bytes:
    """The last two bytes."""
    if isinstance(file, bytes):
        return file[-2:]
    with file.open("rb") as stream:
        stream.seek(-2, io.SEEK_END)
        return stream.read()


def said(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "not an image" if text.startswith("cannot identify image file") else text


def printable(name: object) -> str:
    """A file name that is not UTF-8, as text that can be written anywhere."""
    return str(name).encode("utf-8", "backslashreplace").decode("utf-8")


def file_size(path: Path) -> int:
    """Bytes; 0 where there is no such file, which is then reported as broken."""
    return path.stat().st_size if path.is_file() else 0
