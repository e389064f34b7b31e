"""Pre-train the pocket CLIP: `python -m pretrain --art art/pretraining --out art/pocket-run`.

Resumes the run in `--out` if there is one. Writes log.jsonl, state.safetensors (for resuming) and pocket.safetensors
(the averaged weights in float16).
"""

from __future__ import annotations

import time
from typing import Any

import torch
import tyro
from torch.utils.data import DataLoader

from clipalign.core.checkpoint import load_state, load_weights, save_state, save_weights

from .atlas import Atlas
from .batches import Batches
from .checks import check
from .config import PretrainConfig, in_cooldown
from .learner import Learner
from .log import write_row
from .model import build
from .vocabulary import Vocabulary

LOG_EVERY, CHECK_EVERY = 25, 200  # steps


def main(config: PretrainConfig) -> None:
    """Train until `--steps`, saving regularly."""
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config.out.mkdir(parents=True, exist_ok=True)
    atlas = Atlas.load(config.art)
    backbone = build(config.architecture, config.seed).to(device)
    if config.start_from is not None:
        backbone.model.load_state_dict(load_weights(config.start_from))
    vocabulary = Vocabulary(atlas, backbone.tokenizer)
    learner = Learner(config, backbone, vocabulary, len(atlas.concepts))
    first, seconds = resume(learner)
    on_device = device.type == "cuda"
    batches = Batches(atlas, config, vocabulary, device if on_device else "cpu")
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(first, config.steps),
        num_workers=0 if on_device else config.workers,
    )
    started = time.monotonic()
    saved, sums, counted = started, dict[str, float](), 0
    for done, batch in enumerate(loader, start=first + 1):
        terms = learner.step(done - 1, batch.to(device))
        sums = {name: sums.get(name, 0.0) + value for name, value in terms.items()}
        counted += 1
        elapsed, last = time.monotonic() - started, done == config.steps
        if done % LOG_EVERY == 0 or last:
            row: dict[str, Any] = {
                "step": done,
                **{name: round(value / counted, 4) for name, value in sums.items()},
                "scale": round(float(backbone.logit_scale.detach()), 3),
                "seconds": round(seconds + elapsed, 1),
                "images_per_second": round(config.batch_size * (done - first) / elapsed, 1),
                "cooldown": in_cooldown(done - 1, config),
            }
            if done % CHECK_EVERY == 0 or last:
                with learner.average.applied():
                    row |= check(backbone, atlas)
            write_row(config.out, row)
            sums, counted = {}, 0
        if last or time.monotonic() - saved > config.save_every:
            saved = time.monotonic()
            save(learner, done, seconds + saved - started)


def resume(learner: Learner) -> tuple[int, float]:
    """Load the state in `--out`, if any, and return the steps done and the seconds spent."""
    path = learner.config.out / "state.safetensors"
    if not path.exists():
        return 0, 0.0
    state = load_state(path)
    learner.load_state_dict(state["learner"])
    print(f"resumed after step {state['step']}", flush=True)
    return state["step"], state["seconds"]


def save(learner: Learner, step: int, seconds: float) -> None:
    """Write the averaged weights and the state for resuming."""
    out = learner.config.out
    save_weights(out / "pocket.safetensors", learner.averaged())
    save_state(out / "state.safetensors", {"learner": learner.state_dict(), "step": step, "seconds": seconds})


if __name__ == "__main__":
    main(tyro.cli(PretrainConfig))
