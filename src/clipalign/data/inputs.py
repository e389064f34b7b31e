"""Images given in Python: files, folders, PIL images, arrays and tensors, to inputs of a backbone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..core.errors import UserError
from ..core.types import Interpolation, Preprocess
from .decode import evaluation_view, read_image, to_rgb
from .sources.folder import images_in

ImageInput: TypeAlias = "str | Path | Image.Image | np.ndarray | Tensor"
CHANNELS = (1, 3, 4)  # grey, RGB and RGBA


@dataclass(frozen=True)
class ImageTransform:
    """Turns an image into the input of a backbone, as a transform of torchvision does.

    The shorter side is resized, the centre cropped, and the channels are normalised.

    Attributes:
        settings: input size, normalisation and interpolation.
    """

    settings: Preprocess

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of inputs, in pixels."""
        return self.settings.size

    @property
    def mean(self) -> tuple[float, float, float]:
        """Mean of each channel in [0, 1], which is subtracted."""
        return self.settings.mean

    @property
    def std(self) -> tuple[float, float, float]:
        """Standard deviation of each channel in [0, 1], by which it is divided."""
        return self.settings.std

    @property
    def interpolation(self) -> Interpolation:
        """Interpolation of the resizing, "bicubic" or "bilinear"."""
        return self.settings.interpolation

    def __call__(self, image: ImageInput) -> Tensor:
        """Return the input of one image: [3, H, W] float32, normalised.

        Args:
            image: a file; a PIL image; an array [H, W] or [H, W, C], uint8 or float in [0, 1]; a uint8 tensor
                [C, H, W]; or a float tensor [3, H, W] that this transform returned, which is returned unchanged.

        Raises:
            UserError: a file that does not decode, or an array or tensor of another shape or type.
        """
        if isinstance(image, Tensor) and image.is_floating_point():
            if tuple(image.shape) != (3, *self.size):
                raise UserError(
                    f"images: a float tensor is a preprocessed image of shape {(3, *self.size)}, not "
                    f"{tuple(image.shape)}; pass pixels as uint8, or use model.preprocess"
                )
            return image.float()
        return self.settings.normalise(evaluation_view(to_image(image), self.settings)[None])[0]


def to_image(image: ImageInput) -> Image.Image:
    """Return any image with pixel values as upright RGB.

    Raises:
        UserError: as `ImageTransform.__call__`.
    """
    if isinstance(image, (str, Path)):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        return to_rgb(ImageOps.exif_transpose(image))
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] not in CHANNELS:
            raise UserError(
                f"images: a tensor of pixels is uint8 [3, H, W], not {image.dtype} {tuple(image.shape)}"
            )
        return to_image(image.permute(1, 2, 0).cpu().numpy())  # [H, W, C]
    if not isinstance(image, np.ndarray):
        raise UserError(
            f"images: {type(image).__name__} is no image; pass paths, PIL images, arrays or tensors"
        )
    return _from_array(image)


def _from_array(pixels: np.ndarray) -> Image.Image:
    if (
        pixels.ndim not in (2, 3)
        or 0 in pixels.shape
        or (pixels.ndim == 3 and pixels.shape[2] not in CHANNELS)
    ):
        raise UserError(f"images: an array is [H, W] or [H, W, 3], not {pixels.shape}")
    if np.issubdtype(pixels.dtype, np.floating):
        # NaN fails the comparison as well.
        if not (pixels.min() >= 0 and pixels.max() <= 1):
            raise UserError("images: the values of a float array must be in [0, 1]; or pass uint8")
        pixels = (pixels * 255).round().astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise UserError(f"images: an array is uint8, or float in [0, 1], not {pixels.dtype}")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]  # [H, W]
    return to_rgb(Image.fromarray(pixels))


def gather_images(
    images: ImageInput | Iterable[ImageInput],
) -> tuple[list[ImageInput], frozenset[Path]]:
    """Return single images, and those among them that are files found in folders.

    Args:
        images: an image, a folder, a batch [N, H, W, C] or [N, 3, H, W], or any iterable of these.

    Raises:
        UserError: a path that does not exist, or a folder without images.
    """
    found: list[ImageInput] = []
    inside: set[Path] = set()
    if isinstance(images, (str, Path)):
        path = Path(images)
        if not path.is_dir():
            if not path.is_file():
                raise UserError(f"no image file {path}")
            return [path], frozenset()
        files = images_in(path)
        if not files:
            raise UserError(f"no images in {path}")
        return list(files), frozenset(files)
    if isinstance(images, Image.Image):
        return [images], frozenset()
    if isinstance(images, (np.ndarray, Tensor)):
        return (list(images) if images.ndim == 4 else [images]), frozenset()
    if not isinstance(images, Iterable):
        to_image(images)  # raises: not an image
    for image in images:
        some, paths = gather_images(image)
        found += some
        inside |= paths
    return found, frozenset(inside)
