"""Render the pre-training art of the pocket CLIP (not shipped; takes a few minutes and about 700 MB).

    python tools/build_pretraining_art.py --work art --out art/pretraining

Writes `sprites.npy` ([N, 64, 64, 4] uint8, straight alpha), `table.json` (set, name, words, concept and colour of each
sprite) and `nearest.json`: per set and benchmark domain, the fraction of drawings whose pixel-wise nearest neighbour
in the benchmark shows the same concept. A set above 0.5 for any domain is considered the same art and excluded.
"""

from __future__ import annotations

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from drawings import crop_to_ink, descriptor, nearest_is_same
from icon_names import concept_drawings, pretraining_sets, read_candidates, words
from iconify import IconSet, draw, npm_pack

SIZE = 64
ICONIFY = "@iconify/json@2.2.535"
EMOJIBASE = "emojibase-data@17.0.0"
OTHER_MONOTONE = 9000  # drawings of other objects, so that the text tower sees more than the concepts
SAME_ART = 0.5
FEWEST_FOR_SAME_ART = 10  # shared concepts needed before a set is judged
SEED = 7


def nouns(folder: Path) -> set[str]:
    """Return the words of emojibase's labels and tags that name objects."""
    tree = json.loads((folder / "meta" / "groups.json").read_text())
    wanted = {
        "animals-nature",
        "food-drink",
        "travel-places",
        "activities",
        "objects",
        "smileys-emotion",
        "people-body",
    }
    found: set[str] = set()
    for record in json.loads((folder / "en" / "data.json").read_text()):
        if tree["groups"].get(str(record.get("group"))) in wanted:
            found |= {word for text in [record["label"], *record.get("tags", [])] for word in words(text)}
    return {word for word in found if len(word) > 2}


def draw_small(icons: IconSet, name: str) -> np.ndarray | None:
    """Render one drawing, cropped, at 64 pixels; None if it is blank or a filled monochrome box."""
    try:
        big = draw(icons, name, SIZE)
    except (ValueError, OSError):
        return None
    ink = (big[..., 3] > 127).mean()
    if ink < 0.02 or (ink > 0.97 and not icons.colour):
        return None
    return np.asarray(Image.fromarray(crop_to_ink(big)).resize((SIZE, SIZE), Image.Resampling.LANCZOS))


def draw_set(icons: IconSet, names: list[str]) -> list[np.ndarray | None]:
    """Apply `draw_small` to names in a worker process."""
    return [draw_small(icons, name) for name in names]


def benchmark(folder: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return descriptors of the benchmark drawings by domain and form (alpha, colour), and their labels."""
    index = json.loads((folder / "index.json").read_text())
    labels = [concept["label"] for concept in index["concepts"]]
    size, columns = index["sprite_size"], index["columns"]
    tables = {}
    for domain in index["domains"]:
        sheet = np.asarray(Image.open(folder / f"{domain['id']}.webp").convert("RGBA"))
        cells = [
            sheet[
                k // columns * size : (k // columns + 1) * size, k % columns * size : (k % columns + 1) * size
            ]
            for k in range(len(labels))
        ]
        for monotone in (True, False):
            tables[f"{domain['id']}/{'alpha' if monotone else 'colour'}"] = np.stack(
                [descriptor(cell, monotone) for cell in cells]
            )
    return tables, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("art"))
    parser.add_argument("--out", type=Path, default=Path("art/pretraining"))
    parser.add_argument("--benchmark", type=Path, default=Path("src/clipalign/assets/pictograms"))
    options = parser.parse_args()
    sets = pretraining_sets(npm_pack(ICONIFY, options.work))
    candidates = read_candidates(Path(__file__).with_name("concepts.txt"))
    concept_of = {
        pair: label for label, pairs in concept_drawings(sets, candidates).items() for pair in pairs
    }
    vocabulary = nouns(npm_pack(EMOJIBASE, options.work))
    rng = np.random.default_rng(SEED)

    others = [
        (icons.prefix, name)
        for icons in sets
        if not icons.colour
        for name in icons.icons
        if (icons.prefix, name) not in concept_of and words(name)[-1] in vocabulary and len(words(name)) <= 3
    ]
    sample = {others[i] for i in rng.permutation(len(others))[:OTHER_MONOTONE]}
    wanted: dict[str, list[str]] = {}
    for icons in sets:
        everything = icons.colour or icons.prefix == "emojione-monotone"
        wanted[icons.prefix] = [
            n
            for n in icons.icons
            if everything or (icons.prefix, n) in concept_of or (icons.prefix, n) in sample
        ]

    tables, labels = benchmark(options.benchmark)
    position = {label: k for k, label in enumerate(labels)}
    sprites: list[np.ndarray] = []
    rows: list[dict] = []
    nearest: dict[str, dict[str, float | int]] = {}
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for icons in sets:
            names = wanted[icons.prefix]
            chunks = [list(islice(names, i, i + 100)) for i in range(0, len(names), 100)]
            drawn = [s for part in pool.map(partial(draw_set, icons), chunks) for s in part]
            known = [
                (s, position[concept_of[icons.prefix, n]])
                for n, s in zip(names, drawn, strict=True)
                if s is not None and concept_of.get((icons.prefix, n)) in position
            ]
            if known:
                form = "colour" if icons.colour else "alpha"
                queries = np.stack([descriptor(s, not icons.colour) for s, _ in known])
                truth = np.array([k for _, k in known])
                shares = {
                    key.split("/")[0]: nearest_is_same(queries, truth, bank, np.arange(len(labels)))
                    for key, bank in tables.items()
                    if key.endswith(form)
                }
                nearest[icons.prefix] = {
                    **{k: round(v, 3) for k, v in shares.items()},
                    "drawings": len(known),
                }
                if len(known) >= FEWEST_FOR_SAME_ART and max(shares.values()) > SAME_ART:
                    print(f"left out as the same art: {icons.prefix} {shares}")
                    continue
            for name, sprite in zip(names, drawn, strict=True):
                if sprite is not None:
                    sprites.append(sprite)
                    rows.append(
                        {
                            "set": icons.prefix,
                            "name": name,
                            "words": " ".join(words(name)),
                            "concept": concept_of.get((icons.prefix, name)),
                            "colour": icons.colour,
                        }
                    )
    options.out.mkdir(parents=True, exist_ok=True)
    np.save(options.out / "sprites.npy", np.stack(sprites))
    synonyms = {c.label: [" ".join(name) for name in c.names] for c in candidates}
    licences = {
        icons.prefix: {"licence": icons.licence, "author": icons.info["author"]["name"]} for icons in sets
    }
    table = {"rows": rows, "synonyms": synonyms, "sets": licences, "package": ICONIFY}
    (options.out / "table.json").write_text(json.dumps(table, indent=0) + "\n")
    (options.out / "nearest.json").write_text(json.dumps(nearest, indent=0) + "\n")
    known = sum(row["concept"] is not None for row in rows)
    print(f"{len(rows)} drawings of {len({row['set'] for row in rows})} sets, {known} of concepts")


if __name__ == "__main__":
    main()
