"""Zero-shot CLIP: cosines with the class prompts, nothing is trained."""

from __future__ import annotations

from . import register
from .base import Method, NoOptions


@register("zeroshot")
class ZeroShot(Method[NoOptions]):
    """z = s I Tᵀ with the pre-trained towers (Radford et al., 2021, section 3.1); see `Method.classifier`."""

    summary = "the backbone without training, classifying with class prompts"
    source = (
        "Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021"
    )
    trains = "nothing"
    iterates = False
