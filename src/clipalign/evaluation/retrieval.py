"""Score test sets of captions: features, metrics and result rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..backbone.text.features import text_features
from ..core.types import CaptionTest, Stage
from ..losses import cosine_logits, unit_features
from ..methods.capabilities import SupportsMasks
from .loader import EvalLoader
from .metrics import METRICS, RetrievalMetric, compute
from .outputs import RetrievalOutputs
from .results import ResultRow, make_row

if TYPE_CHECKING:
    from ..methods.base import Method

CHUNK = 1024  # captions whose cosines with all images are in memory at once


@torch.no_grad()
def retrieval_outputs(
    loader: EvalLoader, method: Method, tests: Sequence[CaptionTest], stage: Stage
) -> list[RetrievalOutputs]:
    """Encode the images and captions of test sets; those that several test sets share are encoded once.

    Args:
        loader: loads the images.
        method: encodes images and captions.
        tests: test sets of the loader's source.
        stage: which fixed views.
    """
    rows = np.unique(np.concatenate([test.rows for test in tests]))
    images = torch.from_numpy(loader.outputs(method.image_features, rows, stage, ()).logits)  # [n, d]
    captions = list(dict.fromkeys(text for test in tests for text in test.texts))
    position = {caption: i for i, caption in enumerate(captions)}
    masks: Tensor | None = None
    if isinstance(method, SupportsMasks):
        texts, masks = (encoded.float().cpu() for encoded in method.encode_captions(captions))  # [T, d] each
    else:
        texts = text_features(method.backbone, captions).cpu()  # [T, d]
    lengths = np.array(method.backbone.tokenize(captions).lengths)  # [T]
    outputs = []
    for test in tests:
        which = np.array([position[text] for text in test.texts])  # [T of the test]
        outputs.append(
            RetrievalOutputs(
                images=images[np.searchsorted(rows, test.rows)],
                texts=texts[which],
                owner=test.owner,
                relevant=test.relevant,
                masks=None if masks is None else masks[which],
                scale=float(method.scale),
                truncated=int((lengths[which] > method.backbone.context_length).sum()),
            )
        )
    return outputs


def retrieval_loss(outputs: RetrievalOutputs) -> float:
    """Return the mean over captions of the cross-entropy over all images: CE(scale * t_j I^T, owner_j)."""
    images = unit_features(outputs.images)  # [n, d]
    chunks = zip(outputs.texts.split(CHUNK), torch.from_numpy(outputs.owner).split(CHUNK), strict=True)
    losses = [
        F.cross_entropy(cosine_logits(texts, images, outputs.scale), owner, reduction="sum")  # of [t, n]
        for texts, owner in chunks
    ]
    return float(torch.stack(losses).sum() / len(outputs.texts))


def retrieval_rows(
    tests: Sequence[CaptionTest], outputs: Sequence[RetrievalOutputs], facts: Mapping[str, Any]
) -> list[ResultRow]:
    """Return one result row per test set.

    Args:
        tests: test sets of captions.
        outputs: outputs of one model on each.
        facts: fields of `ResultRow` that all rows share.
    """
    metrics = [metric() for metric in METRICS.all().values() if issubclass(metric, RetrievalMetric)]
    rows = []
    for test, output in zip(tests, outputs, strict=True):
        measured = {"test": test.name, "n": len(test.rows), "rows": len(test.rows), "accuracy": None}
        counts = {"texts": len(test.texts), "cut": output.truncated}
        rows.append(make_row(facts, {**measured, **compute(metrics, output), **counts}))
    return rows
