"""Masks of the object in test images: exact ones of a data set, or image files of the user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import UserError
from ..core.masked_source import MaskedSource
from ..core.types import Preprocess, Source, Stage
from ..data.decode import evaluation_view, read_image
from ..data.sources.folder import walk_images
from ..data.sources.table import ImageTable

ObjectMasks = Callable[
    [np.ndarray, np.ndarray], Tensor
]  # rows [n] and views [n] -> masks [n, h, w] in [0, 1]


def object_masks(source: Source, folder: Path | None, preprocess: Preprocess) -> ObjectMasks:
    """Return the masks of the test views of a data set.

    Args:
        source: data set.
        folder: --object-masks; None for the masks of the data set.
        preprocess: of the images.

    Raises:
        UserError: there are no masks, or the folder cannot be used with this data set.
    """
    if folder is not None:
        if not isinstance(source, ImageTable):
            raise UserError(f"--object-masks needs data of image files; {source.name} renders its images")
        return MaskFolder.read(source, folder, preprocess)
    if not isinstance(source, MaskedSource):
        raise UserError(
            f"{source.name} has no masks of its objects; give a folder of mask images with --object-masks DIR"
        )

    def exact(rows: np.ndarray, draws: np.ndarray) -> Tensor:
        samples = [
            source.sample(row, "test", draw) for row, draw in zip(rows.tolist(), draws.tolist(), strict=True)
        ]
        return torch.stack([sample.silhouette for sample in samples])  # [n, h, w]

    return exact


@dataclass(frozen=True)
class MaskFolder:
    """Masks in image files, cropped and resized as the images are.

    Attributes:
        source: data set of image files.
        folder: folder of the masks.
        files: path of an image without its suffix -> path of its mask.
        preprocess: of the images.
    """

    source: ImageTable
    folder: Path
    files: dict[str, Path]
    preprocess: Preprocess

    @classmethod
    def read(cls, source: ImageTable, folder: Path, preprocess: Preprocess) -> MaskFolder:
        """List the files of a folder.

        Raises:
            UserError: no such folder, or no images in it.
        """
        if not folder.is_dir():
            raise UserError(f"--object-masks: {folder} is not a folder")
        names = [f"{below}/{name}" if below else name for below, name, _ in walk_images(folder)]
        if not names:
            raise UserError(f"--object-masks: no images in {folder}")
        return cls(source, folder, {_stem(name): folder / name for name in names}, preprocess)

    def check(self, rows: np.ndarray) -> None:
        """Raise UserError if a row has no mask."""
        missing = [
            self.source.keys[row] for row in rows.tolist() if _stem(self.source.keys[row]) not in self.files
        ]
        if missing:
            more = f" and {len(missing) - 1} other images" if len(missing) > 1 else ""
            raise UserError(
                f"--object-masks: {self.folder} has no mask for {missing[0]}{more}; a mask has the path of its image, "
                "with any suffix"
            )

    def __call__(self, rows: np.ndarray, draws: np.ndarray) -> Tensor:
        return torch.stack([self._mask(row) for row in rows.tolist()])  # [n, h, w]

    def _mask(self, row: int) -> Tensor:
        key = self.source.keys[row]
        path = self.files[_stem(key)]
        mask, image = read_image(path), read_image(self.source.file(row), key)
        if mask.size != image.size:
            have, need = (f"{size[0]} x {size[1]}" for size in (mask.size, image.size))
            raise UserError(f"--object-masks: {path} has {have} pixels, its image {key} has {need}")
        return evaluation_view(mask.convert("L"), self.preprocess)[0]  # [1, h, w] -> [h, w]


def _stem(key: str) -> str:
    return str(Path(key).with_suffix(""))


class ObjectsOnly(Source):
    """Test views of a data set with everything but the object replaced by the mean colour of the preprocessing.

    Args:
        source: data set.
        masks: masks of its test views.
    """

    def __init__(self, source: Source, masks: ObjectMasks) -> None:
        self.source, self.masks = source, masks
        self.name, self.class_names, self.domain_names = source.name, source.class_names, source.domain_names
        self.templates, self.labels, self.domains = source.templates, source.labels, source.domains

    def views(self, stage: Stage) -> int:
        """Return the number of views of the data set."""
        return self.source.views(stage)

    def images(
        self, rows: np.ndarray, stage: Stage, draws: np.ndarray, seed: int, preprocess: Preprocess
    ) -> Tensor:
        """Return views without background; see `Source.images`."""
        images = self.source.images(rows, stage, draws, seed, preprocess)  # [n, 3, H, W]
        masks = self.masks(rows, draws)[:, None]  # [n, 1, h, w]
        if masks.shape[-2:] != images.shape[-2:]:
            masks = F.interpolate(
                masks, size=images.shape[-2:], mode="bilinear", antialias=True
            )  # [n, 1, H, W]
        return images * masks  # 0 is the mean colour

    def fingerprint(self) -> str:
        """Return that of the data set."""
        return self.source.fingerprint()
