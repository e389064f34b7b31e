"""Measure what constants published for CLIP's logit scale of 100 do on a backbone with another scale.

    python benchmarks/alignclip_constants.py --backbone pocket

Prints the logit scale; the off-class mass of the released smoothing by sharpness; the training accuracy under CLIPood's
margin; and the gradient norms of AlignCLIP's unweighted terms at the initial weights. Takes a minute on one core.
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import Tensor

from clipalign import losses
from clipalign.backbone import Backbone, load, preprocess_for
from clipalign.core.types import Batch, Episode
from clipalign.data.batches import TrainBatches
from clipalign.data.registry import load_source
from clipalign.methods.alignclip import AlignClip, AlignClipConfig
from clipalign.methods.shared.alignclip_variant import released_sharpness
from clipalign.protocols import build_episode

SHARPNESS = (1.0, 7.0, 10.0, 15.0, 20.0, 25.0, 35.0)
MARGINS = (0.0, 0.1, 0.3, 0.6, 1.0)


def off_class_mass(text: Tensor, sharpness: float) -> Tensor:
    """Return the share of softmax(sharpness S) outside the diagonal, for each of C classes, [C]."""
    similarity = losses.class_similarity(text)  # [C, C]
    return 1 - (sharpness * similarity).softmax(dim=-1).diagonal()


def gradient_norm(method: AlignClip, loss: Tensor) -> float:
    """Return the norm of the gradient with respect to all trained parameters."""
    gradients = torch.autograd.grad(loss, method.parameters(), retain_graph=True, allow_unused=True)
    return float(torch.cat([g.flatten() for g in gradients if g is not None]).norm())


def method_of(backbone: Backbone, episode: Episode, config: AlignClipConfig) -> AlignClip:
    """Return AlignCLIP at the initial weights of the backbone."""
    method = AlignClip(config)
    method.setup(backbone, episode, episode.source.templates)
    return method


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="pocket")
    parser.add_argument("--data", default="pictograms")
    parser.add_argument("--target", default="twemoji")
    parser.add_argument("--batches", type=int, default=2, help="training batches of 36")
    options = parser.parse_args()

    backbone = load(options.backbone)
    episode = build_episode("in-the-wild", load_source(options.data), options.target, 0)
    batches: list[Batch] = [
        TrainBatches(episode, 36, 0, preprocess_for(backbone))[step] for step in range(options.batches)
    ]
    scale = float(backbone.logit_scale.detach())
    print(f"logit scale {scale:.2f}")
    plain = method_of(backbone, episode, AlignClipConfig(smoothing="none", margin=0.0))

    similarity = losses.class_similarity(plain.text)  # [C, C]
    others = similarity[~torch.eye(len(similarity), dtype=torch.bool)]  # [C (C - 1)]
    print(f"{len(similarity)} classes, cosine between two: {others.mean():.3f}, at most {others.max():.3f}")
    for sharpness in (*SHARPNESS, 0.35 * scale, released_sharpness(backbone)):
        mass = off_class_mass(plain.text, sharpness)
        print(
            f"sharpness {sharpness:.3g}: off-class mass {mass.mean():.3f} ({mass.min():.3f} to {mass.max():.3f})"
        )

    with torch.no_grad():
        image = torch.cat([backbone.encode_image(batch.images) for batch in batches])  # [n, d]
    labels = torch.cat([batch.labels for batch in batches])  # [n]
    for margin in MARGINS:
        logits = losses.margin_logits(image, plain.text, labels, scale, margin)  # [n, C]
        print(f"margin {margin:g}: training accuracy {(logits.argmax(dim=1) == labels).float().mean():.3f}")

    # The same weights with other scales: how each term's gradient grows with s.
    for other in (scale, 50.0, 100.0):
        backbone.model.logit_scale.data.fill_(math.log(other))
        for variant in ("paper", "released"):
            config = AlignClipConfig(variant=variant, smoothing="none", margin=0.0, sharpness=1.0)
            method = method_of(backbone, episode, config)
            norms = dict.fromkeys(("loss_ce", "al", "as"), 0.0)
            for batch in batches:
                terms = method.loss(batch)
                for name in norms:
                    norms[name] += gradient_norm(method, terms[name]) / len(batches)
            listed = ", ".join(f"{name} {norm:.4g}" for name, norm in norms.items())
            print(f"{variant}, scale {other:.4g}: gradient norms {listed}")


if __name__ == "__main__":
    main()
