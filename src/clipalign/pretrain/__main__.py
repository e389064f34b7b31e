"""python -m clipalign.pretrain --art art/pretraining --out art/pocket-run

Trains the pocket CLIP contrastively; resumes by itself from `--out`, or from given weights with `--start-from`.
Writes log.jsonl, state.safetensors (to resume) and pocket.safetensors (the averaged weights, float16).
"""

from __future__ import annotations

import json
import time
from typing import Any

import torch
import tyro
from torch.utils.data import DataLoader

from ..core.checkpoint import load_state, save_state, save_weights
from .art import Art
from .batches import Batches
from .config import PretrainConfig
from .kept_out import kept_out_accuracy
from .learner import Learner

LOG_EVERY, CHECK_EVERY = 25, 200  # steps


def main(config: PretrainConfig) -> None:
    """Trains until `--steps`, saving as it goes."""
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    config.out.mkdir(parents=True, exist_ok=True)
    art = Art.load(config.art)
    learner = Learner(config, len(art.concepts))
    first, seconds = resume(learner)
    batches = Batches(art, config.batch_size, config.other_names, config.seed, config.steps)
    loader = DataLoader(
        batches, batch_size=None, sampler=range(first, config.steps), num_workers=config.workers
    )
    started = time.monotonic()
    saved, losses = started, []
    for done, batch in enumerate(loader, start=first + 1):
        losses.append(learner.step(done - 1, batch))
        here, over = time.monotonic() - started, done == config.steps
        if done % LOG_EVERY == 0:
            row = {
                "step": done,
                "loss": sum(losses) / len(losses),
                "scale": float(learner.backbone.logit_scale.detach()),
                "seconds": round(seconds + here, 1),
                "images_per_second": round(config.batch_size * (done - first) / here, 1),
            }
            if done % CHECK_EVERY == 0 or over:
                row |= check(learner, art)
            write_row(config, row)
            losses = []
        if over or time.monotonic() - saved > config.save_every:
            saved = time.monotonic()
            save(learner, done, seconds + saved - started)


def resume(learner: Learner) -> tuple[int, float]:
    """Steps done and seconds spent so far, by the run in --out where there is one."""
    path = learner.config.out / "state.safetensors"
    if not path.exists():
        return learner.config.start_step, 0.0
    state = load_state(path)
    learner.load_state_dict(state["learner"])
    print(f"resumed at step {state['step']}", flush=True)
    return state["step"], state["seconds"]


def save(learner: Learner, step: int, seconds: float) -> None:
    """Writes the averaged weights, and what going on needs."""
    out = learner.config.out
    save_weights(out / "pocket.safetensors", learner.averaged())
    state = {"learner": learner.state_dict(), "step": step, "seconds": seconds}
    save_state(out / "state.safetensors", state)


def check(learner: Learner, art: Art) -> dict[str, float]:
    """Accuracy of the averaged weights on the set kept out of training."""
    with learner.average.applied():
        return kept_out_accuracy(learner.backbone, art, sorted(art.synonyms))


def write_row(config: PretrainConfig, row: dict[str, Any]) -> None:
    """Prints a line of the log and adds it to log.jsonl."""
    line = json.dumps(row)
    print(line, flush=True)
    with (config.out / "log.jsonl").open("a") as log:
        log.write(line + "\n")


if __name__ == "__main__":
    main(tyro.cli(PretrainConfig))
