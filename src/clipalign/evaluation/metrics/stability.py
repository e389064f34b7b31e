"""How much fine-tuning changes image features, and what accuracy it costs."""

from __future__ import annotations

import numpy as np

from ...core.errors import UserError
from ...methods.base import Method
from ..class_tree import class_tree
from ..context import MetricContext, ModelOutputs
from ..outputs import Outputs
from . import METRICS
from .base import Field, ModelMetric


@METRICS.register("stability")
class Stability(ModelMetric):
    """Similarity of image features before and after fine-tuning, and accuracy lost against zero-shot."""

    fields = (
        Field(
            "cka",
            "CKA",
            digits=3,
            unit="",
            note="CKA: linear CKA of test features, 1 if unchanged.",
        ),
        Field(
            "feature_cosine",
            "feature cosine",
            digits=3,
            unit="",
            note="Feature cosine: mean cosine of a test image's features before and after.",
        ),
        Field(
            "forgetting",
            "forgetting",
            higher_is_better=False,
            note="Forgetting: zero-shot accuracy minus accuracy, in points; negative if the model gained.",
        ),
        Field(
            "forgetting_by_group", "forgetting by group", by="group", tag="forgetting", higher_is_better=False
        ),
    )

    def check(self, context: MetricContext) -> None:
        if context.backbone_before is None:
            raise UserError(
                "the model is a backbone that was not fine-tuned, so there is nothing to compare it with; score a run"
            )
        class_tree(context.source, context.options.class_tree)  # of another data set: an error

    def compute(self, one: ModelOutputs) -> dict[str, float | dict[str, float]]:
        context, stage = one.context, one.test.stage

        def features(method: Method) -> Outputs:
            return context.loader.outputs(method.image_features, context.rows, stage, ())

        before, after = context.once(
            f"features {stage}",
            lambda: tuple(features(method) for method in (context.before, context.method)),
        )
        x, y = (of.select(one.test.rows).logits for of in (before, after))  # [n, d] each
        values: dict[str, float | dict[str, float]] = {"feature_cosine": mean_cosine(x, y)}
        if np.ptp(x, axis=0).any() and np.ptp(y, axis=0).any():  # several images, not all alike
            values["cka"] = linear_cka(x, y)
        zero_shot = context.outputs_before.get(one.test.name)
        if zero_shot is None:
            return values
        lost = zero_shot.correct.astype(float) - one.outputs.correct  # [n]
        values["forgetting"] = float(lost.mean())
        tree = class_tree(context.source, context.options.class_tree)
        if tree is not None:
            groups = np.array(tree.top_groups)[np.array(one.test.classes)[one.outputs.labels]]  # [n]
            values["forgetting_by_group"] = {
                str(name): float(lost[groups == name].mean()) for name in np.unique(groups)
            }
        return values


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Return the linear centred kernel alignment of two sets of features of the same images.

    ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F) of features centred over images. Range [0, 1]; 1 if the features agree
    up to rotation, scale and translation. Higher is more stable.

    Args:
        x: [n, d].
        y: [n, e].

    Source: Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019.

    Example:
        >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> round(linear_cka(x, 3 * x[:, ::-1] + 5), 6)
        1.0
    """
    x, y = (features.astype(np.float64) - features.mean(axis=0, dtype=np.float64) for features in (x, y))
    cross, own, other = (np.linalg.norm(a.T @ b) for a, b in ((y, x), (x, x), (y, y)))
    return float(cross**2 / (own * other))


def mean_cosine(x: np.ndarray, y: np.ndarray) -> float:
    """Return the mean over images of the cosine of their features in x and y, both [n, d].

    Range [-1, 1]; 1 if nothing changed. Higher is more stable.
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    scale = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)  # [n]
    return float(((x * y).sum(axis=1) / scale).mean())
