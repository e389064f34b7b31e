"""python -m clipalign.pretrain --art art/pretraining --out art/pocket-run

Trains the pocket CLIP contrastively; resumes by itself from `--out`, or from given weights with `--start-from`.
Writes log.jsonl, state.pt (to resume) and pocket.safetensors (the averaged weights, float16).
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from open_clip.transformer import PatchDropout
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..backbone.loading import load
from ..backbone.model import Backbone
from ..data.compose import Background, Scene, draw_placement, render
from ..training import preprocess_for
from .art import Art
from .batches import POOL, SIZE, Batches, PretrainingBatch


@dataclass
class PretrainConfig:
    """Pre-training of the pocket CLIP.

    Attributes:
        art: folder made by tools/build_pretraining_art.py.
        out: run folder; an unfinished run in it is resumed.
        steps: length of the schedule; the curriculum reaches full hardness half-way.
        batch_size: images per step.
        other_names: further names that every step scores its images against.
        lr: peak learning rate of AdamW.
        muon_lr: learning rate of Muon on the blocks' matrices; 0 trains everything with AdamW.
        weight_decay: decoupled.
        warmup_steps: linear.
        cooldown: share of steps at the end in which the rate falls to zero and no patches are dropped.
        patch_dropout: share of patch tokens left out of each image until the cooldown (half the cost).
        concept_weight: weight of an auxiliary classification of concepts by a linear head on the image feature; it
            starts the image tower off and falls to zero at half of the steps.
        ema: decay of the averaged weights.
        save_every: seconds between saved states.
        threads: of torch; 0 leaves torch's choice.
        workers: processes that compose pictures; 0 composes between the steps.
        start_from: weights to begin with (safetensors), for going on after a finished run.
        start_step: step of the curriculum to begin at, with --start-from.
    """

    art: Path = Path("art/pretraining")
    out: Path = Path("art/pocket-run")
    steps: int = 2000
    batch_size: int = 256
    other_names: int = 128
    lr: float = 2e-3
    muon_lr: float = 6e-3
    weight_decay: float = 0.05
    warmup_steps: int = 50
    cooldown: float = 0.12
    patch_dropout: float = 0.5
    concept_weight: float = 1.0
    ema: float = 0.99
    save_every: float = 300.0
    threads: int = 0
    workers: int = 1
    seed: int = 0
    start_from: Path | None = None
    start_step: int = 0


def contrastive_loss(images: Tensor, texts: Tensor, relation: Tensor, scale: Tensor) -> Tensor:
    """CLIP's loss with several positives.

    Args:
        images: [B, d] unit rows. texts: [T, d] unit rows, the first B of them the images' captions.
        relation: [B, T], 1 positive, 0 negative, -1 left out. scale: logit scale.
    """
    logits = (scale * images @ texts.T).masked_fill(relation < 0, -1e4)
    positive = (relation > 0).float()
    by_image = -(positive * logits.log_softmax(1)).sum(1) / positive.sum(1)
    own = positive[:, : len(images)].T
    by_text = -(own * logits[:, : len(images)].T.log_softmax(1)).sum(1) / own.sum(1)
    return 0.5 * (by_image.mean() + by_text.mean())


def rate(step: int, config: PretrainConfig) -> float:
    """Warm-up, constant, then a fall to zero (as 1 - sqrt) in the cooldown."""
    start = config.steps * (1 - config.cooldown)
    if step < config.warmup_steps + config.start_step:
        return (step - config.start_step + 1) / config.warmup_steps
    return 1.0 if step < start else 1 - math.sqrt((step - start) / (config.steps - start))


def optimisers(model: nn.Module, config: PretrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW on everything; on the blocks' matrices Muon, where asked for."""
    matrices = [
        p
        for n, p in model.named_parameters()
        if config.muon_lr and p.ndim == 2 and "resblocks" in n and "weight" in n
    ]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), fused=True)
    ]
    if matrices:
        found.append(
            torch.optim.Muon(
                matrices, lr=config.muon_lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
            )
        )
    for optimiser in found:
        for group in optimiser.param_groups:
            group["initial_lr"] = group["lr"]
    return found


def loss_of(backbone: Backbone, batch: PretrainingBatch, head: nn.Linear, concept_weight: float) -> Tensor:
    """The contrastive loss (each distinct text is encoded once), and the auxiliary one where it has weight."""
    distinct = {text: i for i, text in enumerate(dict.fromkeys(batch.texts))}
    encoded = F.normalize(backbone.encode_text(list(distinct)), dim=-1)
    texts = encoded[torch.tensor([distinct[text] for text in batch.texts])]
    images = F.normalize(backbone.encode_image(preprocess_for(backbone).normalise(batch.images)), dim=-1)
    loss = contrastive_loss(images, texts, batch.relation, backbone.logit_scale.clamp(max=100))
    if concept_weight > 0:
        loss = loss + concept_weight * F.cross_entropy(10 * head(images), batch.concepts, ignore_index=-1)
    return loss


@torch.no_grad()
def kept_out_accuracy(backbone: Backbone, art: Art, labels: list[str], draws: int = 2) -> dict[str, float]:
    """Zero-shot accuracy on the set kept out of training, composed as hard as training ends, over `labels`."""
    backbone.eval()
    texts = F.normalize(backbone.encode_text([f"a photo of a {name}." for name in labels]), dim=-1)
    rows = [i for i in art.kept_out if art.keys[i] in set(labels)]
    truth = torch.tensor([labels.index(art.keys[i]) for i in rows])
    sprites = art.tensor(rows)
    top1 = top5 = 0.0
    for draw in range(draws):
        scenes = []
        for k in range(len(rows)):
            rng = np.random.default_rng([99, draw, k])
            scale, x, y, angle = draw_placement(rng, (0.5, 0.95), 12)
            family = ("flat", "gradient", "noise")[int(rng.integers(3))]
            scenes.append(
                Scene(k, scale, x, y, angle, Background(family, POOL[int(rng.integers(len(POOL)))]))
            )
        images = render(scenes, sprites, SIZE).images
        features = F.normalize(backbone.encode_image(preprocess_for(backbone).normalise(images)), dim=-1)
        ranked = (features @ texts.T).topk(5).indices
        top1 += float((ranked[:, 0] == truth).float().mean()) / draws
        top5 += float((ranked == truth[:, None]).any(1).float().mean()) / draws
    return {"kept_out_top1": top1, "kept_out_top5": top5, "kept_out_drawings": len(rows)}


def save(path: Path, backbone: Backbone, average: dict[str, Tensor]) -> None:
    """Writes averaged weights in float16 under open_clip's names, atomically."""
    state = {
        name: average.get(name, value).detach().half().contiguous()
        for name, value in backbone.model.state_dict().items()
    }
    temporary = path.with_suffix(".tmp")
    save_file(state, temporary)
    temporary.replace(path)


def main(config: PretrainConfig) -> None:
    """Trains until `--steps`, saving as it goes."""
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    config.out.mkdir(parents=True, exist_ok=True)
    art = Art.load(config.art)
    labels = sorted(art.synonyms)
    backbone = load("pocket", pretrained=False)
    visual = backbone.model.visual
    if config.start_from:
        backbone.model.load_state_dict({k: v.float() for k, v in load_file(config.start_from).items()})
    average = {name: p.detach().clone() for name, p in backbone.model.named_parameters()}
    head = nn.Linear(backbone.model.text_projection.shape[1], len(art.concepts))
    steppers = [*optimisers(backbone.model, config), torch.optim.AdamW(head.parameters(), lr=config.lr)]
    steppers[-1].param_groups[0]["initial_lr"] = config.lr
    first, seconds = config.start_step, 0.0
    state_file = config.out / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        backbone.model.load_state_dict(state["model"])
        head.load_state_dict(state["head"])
        for optimiser, saved in zip(steppers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        average, first, seconds = state["average"], state["step"], state["seconds"]
        print(f"resumed at step {first}", flush=True)
    batches = Batches(art, config.batch_size, config.other_names, config.seed, config.steps)
    loader = DataLoader(
        batches, batch_size=None, sampler=range(first, config.steps), num_workers=config.workers
    )
    log = (config.out / "log.jsonl").open("a")
    started, last_save, losses = time.monotonic(), time.monotonic(), []
    for step, batch in enumerate(loader, start=first):
        factor = rate(step, config)
        cooling = step >= config.steps * (1 - config.cooldown)
        visual.patch_dropout = (
            PatchDropout(config.patch_dropout) if config.patch_dropout and not cooling else nn.Identity()
        )
        backbone.train()
        loss = loss_of(backbone, batch, head, config.concept_weight * max(0.0, 1 - 2 * step / config.steps))
        loss.backward()
        nn.utils.clip_grad_norm_(backbone.model.parameters(), 1.0)
        for optimiser in steppers:
            for group in optimiser.param_groups:
                group["lr"] = group["initial_lr"] * factor
            optimiser.step()
            optimiser.zero_grad()
        decay = min(config.ema, (1 + step - config.start_step) / (10 + step - config.start_step))
        names, parameters = zip(*backbone.model.named_parameters(), strict=True)
        torch._foreach_lerp_([average[n] for n in names], [p.detach() for p in parameters], 1 - decay)
        losses.append(loss.item())
        if (step + 1) % 25 == 0:
            spent = seconds + time.monotonic() - started
            row = {
                "step": step + 1,
                "loss": sum(losses) / len(losses),
                "scale": float(backbone.logit_scale.detach()),
                "seconds": round(spent, 1),
                "images_per_second": round(
                    config.batch_size * (step + 1 - first) / (time.monotonic() - started), 1
                ),
            }
            losses = []
            if (step + 1) % 200 == 0 or step + 1 == config.steps:
                live = {n: p.detach().clone() for n, p in backbone.model.named_parameters()}
                backbone.model.load_state_dict(average, strict=False)
                row |= kept_out_accuracy(backbone, art, labels)
                backbone.model.load_state_dict(live, strict=False)
            print(json.dumps(row), flush=True)
            log.write(json.dumps(row) + "\n")
            log.flush()
        if time.monotonic() - last_save > config.save_every or step + 1 == config.steps:
            last_save = time.monotonic()
            save(config.out / "pocket.safetensors", backbone, average)
            temporary = state_file.with_suffix(".tmp")
            torch.save(
                {
                    "model": backbone.model.state_dict(),
                    "head": head.state_dict(),
                    "optimisers": [o.state_dict() for o in steppers],
                    "average": average,
                    "step": step + 1,
                    "seconds": seconds + time.monotonic() - started,
                },
                temporary,
            )
            temporary.replace(state_file)


if __name__ == "__main__":
    main(tyro.cli(PretrainConfig))
