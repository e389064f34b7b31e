"""Retrieval: train on captions, test how images and captions find each other.

Which rows train, validate and test comes with the data; see `data.captions.CaptionSource`.
"""

from __future__ import annotations

import numpy as np

from ..core.errors import UserError
from ..core.types import CaptionSource, Episode, Source
from .base import make_episode

RETRIEVAL = "retrieval"


def episode(source: Source, target: str | None, seed: int) -> Episode:
    """The episode of a caption data set; it has no classes and no target domain; see `build_episode`."""
    if not isinstance(source, CaptionSource):
        raise UserError(
            f"--protocol retrieval needs captions, and --data {source.name} has none; "
            "take pictoscenes, a table with a caption column, or another of docs/retrieval.md"
        )
    if target is not None:
        raise UserError("--target: --protocol retrieval leaves no domain out; drop the option")
    return make_episode(
        RETRIEVAL,
        source,
        None,
        train_classes=(),
        train_rows=np.sort(source.parts["train"]),
        validation_rows=np.sort(source.parts["validation"]),
        caption_tests=source.caption_tests("test"),
        caption_validation=source.caption_tests("validation"),
        rule="the data set's own parts",
    )
