"""Retrieval: train on captions, and test how well images and captions retrieve each other.

The parts come with the data; see `CaptionSource`.
"""

from __future__ import annotations

import numpy as np

from ..core.errors import UserError
from ..core.types import CaptionSource, Episode, Source
from .base import make_episode


def retrieval(source: Source, target: str | None, seed: int) -> Episode:
    """Build the episode of a caption data set, without classes and without target; see `build_episode`."""
    if not isinstance(source, CaptionSource):
        raise UserError(
            f"--protocol retrieval needs captions, and --data {source.name} has none; "
            "use pictoscenes, a table with a caption column, or another data set of docs/retrieval.md"
        )
    if target is not None:
        raise UserError("--target: --protocol retrieval leaves no domain out; remove the option")
    return make_episode(
        "retrieval",
        source,
        None,
        train_classes=(),
        train_rows=np.sort(source.parts["train"]),
        validation_rows=np.sort(source.parts["validation"]),
        caption_tests=source.caption_tests("test"),
        caption_validation=source.caption_tests("validation"),
        rule="the data set's own parts",
    )
