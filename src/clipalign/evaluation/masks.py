"""Masks of texts, and the report of `disentanglement` on named concepts."""

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
from ..methods.capabilities import SupportsMasks
from .disentanglement import disentanglement

if TYPE_CHECKING:
    from ..methods import Method


@torch.no_grad()
def masks_of(method: Method, texts: Sequence[str]) -> Tensor:
    """Return the masks of T texts over the dimensions of the joint space, [T, D] float64 in [0, 1] on the CPU.

    Raises:
        UserError: the method has no masks.
    """
    if not isinstance(method, SupportsMasks):
        raise UserError(
            f"--method {method.name} has no masks; --masks and --disentanglement need a method that computes a "
            "mask for each text, such as smartclip"
        )
    _, masks = method.encode_captions(texts)  # [T, D]
    return masks.detach().double().cpu()


def pictogram_concepts() -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Return the concepts of Pictograms as phrases ("an apple"), and their labels by level: subgroup, then group."""
    concepts = Pictograms().index["concepts"]
    phrases = tuple(noun_phrase(concept["label"], ObjectClaim(i)) for i, concept in enumerate(concepts))
    return phrases, {level: tuple(concept[level] for concept in concepts) for level in ("subgroup", "group")}


def draw_pairs(labels: Sequence[str], partners: int, seed: int = 0) -> np.ndarray:
    """Pair each concept with random concepts of other labels; with any others if all have one label.

    The partners of a pair are unrelated, so their masks are not expected to overlap.

    Args:
        labels: label of each of C concepts.
        partners: number of partners per concept; fewer if there are not as many.
        seed: seed of the draw.

    Returns:
        [P, 2] int64, concept and partner. Rows are distinct; a pair may occur in both orders.
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
    """Measure how well the masks of a method separate concepts; returns values for JSON.

    Args:
        method: a method with masks.
        concepts: phrases such as "a dog". Default: the concepts of Pictograms.
        labels: level -> label of each concept, from narrow to wide levels. Pairs have different labels at the last
            level. Default: those of Pictograms.
        partners: number of concepts that each concept is paired with.
        seed: seed of the pairs.
        single: format string of the text of one concept.
        both: format string of the text of a pair.

    Returns:
        The fields of `Disentanglement`, and the settings: method, number of concepts and of texts of pairs, the two
        format strings, the seed, and the number of truncated texts.

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
    """Format the result of `mask_report` as lines of text."""
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
