"""Build the shipped Pictograms art (sprites, index and split files) from packages on npm.

    python tools/build_pictograms.py --work art --out src/clipalign/assets/pictograms

Package versions are pinned below; rebuilding reproduces the shipped files byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import unicodedata
from pathlib import Path

import numpy as np
from PIL import Image

from drawings import descriptor
from icon_names import Candidate, concept_drawings, pretraining_sets, read_candidates, words
from iconify import IconSet, draw, npm_pack, read_package

SIZE, COLUMNS = 128, 16
MOST_CONCEPTS = 256
FEWEST_SETS = 5  # minimum number of other artists who drew the concept
TOO_ALIKE = 0.80  # mean over domains of the correlation between two concepts' drawings
SEED = 20_240
GROUPS = {"animals-nature", "food-drink", "travel-places", "activities", "objects"}
# Small drawings for cluttered backgrounds, by another artist and of no concept.
CLUTTER = {"prefix": "flat-color-icons", "many": 128, "size": 48, "columns": 16}
ICONIFY = "@iconify/json@2.2.535"
EMOJIBASE = "emojibase-data@17.0.0"
DOMAINS = [
    # id, package, title, monotone
    ("noto", "@iconify-json/noto@1.2.9", "Noto Emoji", False),
    ("noto-v1", "@iconify-json/noto-v1@1.2.5", "Noto Emoji, first edition", False),
    ("twemoji", "@iconify-json/twemoji@1.2.5", "Twitter Emoji", False),
    ("fluent-flat", "@iconify-json/fluent-emoji-flat@1.2.6", "Fluent Emoji, flat", False),
    (
        "fluent-high-contrast",
        "@iconify-json/fluent-emoji-high-contrast@1.2.6",
        "Fluent Emoji, high contrast",
        True,
    ),
]


def by_character(icons: IconSet, hexcode: str) -> str | None:
    """Return the name of the drawing of a Unicode sequence, with or without variation selector."""
    code = hexcode.lower()
    for key in (code, code.replace("-fe0f", ""), f"{code}-fe0f"):
        name = icons.characters.get(key)
        if name is not None:
            return name if name in icons.icons else icons.aliases.get(name)
    return None


def slug(text: str) -> str:
    """`"Piñata"` -> `"pinata"`, `"o’clock"` -> `"oclock"`."""
    plain = unicodedata.normalize("NFKD", text.replace("’", "")).encode("ascii", "ignore").decode().lower()
    return "-".join("".join(c if c.isalnum() else " " for c in plain).split())


def locate(sets: dict[str, IconSet], emoji: dict) -> dict[str, str] | None:
    """Return the names of an emoji's drawings in all five domains, or None if one is missing."""
    names: dict[str, str] = {}
    for domain, icons in sets.items():
        guesses = [by_character(icons, emoji["hexcode"])]
        if not icons.characters:  # the first Noto edition publishes names only
            others = [by_character(other, emoji["hexcode"]) for other in sets.values() if other.characters]
            guesses += [*others, slug(emoji["label"])]
        found = next(
            (icons.aliases.get(g, g) for g in guesses if g and (g in icons.icons or g in icons.aliases)), None
        )
        if found is None:
            return None
        names[domain] = found
    return names


def choose(
    candidates: list[Candidate], artists: dict[str, int], art: dict[str, np.ndarray], group: dict[str, str]
) -> tuple[list[Candidate], list[str]]:
    """Apply rules 7 and 8 of concepts.txt. Return the concepts kept, in file order, and a log line per dropped one."""
    log: list[str] = []
    kept: list[Candidate] = []
    ranked = sorted(
        (c for c in candidates if c.label in art), key=lambda c: (-artists.get(c.label, 0), c.label)
    )
    described = {
        c.label: [
            descriptor(sprite, monotone)
            for sprite, (_, _, _, monotone) in zip(art[c.label], DOMAINS, strict=True)
        ]
        for c in ranked
    }
    for candidate in ranked:
        label = candidate.label
        if artists.get(label, 0) < FEWEST_SETS:
            log.append(f"{label}: drawn in only {artists.get(label, 0)} pre-training sets")
            continue
        likeness = [
            (
                float(
                    np.mean([a @ b for a, b in zip(described[label], described[other.label], strict=True)])
                ),
                other.label,
            )
            for other in kept
        ]
        score, other_label = max(likeness, default=(0.0, ""))
        if score > TOO_ALIKE:
            log.append(f"{label}: nearly identical to {other_label} ({score:.2f})")
        else:
            kept.append(candidate)
    kept_of: dict[str, list[Candidate]] = {}
    for candidate in kept:
        kept_of.setdefault(group[candidate.label], []).append(candidate)
    surplus = {
        c.label
        for members in kept_of.values()
        for c in members[round(len(members) * MOST_CONCEPTS / len(kept)) :]
    }
    log += [
        f"{label}: {artists[label]} sets, not among the most drawn of its group" for label in sorted(surplus)
    ]
    kept = [c for c in kept if c.label not in surplus]
    order = {c.label: i for i, c in enumerate(candidates)}
    return sorted(kept, key=lambda c: order[c.label]), log


def halves(concepts: list[dict], rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Split classes into base and new halves, stratified by subgroup so that new classes have related base classes."""
    base: list[str] = []
    subgroups: dict[str, list[str]] = {}
    for concept in concepts:
        subgroups.setdefault(concept["subgroup"], []).append(concept["id"])
    odd = False  # the extra concept of odd subgroups goes to base and new in turn
    for members in subgroups.values():
        shuffled = list(rng.permutation(members))
        take = len(members) // 2
        if len(members) % 2:
            odd = not odd
            take += odd
        base += shuffled[:take]
    ids = [concept["id"] for concept in concepts]
    return [i for i in ids if i in set(base)], [i for i in ids if i not in set(base)]


def clutter_sheet(sets: list[IconSet], candidates: list[Candidate]) -> tuple[np.ndarray, list[str], IconSet]:
    """Return a sheet of drawings whose names share no word with any concept, their names, and their set."""
    icons = next(s for s in sets if s.prefix == CLUTTER["prefix"])
    taken = {word for candidate in candidates for name in candidate.names for word in name}
    free = [name for name in sorted(icons.icons) if not taken & set(words(name))]
    chosen = list(np.random.default_rng(SEED).permutation(free)[: CLUTTER["many"]])
    size, columns = CLUTTER["size"], CLUTTER["columns"]
    sheet = np.zeros((-(-len(chosen) // columns) * size, columns * size, 4), np.uint8)
    for k, name in enumerate(chosen):
        y, x = k // columns * size, k % columns * size
        sheet[y : y + size, x : x + size] = draw(icons, name, size)
    sheet[sheet[..., 3] == 0] = 0
    return sheet, [str(name) for name in chosen], icons


def save_sheet(sheet: np.ndarray, path: Path) -> None:
    """Save losslessly; equal pixels give equal bytes."""
    Image.fromarray(sheet).save(path, lossless=True, quality=100, method=6, exact=True)


def make_splits(concepts: list[dict]) -> dict:
    """Return all splits: which drawings (concept x domain) train, validate and test."""
    rng = np.random.default_rng(SEED)
    base, new = halves(concepts, rng)
    ids = [concept["id"] for concept in concepts]
    domains = [domain for domain, *_ in DOMAINS]
    domain_split = {}
    for domain in domains:
        held = set(rng.permutation(ids)[: round(0.2 * len(ids))])
        domain_split[domain] = {
            "train": [i for i in ids if i not in held],
            "validation": [i for i in ids if i in held],
        }
    # Of the five drawings of a concept 3 train, 1 validates, 1 tests. Each half of the classes cycles through the
    # domains, so that every domain is tested and validated equally often.
    base_to_new = {}
    for half in (base, new):
        for k, concept in enumerate(rng.permutation(half)):
            test = domains[k % 5]
            validation = domains[(k + 1 + (k // 5) % 4) % 5]
            base_to_new[str(concept)] = {
                "train": [d for d in domains if d not in (test, validation)],
                "validation": validation,
                "test": test,
            }
    return {
        "format": 1,
        "seed": SEED,
        "rule": "unit: drawing (concept x domain). base/new: half of each subgroup. domain_split: 80/20 of each "
        "domain's drawings. base_to_new: 3 train / 1 validation / 1 test of each concept's five drawings, balanced "
        "over domains. Generator: numpy default_rng(seed).",
        "base": base,
        "new": new,
        "domain_split": domain_split,
        "base_to_new": {i: base_to_new[i] for i in ids},
    }


def emoji_table(folder: Path) -> dict[str, dict]:
    """Return emojibase's records of the five groups by English label, with `group` and `subgroup` as names."""
    tree = json.loads((folder / "meta" / "groups.json").read_text())
    table = {}
    for record in json.loads((folder / "en" / "data.json").read_text()):
        group = tree["groups"].get(str(record.get("group")))
        if group in GROUPS:
            table[record["label"]] = {
                **record,
                "group": group,
                "subgroup": tree["subgroups"][str(record["subgroup"])],
            }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("art"), help="folder for downloaded packages")
    parser.add_argument("--out", type=Path, default=Path("src/clipalign/assets/pictograms"))
    options = parser.parse_args()

    sets = {domain: read_package(npm_pack(package, options.work)) for domain, package, _, _ in DOMAINS}
    emojis = emoji_table(npm_pack(EMOJIBASE, options.work))
    candidates = read_candidates(Path(__file__).with_name("concepts.txt"))
    names = {c.label: locate(sets, emojis[c.emoji]) for c in candidates if c.emoji in emojis}
    unknown = [c.emoji for c in candidates if c.emoji not in emojis]
    if unknown:
        raise SystemExit(f"concepts.txt: emojibase has no {unknown}")
    art = {
        label: np.stack([draw(sets[domain], found[domain], SIZE) for domain, *_ in DOMAINS])
        for label, found in names.items()
        if found is not None
    }
    others = pretraining_sets(npm_pack(ICONIFY, options.work))
    drawings = concept_drawings(others, candidates)
    artists = {label: len({prefix for prefix, _ in found}) for label, found in drawings.items()}
    kept, log = choose(candidates, artists, art, {c.label: emojis[c.emoji]["group"] for c in candidates})

    concepts = [
        {
            "id": slug(c.label),
            "label": c.label,
            "emoji": c.emoji,
            "tags": emojis[c.emoji].get("tags", []),
            "group": emojis[c.emoji]["group"],
            "subgroup": emojis[c.emoji]["subgroup"],
            "hexcode": emojis[c.emoji]["hexcode"],
            "artists": artists[c.label],
        }
        for c in kept
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    sprites = []
    for d, (domain, *_rest) in enumerate(DOMAINS):
        rows = -(-len(kept) // COLUMNS)
        sheet = np.zeros((rows * SIZE, COLUMNS * SIZE, 4), np.uint8)
        for k, c in enumerate(kept):
            sprite = art[c.label][d].copy()
            sprite[sprite[..., 3] == 0] = 0  # invisible colours would only increase the file size
            y, x = k // COLUMNS * SIZE, k % COLUMNS * SIZE
            sheet[y : y + SIZE, x : x + SIZE] = sprite
            sprites.append(
                {
                    "domain": domain,
                    "concept": concepts[k]["id"],
                    "name": names[c.label][domain],  # type: ignore[index]
                    "sha256": hashlib.sha256(sprite.tobytes()).hexdigest(),
                }
            )
        save_sheet(sheet, options.out / f"{domain}.webp")
    sheet, clutter_names, clutter_set = clutter_sheet(others, candidates)
    save_sheet(sheet, options.out / "clutter.webp")
    index = {
        "format": 1,
        "sprite_size": SIZE,
        "columns": COLUMNS,
        "domains": [
            {
                "id": domain,
                "title": title,
                "vendor": sets[domain].info["author"]["name"],
                "licence": sets[domain].licence,
                "package": package.rsplit("@", 1)[0],
                "version": sets[domain].info["version"],
                "monotone": monotone,
            }
            for domain, package, title, monotone in DOMAINS
        ],
        "concepts": concepts,
        "sprites": sprites,
        "clutter": {
            "size": CLUTTER["size"],
            "columns": CLUTTER["columns"],
            "names": clutter_names,
            "package": ICONIFY,
            "prefix": clutter_set.prefix,
            "vendor": clutter_set.info["author"]["name"],
            "licence": clutter_set.licence,
            "sha256": hashlib.sha256(sheet.tobytes()).hexdigest(),
        },
    }
    (options.out / "index.json").write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n")
    (options.out / "splits.json").write_text(json.dumps(make_splits(concepts), indent=1) + "\n")
    Path(__file__).with_name("concepts-dropped.txt").write_text("\n".join(sorted(log)) + "\n")
    print(f"{len(concepts)} concepts of {len(candidates)} candidates; {len(log)} dropped")


if __name__ == "__main__":
    main()
