"""How good the towers are on the drawings that are kept out of their training."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ..backbone.model import Backbone
from ..data.builtin.compose import Background, Scene, draw_placement, render
from ..engine.setup import preprocess_for
from .art import Art
from .batches import POOL, SIZE


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
        scenes = [_hard_scene(k, np.random.default_rng([99, draw, k])) for k in range(len(rows))]
        images = render(scenes, sprites, SIZE).images
        features = F.normalize(backbone.encode_image(preprocess_for(backbone).normalise(images)), dim=-1)
        ranked = (features @ texts.T).topk(5).indices
        top1 += float((ranked[:, 0] == truth).float().mean()) / draws
        top5 += float((ranked == truth[:, None]).any(1).float().mean()) / draws
    return {"kept_out_top1": top1, "kept_out_top5": top5, "kept_out_drawings": len(rows)}


def _hard_scene(position: int, rng: np.random.Generator) -> Scene:
    scale, x, y, angle = draw_placement(rng, (0.5, 0.95), 12)
    family = ("flat", "gradient", "noise")[int(rng.integers(3))]
    return Scene(position, scale, x, y, angle, Background(family, POOL[int(rng.integers(len(POOL)))]))
