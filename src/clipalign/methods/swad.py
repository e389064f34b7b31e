"""SWAD: plain fine-tuning, predicting with the mean of the weights over a valley of the validation loss."""

from __future__ import annotations

from typing import ClassVar

from ..core.search import Choice, SearchSpace
from . import register
from .base import NoOptions
from .erm import Erm


@register("swad")
class Swad(Erm[NoOptions]):
    """`erm` with --average swad, which every method that trains weights supports.

    Published on DomainBed's ERM, which is `--method erm-linear-head --average swad`. The validation losses of
    --validate-every delimit the averaged steps (published: every 100 of 5000 steps; the default is the same share).
    """

    summary = "erm, averaging all weights over a valley of the validation loss"
    source = "Cha et al., SWAD: Domain Generalization by Seeking Flat Minima, NeurIPS 2021"
    average = "swad"
    search: ClassVar[SearchSpace] = {"average": Choice(("swad",))}
