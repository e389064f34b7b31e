"""Image preprocessing of a backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.types import Interpolation, Preprocess, Source

if TYPE_CHECKING:
    from .model import Backbone


def preprocess_for(
    backbone: Backbone, interpolation: Interpolation | None = None, source: Source | None = None
) -> Preprocess:
    """Return input size and normalisation of a backbone.

    Args:
        backbone: image size, resize mode, mean and standard deviation.
        interpolation: explicit, else the data set's, else the backbone's.
        source: the data set, if any.
    """
    chosen = interpolation or (source.interpolation if source else None) or backbone.interpolation
    red, green, blue = backbone.mean
    std_red, std_green, std_blue = backbone.std
    return Preprocess(
        backbone.image_size,
        (red, green, blue),
        (std_red, std_green, std_blue),
        chosen,
        resize=backbone.resize,
    )
