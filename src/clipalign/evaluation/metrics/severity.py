"""How wrong mistakes are: distance in a hierarchy, and order of the wrong classes."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from ...core.errors import UserError
from ..class_tree import class_tree
from ..context import MetricContext, ModelOutputs
from ..loader import class_names
from . import METRICS
from .base import Field, ModelMetric


@METRICS.register("severity")
class Severity(ModelMetric):
    """Severity of mistakes in a class tree, confusions inside the subgroup, and rank agreement with text similarity."""

    fields = (
        Field(
            "severity",
            "severity",
            unit="levels",
            digits=2,
            higher_is_better=False,
            note="Severity: mean over mistakes of the height of the lowest common ancestor of predicted and true "
            "class.",
        ),
        Field(
            "subgroup_confusions",
            "within subgroup",
            note="Within subgroup: share of the mistakes whose prediction has the same parent in the class tree.",
        ),
        Field(
            "text_rank_correlation",
            "text rank",
            unit="",
            digits=3,
            note="Text rank: Spearman correlation of the logits of the wrong classes with the similarity of their "
            "names to the true name, under the text tower before training.",
        ),
    )

    def check(self, context: MetricContext) -> None:
        if class_tree(context.source, context.options.class_tree) is None:
            raise UserError(
                f"{context.source.name} has no hierarchy of classes; give one with --class-tree FILE (lines of a name, "
                "a tab and the name of its parent)"
            )

    def compute(self, one: ModelOutputs) -> dict[str, float]:
        context, outputs = one.context, one.outputs
        tree = class_tree(context.source, context.options.class_tree)
        assert tree is not None  # checked
        classes = np.array(one.test.classes)  # [C]
        predicted, true = classes[outputs.ranked[:, 0]], classes[outputs.labels]  # [n] each
        names = class_names(context.source, one.test.classes)
        text = context.before.text_features(names, context.templates)  # [C, d]
        similarity = (text @ text.T).double().cpu().numpy()  # [C, C]
        values = {}
        if len(classes) > 2:
            ranks = rank_correlations(outputs.logits, outputs.labels, similarity)
            values["text_rank_correlation"] = float(ranks.mean())
        wrong = predicted != true  # [n]
        if wrong.any():
            values["severity"] = float(tree.heights[predicted[wrong], true[wrong]].mean())
            values["subgroup_confusions"] = float(tree.siblings[predicted[wrong], true[wrong]].mean())
        return values


def rank_correlations(logits: np.ndarray, labels: np.ndarray, similarity: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation, over the wrong classes, of the logits and the similarity to the true class.

    Range [-1, 1]; 1 if the wrong classes are in the order of their similarity. Higher is better. Ties have their mean
    rank; the correlation with constant values is 0.

    Args:
        logits: [n, C], C > 2.
        labels: [n].
        similarity: [C, C] of the class names.

    Returns:
        [n].
    """
    n, classes = logits.shape
    wrong = np.arange(classes) != labels[:, None]  # [n, C]
    ranks = [
        rankdata(values[wrong].reshape(n, classes - 1), axis=1) for values in (logits, similarity[labels])
    ]  # [n, C - 1] each
    a, b = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    scale = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)  # [n]
    return (a * b).sum(axis=1) / np.where(scale > 0, scale, 1)
