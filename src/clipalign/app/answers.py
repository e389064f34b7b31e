"""Answers of a model about a photo: the most probable of some class names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import UserError
from ..methods.base import Classifier
from .models import PageModel


@dataclass(frozen=True)
class Answer:
    """The most probable class names of one photo.

    Attributes:
        title: title of the model.
        names: names, most probable first.
        probabilities: softmax over all class names, in the same order.
        problem: why the model cannot score the names; empty if it can.
    """

    title: str
    names: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    problem: str = ""


def top(title: str, names: Sequence[str], probabilities: Tensor, count: int = 5) -> Answer:
    """Return the `count` most probable of C names; `probabilities` is [C]."""
    values, order = probabilities.topk(min(count, len(names)))  # [k], [k]
    return Answer(title, tuple(names[i] for i in order.tolist()), tuple(values.tolist()))


@torch.no_grad()
def classify(classifier: Classifier, view: Tensor) -> Tensor:
    """Return the probabilities of one model input [1, 3, H, W] over C names: [C] on the CPU."""
    return classifier(view).float().softmax(dim=-1)[0].cpu()  # [1, C] -> [C]


def make_classifier(model: PageModel, names: Sequence[str]) -> Classifier | str:
    """Return the model's classifier over `names`, or why there is none."""
    try:
        return model.method.classifier(names)
    except UserError as error:  # UnseenClasses: a trained head has no other classes
        return str(error)
