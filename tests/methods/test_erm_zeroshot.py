from __future__ import annotations

from typing import Any

import open_clip
import torch
from torch.nn import functional as F

from clipalign.backbone import Backbone, preprocess_for
from clipalign.data.batches import TrainBatches
from clipalign.data.sources.folder import ImageFolder
from clipalign.methods import get_method
from clipalign.protocols import build_episode

NAMES = ("red_square", "blue square", "traffic-light", "snow")


def test_zeroshot_is_open_clips_own(tiny: Backbone, squares: ImageFolder) -> None:
    method = get_method("zeroshot")()
    templates = ("a photo of a {}.", "a drawing of the {}.")
    method.setup(tiny, build_episode("domain-shift", squares, "grey", 0), templates)
    images = torch.randn(5, 3, 32, 32)
    model: Any = tiny.model
    names = [name.replace("_", " ").replace("-", " ") for name in NAMES]
    weights = open_clip.build_zero_shot_classifier(
        model, tiny.tokenizer, names, [lambda c, t=t: t.format(c) for t in templates], num_classes_per_batch=2
    )
    with torch.no_grad():
        wanted = model.logit_scale.exp() * F.normalize(model.encode_image(images), dim=-1) @ weights
        found = method.classifier(NAMES)(images)
    assert torch.allclose(found, wanted, atol=1e-4)
    assert method.parameters() == [] and not any(p.requires_grad for p in tiny.parameters())


def test_erm_is_cross_entropy_with_the_zero_shot_head(tiny: Backbone, squares: ImageFolder) -> None:
    episode = build_episode("domain-shift", squares, "grey", 0)
    erm, zeroshot = get_method("erm")(), get_method("zeroshot")()
    zeroshot.setup(tiny, episode, ("a {}.",))
    batch = TrainBatches(episode, 6, 0, preprocess_for(tiny))[0]
    with torch.no_grad():
        wanted = F.cross_entropy(zeroshot.classifier(episode.class_names)(batch.images), batch.labels)
    erm.setup(tiny, episode, ("a {}.",))
    assert torch.allclose(erm.loss(batch)["loss_ce"], wanted, atol=1e-5)


def test_erm_trains_the_whole_vision_tower_and_nothing_else(tiny: Backbone, squares: ImageFolder) -> None:
    erm = get_method("erm")()
    erm.setup(tiny, build_episode("domain-shift", squares, "grey", 0), ("a {}.",))
    assert {id(p) for p in erm.parameters()} == {id(p) for p in tiny.model.visual.parameters()}
