"""python -m clipalign.pretrain.card --run art/pocket-run --art art/pretraining

Ships a run's weights and writes the card that says what they are: training art, zero-shot accuracy, likeness of the
training art to the benchmark.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor

from ..backbone.loading import load
from ..backbone.model import Backbone
from ..backbone.pocket import FOLDER
from ..core.checkpoint import load_weights, save_weights, write_text
from ..data.builtin.pictograms import Pictograms
from ..engine.setup import preprocess_for
from ..evaluation import EvalLoader
from ..evaluation.rows import domain_tests, score
from ..runs.run import zeroshot
from .art import KEPT_OUT, TEMPLATES, Art

BATCH = 256  # images per step
GATE = {"colour": 0.25, "monotone": 0.08}


@dataclass
class CardConfig:
    """Ships weights with their card.

    Attributes:
        run: folder of `python -m clipalign.pretrain`.
        art: folder of the pre-training art.
        out: where weights and card go.
    """

    run: Path = Path("art/pocket-run")
    art: Path = Path("art/pretraining")
    out: Path = FOLDER


def without_unseen_words(state: dict[str, Tensor], art: Art, backbone: Backbone) -> dict[str, Tensor]:
    """Sets embeddings of tokens that no training caption holds to zero: they are noise, and would only cost bytes."""
    names = [*art.names, *(name for names in art.synonyms.values() for name in names)]
    words = [*names, "a thing and a thing"]
    words += [template.format("thing") for template in TEMPLATES]
    words += ["black white red green blue yellow orange purple pink brown gray"]
    seen = torch.zeros(state["token_embedding.weight"].shape[0], dtype=torch.bool)
    for start in range(0, len(words), 2048):
        seen[backbone.tokenizer(words[start : start + 2048]).unique()] = True
    kept = state["token_embedding.weight"].clone()
    kept[~seen] = 0
    return {**state, "token_embedding.weight": kept}


def zero_shot(backbone: Backbone, source: Pictograms) -> dict[str, dict[str, float]]:
    """Accuracy of all class names per domain, over all drawings and test renders; and over base and new drawings."""
    views = EvalLoader(source, preprocess_for(backbone))
    result = {}
    for scored in score(views, zeroshot(backbone, source.templates[:1]).classifier, domain_tests(source)):
        outputs, found = scored.outputs, scored.accuracy
        assert outputs is not None and found is not None
        right, base = found.ranked[:, 0] == outputs.labels, np.isin(outputs.labels, list(source.splits.base))
        result[scored.test.name] = {
            "top1": found.top1,
            "top5": found.top5,
            "base": float(right[base].mean()),
            "new": float(right[~base].mean()),
            "n": found.n,
        }
    return result


def table(rows: list[list[str]], head: list[str]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def write_card(config: CardConfig, accuracy: dict[str, dict[str, float]], source: Pictograms) -> str:
    """The card's text."""
    art_table = json.loads((config.art / "table.json").read_text())
    nearest = json.loads((config.art / "nearest.json").read_text())
    log = [json.loads(line) for line in (config.run / "log.jsonl").read_text().splitlines()]
    checked = [row for row in log if "kept_out_top1" in row]
    last = log[-1]
    counts = Counter(row["set"] for row in art_table["rows"])
    monotone = {d["id"]: d["monotone"] for d in source.index["domains"]}

    def met(domain: str, row: dict[str, float]) -> str:
        return "yes" if GATE["monotone" if monotone[domain] else "colour"] <= row["top1"] <= 0.9 else "no"

    accuracies = [
        [domain, *(f"{100 * a[k]:.1f}" for k in ("top1", "top5", "base", "new")), str(a["n"]), met(domain, a)]
        for domain, a in accuracy.items()
    ]
    alike = sorted(
        ((max(v[d] for d in source.domain_names), k) for k, v in nearest.items() if k in counts), reverse=True
    )
    likeness = [
        [name, str(nearest[name]["drawings"]), *(f"{nearest[name][d]:.2f}" for d in source.domain_names)]
        for _, name in alike
    ]
    sets = [
        [name, art_table["sets"][name]["author"], art_table["sets"][name]["licence"], str(many)]
        for name, many in sorted(counts.items())
        if name != KEPT_OUT
    ]
    classes = len(source.class_names)
    drawings = sum(counts.values()) - counts[KEPT_OUT]
    millions, hours = last["step"] * BATCH / 1e6, last["seconds"] / 3600
    top1, top5 = (100 * checked[-1][f"kept_out_top{k}"] for k in (1, 5))
    held = checked[-1]["kept_out_drawings"]
    # A log put together of several runs has each run's first line marked.
    parts = "".join(
        f", gone on from its weights at step {row['started_at']:,}" for row in log if "started_at" in row
    )
    return f"""# Pocket CLIP

A small CLIP for trying methods out on a laptop: a ViT of 6 blocks, width 128, 64 x 64 pixels in 8 x 8 patches, and a
text tower of 4 blocks, width 128, with CLIP's own tokenizer and 77 positions. It is a **test vehicle, not a
foundation model**: it knows drawings of everyday things and little else, and what is measured on it says nothing
about the size of an effect on larger models.

It was trained contrastively, from random weights, on {drawings:,} drawings of {len(sets)} icon sets
({art_table["package"]}), all under permissive licences, none by a vendor of the benchmark's drawings, on flat,
gradient and noise backgrounds. The weights are an average over the last steps; they were chosen on the set
`{KEPT_OUT}`, which was kept out of training, never on the benchmark. Embeddings of words that no caption held are zero.

* steps: {last["step"]:,} of {BATCH} images ({millions:.2f} million images), {hours:.1f} hours on two CPU cores that did
  other work too
* loss: {last["loss"]:.2f}; kept-out set: {top1:.1f} % top-1, {top5:.1f} % top-5 of {len(art_table["synonyms"])} names
  (n = {held} drawings, 2 renders each)
* made by: `python -m clipalign.pretrain`{parts}; `python -m clipalign.pretrain.card`

## Zero-shot accuracy on Pictograms (percent)

{classes} classes (chance {100 / classes:.1f} %), template "{source.templates[0]}", all drawings of each domain,
{source.views("test")} test renders each; base and new are the halves of the classes, scored among all names.

{table(accuracies, ["domain", "top-1", "top-5", "base", "new", "n", "gate met"])}

The gate is the accuracy from which comparisons of fine-tuning methods are meant to be read: 25 % on colour domains,
8 % on high contrast, below 90 % everywhere. Below it, fine-tuning partly *is* the learning.

## Is the training art the benchmark's?

For each training set, how often the pixel-wise nearest benchmark drawing shows the same concept (24 x 24 pixels,
cropped to the ink). Sets above 0.50 for any domain, with ten or more shared concepts, were left out as the same art.

{table(likeness, ["set", "drawings", *source.domain_names])}

## Training sets

{table(sets, ["set", "author", "licence", "drawings"])}
"""


def main(config: CardConfig) -> None:
    """Writes weights and card."""
    art = Art.load(config.art)
    backbone = load("pocket", pretrained=False)
    state = without_unseen_words(load_weights(config.run / "pocket.safetensors"), art, backbone)
    backbone.model.load_state_dict(state)
    source = Pictograms()
    accuracy = zero_shot(backbone, source)
    save_weights(config.out / "model.safetensors", state)
    write_text(config.out / "CARD.md", write_card(config, accuracy, source))
    write_text(config.out / "zero_shot.json", json.dumps(accuracy, indent=1) + "\n")
    for domain, row in accuracy.items():
        print(domain, {k: round(v, 4) for k, v in row.items()})


if __name__ == "__main__":
    main(tyro.cli(CardConfig))
