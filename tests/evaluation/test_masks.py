"""Masks of named concepts, and the report of a method with modular masks."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from clipalign.backbone import Backbone
from clipalign.core.errors import UserError
from clipalign.evaluation.masks import draw_pairs, mask_report, masks_of, pictogram_concepts
from clipalign.methods import get_method
from clipalign.methods.zeroshot import ZeroShot
from clipalign.protocols.names_only import NamesOnly, names_episode
from clipalign.runs.run import zeroshot

CONCEPTS = ("a dog", "a cat", "an apple", "some bread", "a kite", "a bell")
LABELS = {"kind": ("animal", "animal", "food", "food", "toy", "toy")}


class Words(ZeroShot):
    """A method whose masks are unions of two dimensions per concept."""

    def caption_masks(self, texts: Sequence[str]) -> Tensor:
        masks = torch.zeros(len(texts), 2 * len(CONCEPTS))
        for row, text in zip(masks, texts, strict=True):
            for c, concept in enumerate(CONCEPTS):
                if concept in text:
                    row[2 * c : 2 * c + 2] = 1
        return masks


@pytest.fixture
def words(tiny: Backbone) -> Words:
    method = Words()
    method.__dict__.update(zeroshot(tiny).__dict__)
    return method


def test_report_of_modular_masks_has_excess_1(words: Words) -> None:
    found = mask_report(words, CONCEPTS, LABELS)
    assert found["union"]["excess"] == found["intersection"]["excess"] == 1
    assert found["single"]["mean"] == 2 and found["joined"]["mean"] == 4
    assert (found["concepts"], found["joined_texts"], found["cut_texts"]) == (6, 12, 0)
    assert found["relations"]["kind"]["related_pairs"] == 3
    assert json.loads(json.dumps(found)) == found


def test_report_counts_truncated_texts(words: Words) -> None:
    form = "{} " + "and so on " * 40
    assert mask_report(words, CONCEPTS, LABELS, single=form)["cut_texts"] == 6


def test_draw_pairs_joins_other_labels_reproducibly() -> None:
    labels = LABELS["kind"]
    pairs = draw_pairs(labels, 3, seed=4)
    assert pairs.shape == (18, 2) and (draw_pairs(labels, 3, seed=4) == pairs).all()
    assert (draw_pairs(labels, 3, seed=5) != pairs).any()
    assert all(labels[a] != labels[b] for a, b in pairs)
    assert len({tuple(pair) for pair in pairs.tolist()}) == 18
    assert len(draw_pairs(labels, 99)) == 6 * 4
    alike = draw_pairs(("x",) * 4, 2)
    assert len(alike) == 8 and (alike[:, 0] != alike[:, 1]).all()
    assert draw_pairs((), 2).shape == draw_pairs(("x",), 2).shape == (0, 2)


def test_pictogram_concepts_have_subgroups_and_groups() -> None:
    phrases, labels = pictogram_concepts()
    assert len(phrases) == len(set(phrases)) == len(labels["group"]) == len(labels["subgroup"])
    assert {"a dog", "an octopus"} <= set(phrases)
    assert len(np.unique(labels["group"])) < len(np.unique(labels["subgroup"]))
    assert list(labels) == ["subgroup", "group"]


def test_masks_of_smartclip_are_binary(tiny: Backbone) -> None:
    method = get_method("smartclip")()
    torch.manual_seed(0)
    method.setup(tiny, names_episode(NamesOnly("", (), ("a",), ("{}",))), ("{}",))
    masks = masks_of(method, CONCEPTS)
    assert (
        masks.shape == (6, 24) and masks.dtype == torch.float64 and set(masks.unique().tolist()) <= {0.0, 1.0}
    )
    assert torch.equal(masks_of(method, CONCEPTS[::-1]), masks.flip(0))
    assert mask_report(method, CONCEPTS, LABELS)["single"]["dimensions"] == 24


def test_masks_of_method_without_masks_raises(tiny: Backbone) -> None:
    with pytest.raises(UserError, match="zeroshot has no masks"):
        masks_of(zeroshot(tiny), ["a dog"])
