"""What is known of published image sets; `published.yaml` declares each."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import yaml

from ...backbone.text.features import DEFAULT_TEMPLATES
from ...core.errors import UserError

SHIFT = "imagenet-shift"  # ImageNet and its variants as domains of one data set
SHIFT_MEMBERS = ("imagenet", "imagenet-v2", "imagenet-sketch", "imagenet-a", "imagenet-r")


@dataclass(frozen=True)
class Declaration:
    """What is known of a published set; the head of published.yaml says what each field means."""

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

    def fail(self, what: str) -> UserError:
        """An error that says where the set comes from."""
        return UserError(
            f"--data {self.name}: {what}. Get it from: {self.obtain} (licence: {self.licence}); then "
            f"`clipalign data prepare {self.name} --archive FILE --root DIR`"
        )


@lru_cache
def declarations() -> dict[str, Declaration]:
    """All published sets by name."""
    content = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))
    return {name: Declaration(name, **facts) for name, facts in content.items()}


def declared(name: str) -> Declaration | None:
    """A set by its name, title or folder, however it is written: OfficeHome, office_home, office-home."""

    def squashed(text: str) -> str:
        return re.sub(r"[^a-z0-9]", "", text.lower())

    for declaration in declarations().values():
        if squashed(name) in map(squashed, (declaration.name, declaration.title, declaration.folder)):
            return declaration
    return None
