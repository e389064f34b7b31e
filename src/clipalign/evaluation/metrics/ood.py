"""Detection of images of new classes by a classifier among the base classes."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp, softmax
from sklearn.metrics import average_precision_score, roc_auc_score

from ...core.errors import UnseenClasses, UserError
from ..context import MetricContext, ModelOutputs
from ..loader import class_names
from . import METRICS
from .base import Field, ModelMetric

BASE, NEW = "base", "new"  # test sets: in distribution, out of distribution
KEPT = 0.95  # share of the base images above the threshold of the false-positive rate
SCORES = {
    "msp": "MSP",
    "maxlogit": "max logit",
    "energy": "energy",
    "mcm": "MCM",
}  # in field names -> in tables
NOTES = {
    "auroc": "OOD AUROC: probability that an image of a base class has a higher score among the base names than one of "
    "a new class.",
    "aupr": "OOD AUPR: average precision of the new images, ranked by falling score from the end.",
    "fpr95": "FPR95: share of the new images above the threshold that 95 % of the base images exceed.",
}


def _fields(score: str, title: str) -> tuple[Field, ...]:
    return tuple(
        Field(
            f"ood_{score}_{name}",
            head,
            higher_is_better=name != "fpr95",
            variant=title,
            note=NOTES[name],
        )
        for name, head in (("auroc", "OOD AUROC"), ("aupr", "OOD AUPR"), ("fpr95", "FPR95"))
    )


@METRICS.register("ood")
class OutOfDistribution(ModelMetric):
    """AUROC, AUPR and FPR95 of four scores that tell images of base classes from those of new ones.

    The classifier chooses among the names of the base classes only, as at deployment before anyone knows the new
    classes. In distribution are the images of the test set "base", out of distribution those of "new"; the values are
    on the row of "new".
    """

    fields = tuple(field for score, title in SCORES.items() for field in _fields(score, title))

    def check(self, context: MetricContext) -> None:
        if not {BASE, NEW} <= {test.name for test in context.tests}:
            raise UserError(
                "there are no images of new classes; it needs --protocol in-the-wild or base-to-new, whose test sets "
                "are base and new"
            )

    def compute(self, one: ModelOutputs) -> dict[str, float]:
        if one.test.name != NEW:
            return {}
        context, rows = one.context, {test.name: test.rows for test in one.context.tests}
        try:
            classifier = context.classifier_of(class_names(context.source, context.train_classes))
        except UnseenClasses:
            return {}
        both = np.union1d(rows[BASE], rows[NEW])
        outputs = context.loader.outputs(classifier, both, one.test.stage, context.train_classes)
        inside = np.isin(outputs.rows, rows[BASE])  # [n]
        scale = float(context.method.scale)
        values: dict[str, float] = {}
        for name, score in confidence_scores(outputs.logits, scale).items():
            found = detection(score[inside], score[~inside])
            values |= {f"ood_{name}_{key}": value for key, value in found.items()}
        return values


def confidence_scores(logits: np.ndarray, scale: float) -> dict[str, np.ndarray]:
    """Return four scores per image [n], each high for images like those of a known class.

    - msp: highest softmax probability (Hendrycks and Gimpel, ICLR 2017).
    - maxlogit: highest logit (Hendrycks et al., Scaling Out-of-Distribution Detection, ICML 2022).
    - energy: logsumexp of the logits, the negative energy at temperature 1 (Liu et al., NeurIPS 2020).
    - mcm: highest softmax probability of the cosines, without the logit scale (Ming et al., Delving into
      Out-of-Distribution Detection with Vision-Language Representations, NeurIPS 2022, with temperature 1).

    Args:
        logits: [n, C].
        scale: CLIP's logit scale; logits / scale are cosines for classifiers that compare features with texts.
    """
    exact = logits.astype(np.float64)  # [n, C]
    return {
        "msp": softmax(exact, axis=1).max(axis=1),
        "maxlogit": exact.max(axis=1),
        "energy": logsumexp(exact, axis=1),
        "mcm": softmax(exact / scale, axis=1).max(axis=1),
    }


def detection(inside: np.ndarray, outside: np.ndarray) -> dict[str, float]:
    """Return AUROC, AUPR and FPR95 of scores that are high in distribution.

    Args:
        inside: [n] scores in distribution.
        outside: [m] scores out of distribution.

    Returns:
        - auroc in [0, 1], 0.5 by chance, higher is better; ties count half.
        - aupr in [0, 1], m / (n + m) by chance, higher is better; images out of distribution are the positives.
        - fpr95 in [0, 1], 0.95 by chance, lower is better: the share of `outside` at or above the highest threshold
          that at least 95 % of `inside` reach.

    Example:
        >>> detection(np.array([3.0, 2.0]), np.array([1.0, 2.0]))
        {'auroc': 0.875, 'aupr': 0.8333333333333333, 'fpr95': 0.5}
    """
    scores = -np.concatenate([inside, outside])  # [n + m]
    new = np.repeat([False, True], [len(inside), len(outside)])  # [n + m]
    threshold = np.sort(inside)[::-1][int(np.ceil(KEPT * len(inside))) - 1]
    return {
        "auroc": float(roc_auc_score(new, scores)),
        "aupr": float(average_precision_score(new, scores)),
        "fpr95": float((outside >= threshold).mean()),
    }
