"""What an icon's name says: style words off, one spelling, and which Pictograms concept it names."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from iconify import PERMISSIVE, IconSet, read_set

# Words that tell how a thing is drawn, or which edition it is, not what it is.
# fmt: off
STYLE = frozenset((
    "outline", "outlined", "outlines", "filled", "fill", "solid", "line", "linear", "light", "bold",
    "bolder", "thin", "regular", "duotone", "twotone", "two-tone", "tone", "sharp", "rounded", "round",
    "broken", "alt", "o", "s", "f", "flat", "remix", "micro", "mini", "variant", "color", "colour",
    "stroke", "strokes", "bulk", "curved", "ultrathin", "black", "white", "off", "v1", "v2", "standard",
    "icon", "icons", "emoji", "lg", "sm", "md", "xl", "rounded-corner", "dot", "small", "large", "big",
    "xs", "gradient", "neon", "duo", "bw", "plump", "free", "core", "pop",
))
# fmt: on
# Makers of benchmark art: none of their other editions may be trained on.
BENCHMARK_VENDORS = ("google", "microsoft", "twitter", "material design authors")
# Brands and flags are no pictures of things.
LEFT_OUT_CATEGORIES = frozenset({"Logos", "Programming"})
LEFT_OUT_SETS = frozenset(
    {
        "circle-flags",
        "flag",
        "flagpack",
        "cif",
        "svg-spinners",
        "bpmn",
        "ginetex",
        "academicons",
        "dinkie-icons",
    }
)


def words(name: str) -> tuple[str, ...]:
    """`"Apple-Fill-24"` -> `("apple",)`. A name made of style words alone keeps them."""
    spaced = re.sub(r"([a-z])([A-Z])", r"\1-\2", name).lower().replace("’", "").replace("'", "")
    tokens = [token for token in re.split(r"[^a-z0-9]+", spaced) if token]
    kept = [
        token for token in tokens if token not in STYLE and not re.fullmatch(r"\d+(px)?|i|ic|\d+x\d+", token)
    ]
    return tuple(kept or tokens)


@dataclass(frozen=True)
class Candidate:
    """One line of concepts.txt.

    Attributes:
        emoji: emojibase's English label, which the benchmark art is found by.
        label: the class name.
        names: word tuples that artists use for it, the label's own first.
    """

    emoji: str
    label: str
    names: tuple[tuple[str, ...], ...]


def read_candidates(path: Path) -> list[Candidate]:
    """Reads concepts.txt; raises ValueError on a duplicate label."""
    candidates, seen = [], set()
    for line in path.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        emoji, label, other = (part.strip() for part in (line + "||").split("|")[:3])
        label = label or emoji
        if label in seen:
            raise ValueError(f"{path}: label {label!r} stands twice")
        seen.add(label)
        names = [label, *(part.strip() for part in other.split(",") if part.strip())]
        candidates.append(Candidate(emoji, label, tuple(dict.fromkeys(words(name) for name in names))))
    return candidates


def pretraining_sets(folder: Path) -> list[IconSet]:
    """The sets of `@iconify/json` that may be pre-trained on (licence, vendor and subject)."""
    chosen = []
    for prefix, info in json.loads((folder / "collections.json").read_text()).items():
        vendor = info["author"]["name"].lower()
        if (
            info["license"].get("spdx") in PERMISSIVE
            and info.get("category") not in LEFT_OUT_CATEGORIES
            and prefix not in LEFT_OUT_SETS
            and not prefix.endswith(("-brands", "-logos"))
            and not any(maker in vendor for maker in BENCHMARK_VENDORS)
        ):
            chosen.append(read_set(folder / "json" / f"{prefix}.json", info))
    return chosen


def concept_drawings(sets: list[IconSet], candidates: list[Candidate]) -> dict[str, list[tuple[str, str]]]:
    """Which drawings show a concept: label -> [(set, icon name)]. A whole name must match, in any word order."""
    owner: dict[tuple[str, ...], str] = {}
    for candidate in candidates:
        for name in candidate.names:
            owner.setdefault(tuple(sorted(name)), candidate.label)
    found = defaultdict(list)
    for icons in sets:
        for name in icons.icons:
            label = owner.get(tuple(sorted(words(name))))
            if label is not None:
                found[label].append((icons.prefix, name))
    return found
