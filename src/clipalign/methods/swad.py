"""SWAD: plain fine-tuning, predicting with the mean of all weights in the valley of the validation loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from . import register
from .erm import Erm


@register("swad")
class Swad(Erm):
    """`erm` with `--average swad`, which works with every other method that trains weights too.

    Published on DomainBed's ERM; `--method erm-linear-head --average swad` is that. Measurements of the
    validation loss delimit what is averaged: --validate-every (published: 100 of 5000 steps; the default is
    the same share of --steps).
    """

    summary = "erm, averaging all weights in the valley of the validation loss"
    source = "Cha et al., SWAD: Domain Generalization by Seeking Flat Minima, NeurIPS 2021"
    average = "swad"
    published: ClassVar[Mapping[str, Any]] = Erm.published
