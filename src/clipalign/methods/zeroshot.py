"""CLIP as it is: cosines with the class prompts, nothing trained."""

from __future__ import annotations

from . import register
from .base import Method


@register("zeroshot")
class ZeroShot(Method):
    """z = s I Tᵀ with the pre-trained towers (Radford et al., 2021, section 3.1)."""

    summary = "the backbone as it is, with class prompts"
    source = (
        "Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021"
    )
    trains = "nothing"
    iterates = False
