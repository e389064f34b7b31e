"""Ship the weights of a run with a model card: `python -m pretrain.card --run art/pocket-run --art art/pretraining`.

The card lists the training art, the gates, zero-shot accuracy on Pictograms, and how similar the training art is to the
benchmark's.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
import torch
import tyro
from torch import Tensor

from clipalign.backbone import preprocess_for
from clipalign.backbone.model import Backbone
from clipalign.backbone.pocket import FOLDER
from clipalign.core.checkpoint import load_weights, save_weights, write_text
from clipalign.data.builtin.pictograms import Pictograms
from clipalign.evaluation import EvalLoader
from clipalign.evaluation.scoring import domain_tests, score
from clipalign.runs.run import zeroshot

from .atlas import KEPT_OUT, Atlas
from .checks import SCENES, check
from .config import ARCHITECTURE
from .log import read_log
from .model import build

TEMPLATE = Path(__file__).with_name("card.md.j2")
BATCH = 256  # images per step of the shipped run


@dataclass
class CardConfig:
    """Ship weights with their card.

    Attributes:
        run: Folder of `python -m pretrain`.
        teacher: Folder of `python -m pretrain.teacher`, if the run had a teacher.
        art: Folder of the pre-training art.
        out: Where weights, architecture and card are written.
        hardware: Hardware of the run, as the card states it.
    """

    run: Path = Path("art/pocket-run")
    teacher: Path | None = None
    art: Path = Path("art/pretraining")
    out: Path = FOLDER
    hardware: str = "one thread of a shared two-core CPU with AMX, bfloat16 autocast"


@dataclass(frozen=True)
class Gate:
    """A requirement on a measure, in the measure's own unit."""

    name: str
    value: float
    least: float

    @property
    def met(self) -> bool:
        """Whether the measure reaches the requirement."""
        return self.value >= self.least


def zero_shot(backbone: Backbone, source: Pictograms) -> dict[str, dict[str, float]]:
    """Return accuracies on all drawings and test renders of each domain, and on base and new classes."""
    loader = EvalLoader(source, preprocess_for(backbone))
    result = {}
    base = list(source.splits.base)
    for scored in score(loader, zeroshot(backbone, source.templates[:1]).classifier, domain_tests(source)):
        outputs = scored.outputs
        assert outputs is not None
        is_base = np.isin(outputs.labels, base)  # [n]
        result[scored.test.name] = {
            "top1": float(outputs.correct.mean()),
            "top5": float(scored.values["top5"]),
            "base": float(outputs.correct[is_base].mean()),
            "new": float(outputs.correct[~is_base].mean()),
            "n": len(outputs.labels),
        }
    return result


def gates(
    measured: dict[str, float], accuracy: dict[str, dict[str, float]], source: Pictograms
) -> list[Gate]:
    """Return the requirements under which comparisons of methods on this model are meant to be read."""
    monotone = {d["id"]: d["monotone"] for d in source.index["domains"]}
    return [
        Gate("kept-out top-1 accuracy", measured["kept_out_top1"], 0.40),
        *(
            Gate(f"{d}: top-1 accuracy", a["top1"], 0.30 if monotone[d] else 0.40)
            for d, a in accuracy.items()
        ),
        Gate(
            "mosaic: mass of the D-V map on the named quadrant (chance 0.25)", measured["mosaic_mass"], 0.50
        ),
        Gate("mosaic: that mass minus the mass for another text", measured["mosaic_difference"], 0.20),
        Gate(
            "scene retrieval, short captions: recall@10",
            measured["scene_short_recall10"],
            3 * measured["scene_chance10"],
        ),
        Gate(
            "scene retrieval, long captions: recall@10",
            measured["scene_long_recall10"],
            3 * measured["scene_chance10"],
        ),
    ]


def write_card(
    config: CardConfig,
    measured: dict[str, float],
    accuracy: dict[str, dict[str, float]],
    source: Pictograms,
) -> str:
    """Return the text of the card."""
    table = json.loads((config.art / "table.json").read_text())
    nearest = json.loads((config.art / "nearest.json").read_text())
    log = read_log(config.run)
    teacher = read_log(config.teacher)[-1] if config.teacher else None
    architecture = json.loads(ARCHITECTURE.read_text())
    counts = Counter(row["set"] for row in table["rows"])
    alike = sorted(
        ((max(v[d] for d in source.domain_names), k) for k, v in nearest.items() if k in counts), reverse=True
    )
    rows = {
        "accuracies": [
            [domain, *(f"{100 * a[k]:.1f}" for k in ("top1", "top5", "base", "new")), str(int(a["n"]))]
            for domain, a in accuracy.items()
        ],
        "gates": [
            [gate.name, f"{gate.value:.2f}", f"{gate.least:.2f}", "yes" if gate.met else "no"]
            for gate in gates(measured, accuracy, source)
        ],
        "similarity": [
            [name, str(nearest[name]["drawings"]), *(f"{nearest[name][d]:.2f}" for d in source.domain_names)]
            for _, name in alike
        ],
        "sets": [
            [name, table["sets"][name]["author"], table["sets"][name]["licence"], str(many)]
            for name, many in sorted(counts.items())
            if name != KEPT_OUT
        ],
    }
    template = jinja2.Template(
        TEMPLATE.read_text(), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    return template.render(
        architecture=architecture,
        batch=BATCH,
        classes=source.class_names,
        domains=source.domain_names,
        drawings=sum(counts.values()) - counts[KEPT_OUT],
        hardware=config.hardware,
        kept_out=KEPT_OUT,
        last=log[-1],
        teacher=teacher,
        taught_from=next((row["step"] for row in log if "loss_patch" in row), None),
        untaught=[row for row in log if "kept_out_top1" in row and "loss_patch" not in row],
        measured=measured,
        names=len(table["synonyms"]),
        package=table["package"],
        rows=rows,
        scenes=SCENES,
        template=source.templates[0],
        views=source.views("test"),
    )


def main(config: CardConfig) -> None:
    """Measure the weights of a run, then write weights, architecture, card and zero-shot accuracies."""
    weights: dict[str, Tensor] = load_weights(config.run / "pocket.safetensors")
    backbone = build()
    backbone.model.load_state_dict(weights)
    backbone.eval()
    source = Pictograms()
    with torch.no_grad():
        measured = check(backbone, Atlas.load(config.art))
        accuracy = zero_shot(backbone, source)
    save_weights(config.out / "model.safetensors", weights)
    shutil.copyfile(ARCHITECTURE, config.out / "clipalign-pocket.json")
    write_text(config.out / "CARD.md", write_card(config, measured, accuracy, source))
    write_text(config.out / "zero_shot.json", json.dumps(accuracy, indent=1) + "\n")
    lines = [json.dumps(row) + "\n" for row in read_log(config.run)]
    write_text(config.out / "pretraining-log.jsonl", "".join(lines))
    for gate in gates(measured, accuracy, source):
        print(f"{'met ' if gate.met else 'miss'} {gate.name}: {gate.value:.3f} (required {gate.least})")


if __name__ == "__main__":
    main(tyro.cli(CardConfig))
