"""Registers each published set as a named data set."""

from __future__ import annotations

from pathlib import Path

from ..core.types import Source
from .published.declarations import SHIFT, CaptionSet, ImageSet, caption_sets, image_sets
from .published.open import open_caption_set, open_image_set, open_imagenet_shift
from .registry import SOURCES
from .request import NamedSource, SourceRequest


def _image_set(declared: ImageSet) -> NamedSource:
    def open_set(request: SourceRequest) -> Source:
        return open_image_set(declared, request.root or Path(), request.table)

    summary = f"{declared.title}, {declared.classes} classes; needs --data-root"
    return NamedSource(summary, open_set, declared.title, declared.licence, needs_root=True)


def _caption_set(declared: CaptionSet) -> NamedSource:
    def open_set(request: SourceRequest) -> Source:
        return open_caption_set(declared, request.root or Path(), request.table)

    summary = f"{declared.title}: captions; needs --data-root"
    return NamedSource(summary, open_set, declared.title, declared.licence, needs_root=True)


def _open_shift(request: SourceRequest) -> Source:
    return open_imagenet_shift(request.root or Path(), request.table)


for _declared in image_sets().values():
    SOURCES.add(_declared.name, _image_set(_declared))
SOURCES.add(
    SHIFT,
    NamedSource(
        "ImageNet and its variants as domains; needs --data-root",
        _open_shift,
        "ImageNet and its variants",
        image_sets()["imagenet"].licence,
        needs_root=True,
    ),
)
for _set in caption_sets().values():
    SOURCES.add(_set.name, _caption_set(_set))
