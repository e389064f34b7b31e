"""Losses as pure functions of tensors, without state.

- `losses.alignment`: attention alignment of AlignCLIP.
- `losses.classification`: targets of smoothed cross-entropies, and CLIPood's margin.
- `losses.contrastive`: losses between all images and all texts of a batch.

Equation numbers are those of AlignCLIP (2023). Where the paper and its released code differ, both are available as
"paper" and "released". In shapes, B is images, M patches, C classes, d the embedding dimension and L layers.
Features need not be normalised unless a function says so. Every loss is computed in at least float32, outside
autocast, from log-softmax: at temperature 0.01, rounding one cosine to bfloat16 would move a logit by 0.4.
"""

from __future__ import annotations

from .alignment import (
    Direction,
    attention_alignment,
    class_attention,
    entropy,
    kl,
    kl_to_uniform,
    log_similarity_distribution,
    similarity_alignment,
)
from .classification import (
    class_similarity,
    cosine_logits,
    margin_logits,
    released_semantic_targets,
    semantic_targets,
    sharpness_for_mass,
    soft_cross_entropy,
    uniform_targets,
    unit_features,
)
from .contrastive import (
    contrastive_logits,
    contrastive_loss,
    masked_contrastive_loss,
    masked_features,
    project_to_components,
)

__all__ = [
    "Direction",
    "attention_alignment",
    "class_attention",
    "class_similarity",
    "contrastive_logits",
    "contrastive_loss",
    "cosine_logits",
    "entropy",
    "kl",
    "kl_to_uniform",
    "log_similarity_distribution",
    "margin_logits",
    "masked_contrastive_loss",
    "masked_features",
    "project_to_components",
    "released_semantic_targets",
    "semantic_targets",
    "sharpness_for_mass",
    "similarity_alignment",
    "soft_cross_entropy",
    "uniform_targets",
    "unit_features",
]
