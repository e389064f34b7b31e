"""Pure functions of tensors: AlignCLIP's attention alignment and semantic smoothing, CLIPood's margin.

Losses that compare all images with all texts are in `losses.contrastive`.

Equation numbers are those of AlignCLIP (2023). Where the paper and its released code differ, both are here
under the names "paper" and "released". B images, M patches, C classes, d joint size, L layers. Features need
not be normalised; cosines are formed here. Everything is computed in float32 at least, outside autocast, from
log-softmax: at temperature 0.01 one bfloat16 rounding of a cosine would move a logit by 0.4.
"""

from __future__ import annotations

from .alignment import (
    TINY,
    Direction,
    attention_alignment,
    class_attention,
    entropy,
    kl,
    kl_to_uniform,
    log_similarity_distribution,
    similarity_alignment,
    similarity_distribution,
)
from .classification import (
    class_similarity,
    margin_logits,
    published_margin,
    released_semantic_targets,
    semantic_targets,
    soft_cross_entropy,
    uniform_targets,
)
from .contrastive import (
    contrastive_logits,
    contrastive_loss,
    masked_contrastive_loss,
    masked_features,
    project_to_components,
)

__all__ = [
    "TINY",
    "Direction",
    "attention_alignment",
    "class_attention",
    "class_similarity",
    "contrastive_logits",
    "contrastive_loss",
    "entropy",
    "kl",
    "kl_to_uniform",
    "log_similarity_distribution",
    "margin_logits",
    "masked_contrastive_loss",
    "masked_features",
    "project_to_components",
    "published_margin",
    "released_semantic_targets",
    "semantic_targets",
    "similarity_alignment",
    "similarity_distribution",
    "soft_cross_entropy",
    "uniform_targets",
]
