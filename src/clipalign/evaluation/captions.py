"""Caption tests -> recalls -> result rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.types import CaptionTest, Stage
from ..runs.results import ResultRow
from .disentanglement import active
from .outputs import EvalLoader
from .retrieval import recalls

if TYPE_CHECKING:
    from ..methods.base import Method

CHUNK = 1024  # texts scored at once against all images, for the loss


@dataclass(frozen=True)
class Found:
    """How images and captions of a test found each other.

    Attributes:
        test: the test.
        numbers: recalls by name, in [0, 1]; see `retrieval.recalls`. With masks also their active dimensions.
        loss: mean cross-entropy of each caption over all images of the test, with the method's scale.
        cut: captions that were longer than the text tower's window.
    """

    test: CaptionTest
    numbers: Mapping[str, float]
    loss: float
    cut: int


@torch.no_grad()
def found_by_caption(
    views: EvalLoader, method: Method, tests: Sequence[CaptionTest], stage: Stage
) -> list[Found]:
    """Score every test; each image and each text is encoded once, whatever the number of tests that hold it.

    Args:
        views: shows the images.
        method: encodes images and texts.
        tests: of the views' source.
        stage: which fixed views.
    """
    rows = np.unique(np.concatenate([test.rows for test in tests]))
    images = torch.from_numpy(views.outputs(method.image_features, rows, stage, ()).logits)
    texts = list(dict.fromkeys(text for test in tests for text in test.texts))
    number = {text: i for i, text in enumerate(texts)}
    features, masks = method.caption_encodings(texts)
    features, masks = features.float().cpu(), None if masks is None else masks.float().cpu()
    lengths = np.array(method.backbone.tokenize(texts).lengths)
    found = []
    for test in tests:
        which = np.array([number[text] for text in test.texts])
        mine = images[np.searchsorted(rows, test.rows)]
        mask = None if masks is None else masks[which]
        numbers = recalls(mine, features[which], test.owner, relevant=test.relevant, masks=mask)
        if mask is not None:
            width = active(mask)
            numbers |= {"active_mean": width.mean, "active_min": width.minimum, "active_max": width.maximum}
        loss = caption_loss(mine, features[which], test.owner, float(method.scale))
        cut = int((lengths[which] > method.backbone.context_length).sum())
        found.append(Found(test, numbers, loss, cut))
    return found


def caption_loss(images: Tensor, texts: Tensor, owner: np.ndarray, scale: float) -> float:
    """Mean over captions of CE(scale * t_j I^T, owner_j): images [n, d], texts [T, d], unit rows."""
    images = F.normalize(images, dim=-1)
    losses = [
        F.cross_entropy(scale * part @ images.T, target, reduction="sum")
        for part, target in zip(texts.split(CHUNK), torch.from_numpy(owner).split(CHUNK), strict=True)
    ]
    return float(torch.stack(losses).sum() / len(texts))


def caption_rows(found: Sequence[Found], facts: Mapping[str, Any]) -> list[ResultRow]:
    """One row per test, its recalls as fields of their own.

    Args:
        found: of one model.
        facts: the fields of `ResultRow` that all rows share.
    """
    rows = []
    for one in found:
        extra = {**facts.get("extra", {}), **one.numbers, "texts": len(one.test.texts), "cut": one.cut}
        counts = {"n": len(one.test.rows), "rows": len(one.test.rows), "accuracy": None}
        rows.append(ResultRow(**{**facts, **counts, "extra": extra}, test=one.test.name))
    return rows
