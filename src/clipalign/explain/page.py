"""HTML page of maps: a slider between two models, and pickers of image, text, structure and layer."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ..core.pages import data_uri, page_environment
from .kinds import MapKind, layers_label
from .map_figure import DIFFERENCES, VALUES, colour_table
from .photo import Explanation

DIGITS = 5  # decimals of the values in the page


@dataclass(frozen=True)
class ExplainedPhoto:
    """One photo with the maps of all models.

    Attributes:
        name: name of the photo, unique.
        pixels: [H, W, 3] in [0, 1], the part that the maps cover.
        explanations: one per model, from left to right.
    """

    name: str
    pixels: np.ndarray
    explanations: Sequence[Explanation]


def page_html(
    photos: Sequence[ExplainedPhoto], texts: Sequence[str], kinds: Sequence[MapKind], num_layers: int
) -> str:
    """Return a page that holds all maps and loads nothing, so that it works from a file.

    Args:
        photos: at least one.
        texts: T texts.
        kinds: kinds of maps; a key "NAME@LAYER" is a single layer of the kind NAME.
        num_layers: attention layers that all models have.
    """
    data = {
        "texts": list(texts),
        "models": [each.model.title for each in photos[0].explanations],
        "kinds": [_kind(kind) for kind in kinds],
        "photos": [_photo(photo, kinds) for photo in photos],
        "layers": num_layers,
        "colours": {name: colour_table(table).tolist() for name, table in _TABLES.items()},
    }
    return page_environment(__package__).get_template("explain.html.jinja").render(data=data)


_TABLES = {"values": VALUES, "differences": DIFFERENCES}


def _kind(kind: MapKind) -> dict[str, Any]:
    group, _, layer = kind.key.partition("@")
    default = layers_label(kind.layers) if kind.layers else "all layers"
    return {
        "key": kind.key,
        "group": group,
        "label": kind.label.partition(",")[0],
        "layer": layers_label([int(layer)]) if layer else default,
        "perText": kind.per_text,
    }


def _photo(photo: ExplainedPhoto, kinds: Sequence[MapKind]) -> dict[str, Any]:
    encoded = io.BytesIO()
    Image.fromarray((255 * photo.pixels).round().astype(np.uint8)).save(encoded, "JPEG", quality=90)
    first = photo.explanations[0]
    centre = first.centre
    framed = first.covered.is_all and not centre.is_all
    return {
        "name": photo.name,
        "source": data_uri(encoded.getvalue(), "jpeg"),
        "frame": [centre.left, centre.top, centre.right, centre.bottom] if framed else None,
        "models": [
            {
                "cosines": [round(value, 4) for value in each.cosines],
                "maps": {kind.key: _values(each.maps[kind.key]) for kind in kinds},
            }
            for each in photo.explanations
        ],
    }


def _values(maps: Tensor) -> list[list[list[float]]]:
    return maps.double().numpy().round(DIGITS).tolist()  # [T, Gh, Gw]
