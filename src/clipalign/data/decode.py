"""Image files to tensors: decode any supported file to upright RGB, then crop, resize and normalise."""

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
from .augment import AUGMENTATIONS

ImageFile = Path | bytes  # a path, or the encoded image itself if it is stored in a table or an archive

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})
HEIC_SUFFIXES = frozenset({".heic", ".heif"})
HEIC_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"})
HEIC_HINT = "Pillow does not read this format of phones; convert the files to JPEG or PNG"
CROP_RATIO = (3 / 4, 4 / 3)  # aspect ratio of a training crop
# Modes that always convert to RGB; files in other modes are decoded to find out.
PLAIN_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})


def read_image(file: ImageFile, name: str = "") -> Image.Image:
    """Decode an image to RGB, rotated as its EXIF data say.

    The first frame of an animation is used; transparent pixels become white.

    Args:
        file: path or encoded bytes.
        name: name in error messages. Default: the path.

    Raises:
        UserError: the file is missing, does not decode, or exceeds Pillow's limit against decompression bombs.
    """
    if isinstance(file, Path) and not file.is_file():
        raise UserError(f"no image file {printable(name or file)}")
    try:
        with Image.open(_stream(file)) as image:
            return to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # decoders raise almost any exception on a damaged file
        raise UserError(
            f"{printable(name or str(file))} does not decode as an image: {reason(file, error)}"
        ) from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB.

    16-bit values are scaled, not truncated. Modes without a defined range (floats above 1, 32-bit integers above
    255) are read as 16-bit values.
    """
    if image.mode[0] in "IF":
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))  # [H, W]
        if image.mode == "F" and values.max() <= 1:
            values = values * 255
        elif image.mode not in ("I", "F") or values.max() > 255:
            values = values / 257  # 65535 / 255
        return Image.fromarray(values.round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def decode_error(file: ImageFile) -> str | None:
    """Return the reason why a file is not a valid image, or None.

    JPEG and PNG files are not decoded, which is much faster: for PNG all chunks and their checksums are read, for
    JPEG the header and the end marker. Damage inside an otherwise complete JPEG is missed; decoders tolerate it.
    """
    if isinstance(file, Path) and not file.is_file():
        return "no such file"
    try:
        with Image.open(_stream(file)) as image:
            if image.mode in PLAIN_MODES and image.format == "PNG":
                image.verify()
                return None
            is_jpeg = image.mode in PLAIN_MODES and image.format in ("JPEG", "MPO")
            if is_jpeg and _last_bytes(file) == b"\xff\xd9":
                return None
            to_rgb(image)
    except Exception as error:
        return reason(file, error)
    return None


def training_view(image: Image.Image, rng: np.random.Generator, preprocess: Preprocess) -> Tensor:
    """Crop and resize at random, mirror with probability 0.5, then change colours: [3, H, W] in [0, 1].

    `preprocess.augment` names the transformations; "none" gives the evaluation view.
    """
    augmentation = AUGMENTATIONS[preprocess.augment]
    if augmentation is None:
        return evaluation_view(image, preprocess)
    width, height = image.size
    for _ in range(10):
        area = width * height * rng.uniform(*augmentation.area)
        ratio = np.exp(rng.uniform(*np.log(CROP_RATIO)))
        w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            break
    else:  # an elongated image: take the largest crop with an allowed aspect ratio
        w = max(1, min(width, round(height * CROP_RATIO[1])))
        h = max(1, min(height, round(width / CROP_RATIO[0])))
    left, top = rng.integers(width - w + 1), rng.integers(height - h + 1)
    box = (float(left), float(top), float(left + w), float(top + h))
    view = image.resize(preprocess.size[::-1], Image.Resampling[preprocess.interpolation.upper()], box=box)
    if rng.random() < 0.5:
        view = ImageOps.mirror(view)
    return TF.to_tensor(augmentation.change_colours(view, rng))


def evaluation_view(image: Image.Image, preprocess: Preprocess) -> Tensor:
    """Resize the shorter side and crop the centre, or resize both sides ("squash"): [3, H, W] in [0, 1]."""
    mode = InterpolationMode(preprocess.interpolation)
    if preprocess.resize == "squash":
        return TF.to_tensor(TF.resize(image, list(preprocess.size), mode))
    return TF.to_tensor(TF.center_crop(TF.resize(image, [max(preprocess.size)], mode), list(preprocess.size)))


def stack_views(views: list[Tensor], preprocess: Preprocess) -> Tensor:
    """Stack n views [3, H, W] into one normalised batch [n, 3, H, W]."""
    return preprocess.normalise(torch.stack(views) if views else torch.empty(0, 3, *preprocess.size))


def reason(file: ImageFile, error: BaseException) -> str:
    """Return in one line why a file does not decode, with a hint for HEIC files, whatever their suffix."""
    if isinstance(file, Path):
        try:
            with file.open("rb") as stream:
                head = stream.read(12)
        except OSError:
            return one_line(error)
    else:
        head = file[:12]
    return f"HEIC: {HEIC_HINT}" if head[4:8] == b"ftyp" and head[8:] in HEIC_BRANDS else one_line(error)


def one_line(error: BaseException) -> str:
    """Format the message of an exception in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "not an image" if text.startswith("cannot identify image file") else text


def printable(name: object) -> str:
    """Escape the bytes of a file name that are not UTF-8, so that it can be printed and written."""
    return str(name).encode("utf-8", "backslashreplace").decode("utf-8")


def file_size(path: Path) -> int:
    """Return the size in bytes, or 0 for a missing file, which `Source.broken` reports later."""
    return path.stat().st_size if path.is_file() else 0


def _stream(file: ImageFile) -> Path | io.BytesIO:
    return io.BytesIO(file) if isinstance(file, bytes) else file


def _last_bytes(file: ImageFile) -> bytes:
    """Return the last two bytes."""
    if isinstance(file, bytes):
        return file[-2:]
    with file.open("rb") as stream:
        stream.seek(-2, io.SEEK_END)
        return stream.read()
