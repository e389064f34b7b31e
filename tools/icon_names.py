"""Normalise icon names and match them to the concepts of Pictograms."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from iconify import PERMISSIVE, IconSet, read_set

# Words that describe the style or the edition of a drawing rather than its content.
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
# Vendors of the benchmark art: none of their icon sets is used for pre-training.
BENCHMARK_VENDORS = ("google", "microsoft", "twitter", "material design authors")
# Brands and flags do not depict objects.
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
    """Split a name into words without style words: `"Apple-Fill-24"` -> `("apple",)`.

    A name consisting only of style words keeps them.
    """
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
        emoji: emojibase's English label, used to look up the benchmark art.
        label: the class name.
        names: names that artists use for it as word tuples, the label first.
    """

    emoji: str
    label: str
    names: tuple[tuple[str, ...], ...]


def read_candidates(path: Path) -> list[Candidate]:
    """Read concepts.txt.

    Raises:
        ValueError: duplicate label.
    """
    candidates, seen = [], set()
    for line in path.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        emoji, label, other = (part.strip() for part in (line + "||").split("|")[:3])
        label = label or emoji
        if label in seen:
            raise ValueError(f"{path}: duplicate label {label!r}")
        seen.add(label)
        names = [label, *(part.strip() for part in other.split(",") if part.strip())]
        candidates.append(Candidate(emoji, label, tuple(dict.fromkeys(words(name) for name in names))))
    return candidates


def pretraining_sets(folder: Path) -> list[IconSet]:
    """Return the sets of `@iconify/json` whose licence, vendor and subject permit pre-training on them."""
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
    """Return the drawings of each concept as label -> [(set, icon name)]. All words must match, in any order."""
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
