"""Declarations of the published data sets: `image_sets.yaml` and `caption_sets.yaml` as dataclasses."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml

from ...backbone.text.features import DEFAULT_TEMPLATES
from ...core.errors import UserError

SHIFT = "imagenet-shift"  # ImageNet and its variants as the domains of one data set
SHIFT_MEMBERS = ("imagenet", "imagenet-v2", "imagenet-sketch", "imagenet-a", "imagenet-r")


@dataclass(frozen=True)
class ImageSet:
    """A published image set; the head of image_sets.yaml explains each field."""

    name: str
    title: str
    layout: str
    folder: str
    classes: int
    counts: list[list[int]]
    licence: str
    obtain: str
    images: str = "."
    domains: list[str] = field(default_factory=list)
    split: str | None = None
    split_needed: bool = False
    drop: list[str] = field(default_factory=list)
    rename: dict[str, str] = field(default_factory=dict)
    template: str = DEFAULT_TEMPLATES[0]
    paper_template: str | None = None
    unpacked: str | None = None

    def error(self, problem: str) -> UserError:
        """Return an error that adds where to get the set."""
        return UserError(
            f"--data {self.name}: {problem}. Get it from: {self.obtain} (licence: {self.licence}); then "
            f"`clipalign data prepare {self.name} --archive FILE --root DIR`"
        )


@dataclass(frozen=True)
class CaptionSet:
    """A published set of captions; the head of caption_sets.yaml explains each field."""

    name: str
    title: str
    reader: str
    folder: str
    annotations: str
    licence: str
    obtain: str
    images: list[str] = field(default_factory=list)
    captions: int | None = None
    test: Literal["long", "short"] | None = None
    variant: str = ""
    counts: list[int] = field(default_factory=list)

    def error(self, problem: str) -> UserError:
        """Return an error that adds where to get the set."""
        return UserError(
            f"--data {self.name}: {problem}. Get it from: {self.obtain} (licence: {self.licence}); docs/retrieval.md "
            "describes its layout below --data-root"
        )


@lru_cache
def image_sets() -> dict[str, ImageSet]:
    """Return all published image sets by name."""
    return {name: ImageSet(name, **fields) for name, fields in _read("image_sets.yaml").items()}


@lru_cache
def caption_sets() -> dict[str, CaptionSet]:
    """Return all published caption sets by name."""
    return {name: CaptionSet(name, **fields) for name, fields in _read("caption_sets.yaml").items()}


def find_image_set(name: str) -> ImageSet | None:
    """Return a set by name, title or folder, ignoring case and punctuation: OfficeHome, office_home, office-home."""
    for declared in image_sets().values():
        if _letters(name) in map(_letters, (declared.name, declared.title, declared.folder)):
            return declared
    return None


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _read(file: str) -> dict[str, dict[str, Any]]:
    content: dict[str, dict[str, Any]] = yaml.safe_load(
        Path(__file__).with_name(file).read_text(encoding="utf-8")
    )
    return content
