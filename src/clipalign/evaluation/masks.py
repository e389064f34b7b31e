"""The masks that a method gives texts, and the measure of `disentanglement` on named concepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import UserError
from ..data.builtin.pictograms import Pictograms
from ..data.builtin.scene_grammar import ObjectClaim, noun_phrase
from .disentanglement import disentanglement

if TYPE_CHECKING:
    from ..methods import Method


@torch.no_grad()
def masks_of(method: Method, texts: Sequence[str]) -> Tensor:
    """Which dimensions each text speaks about, [T, D] float64 in [0, 1] on the CPU.

    Raises:
        UserError: the method has no masks.
    """
    masks = method.caption_masks(texts)
    if masks is None:
        raise UserError(
            f"--method {method.name} has no masks; --masks and --disentanglement are for methods that give each "
            "text a mask, such as smartclip"
        )
    return masks.detach().double().cpu()


def pictogram_concepts() -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """The concepts of Pictograms as phrases ("an apple"), and their labels: subgroup, then the wider group."""
    concepts = Pictograms().index["concepts"]
    phrases = tuple(noun_phrase(concept["label"], ObjectClaim(i)) for i, concept in enumerate(concepts))
    return phrases, {level: tuple(concept[level] for concept in concepts) for level in ("subgroup", "group")}


def draw_pairs(labels: Sequence[str], partners: int, seed: int = 0) -> np.ndarray:
    """Each concept with some others of another label; where all share one label, with any others.

    Unrelated partners, so that what two of them have in common is not expected to lie in the masks of both.

    Args:
        labels: of each of C concepts.
        partners: for each concept; fewer where there are not as many.
        seed: of the draw.

    Returns:
        [P, 2] int64, different rows that speak of different pairs or of one in both orders.
    """
    rng = np.random.default_rng(seed)
    names = np.array(tuple(labels))
    pairs = []
    for concept, label in enumerate(names):
        others = np.flatnonzero(names != label)
        if not len(others):
            others = np.delete(np.arange(len(names)), concept)
        pairs += [(concept, other) for other in rng.permutation(others)[:partners].tolist()]
    return np.array(pairs, np.int64).reshape(-1, 2)


def mask_report(
    method: Method,
    concepts: Sequence[str] | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
    *,
    partners: int = 2,
    seed: int = 0,
    single: str = "{}",
    both: str = "{} and {}",
) -> dict[str, Any]:
    """How far the masks of a method take concepts apart, as JSON can hold it.

    Args:
        method: with masks.
        concepts: phrases such as "a dog". Default: the concepts of Pictograms.
        labels: name -> label of each concept, from narrow to wide; concepts are joined across the last one.
            Default: those of Pictograms.
        partners: how many others each concept is joined with.
        seed: of that draw.
        single: text of one concept.
        both: text of two.

    Returns:
        Widths, overlap of related and unrelated concepts, and the match of unions and intersections, as
        `Disentanglement` describes them; and what was asked: numbers of concepts and joined texts, the two
        forms, the seed, and how many texts were cut.

    Raises:
        UserError: the method has no masks.
    """
    if concepts is None:
        concepts, labels = pictogram_concepts()
    labels = labels or {"none": ("",) * len(concepts)}
    pairs = draw_pairs(list(labels.values())[-1], partners, seed)
    texts = [single.format(concept) for concept in concepts]
    texts += [both.format(concepts[a], concepts[b]) for a, b in pairs]
    masks = masks_of(method, texts)
    found = disentanglement(masks[: len(concepts)], masks[len(concepts) :], pairs, labels)
    return {
        "method": method.name,
        "concepts": len(concepts),
        "joined_texts": len(pairs),
        "forms": [single, both],
        "seed": seed,
        "cut_texts": method.backbone.tokenize(texts).num_truncated,
        **asdict(found),
    }


def summary(report: Mapping[str, Any]) -> list[str]:
    """A report of `mask_report` in a few lines."""
    single, joined = report["single"], report["joined"]
    lines = [
        f"{report['concepts']} concepts: {single['mean']:.1f} of {single['dimensions']} dimensions active "
        f"({single['minimum']} to {single['maximum']}); {report['joined_texts']} pairs: {joined['mean']:.1f}"
    ]
    for name, relation in report["relations"].items():
        if relation["auroc"] is not None:
            lines.append(
                f"overlap within a {name} {relation['related']:.3f}, with others {relation['unrelated']:.3f}: "
                f"AUROC {relation['auroc']:.3f}"
            )
    for name, right in (("union", "the joined mask"), ("intersection", "the mask of the shared concept")):
        match = report[name]
        if match["excess"] is not None:
            lines.append(
                f"{name} against {right}: {match['score']:.3f}, by chance {match['chance']:.3f}, "
                f"excess {match['excess']:.3f}"
            )
    return lines
