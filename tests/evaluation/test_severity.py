"""Class trees and severity of mistakes against slow definitions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from clipalign.core.errors import UserError
from clipalign.data.builtin.pictograms import Pictograms
from clipalign.evaluation.class_tree import ClassTree, class_tree, read_tree
from clipalign.evaluation.metrics.severity import rank_correlations

TREE = """# an animal that is no mammal has a shorter path
dog\tcanine
wolf\tcanine
canine\tmammal
cat\tmammal
mammal\tanimal

frog\tanimal
car\tvehicle
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "tree.tsv"
    path.write_text(text, encoding="utf-8")
    return path


def slow_heights(tree: ClassTree) -> np.ndarray:
    """Walk up from one class to the first ancestor of the other; its height is its longest way down to a class."""
    n = len(tree.paths)
    heights = np.zeros((n, n), int)
    for i in range(n):
        for j in range(n):
            if i != j:
                ancestor = next(node for node in tree.paths[i] if node in tree.paths[j])
                heights[i, j] = max(p.index(ancestor) + 1 for p in tree.paths if ancestor in p)
    return heights


def test_tree_of_a_file_has_heights_of_lowest_common_ancestors(tmp_path: Path) -> None:
    names = ("dog", "wolf", "cat", "frog", "car")
    tree = read_tree(write(tmp_path, TREE), names)
    expected = [
        [0, 1, 2, 3, 4],
        [1, 0, 2, 3, 4],
        [2, 2, 0, 3, 4],
        [3, 3, 3, 0, 4],
        [4, 4, 4, 4, 0],
    ]
    assert tree.heights.tolist() == expected == slow_heights(tree).tolist()
    assert tree.siblings[0].tolist() == [True, True, False, False, False]
    assert tree.top_groups == ("animal", "animal", "animal", "animal", "vehicle")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dog canine\n", "line 1: write a name, a tab and the name of its parent"),
        ("dog\tcanine\ndog\tpet\n", 'line 2: "dog" has two parents, "canine" and "pet"'),
        ("cat\tmammal\n", 'has no line for the class "dog"'),
        ("dog\tx\nx\ty\ny\tx\n", '"x" is above itself'),
        ("dog\tx\npoodle\tdog\n", 'the class "dog" is the parent of another name'),
    ],
)
def test_invalid_tree_raises(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_tree(write(tmp_path, text), ("dog",))
    assert message in str(error.value) and "tree.tsv" in str(error.value)


def test_missing_tree_file_raises(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--class-tree: cannot read .*no\.tsv"):
        read_tree(tmp_path / "no.tsv", ("dog",))


def test_pictograms_have_subgroups_and_groups() -> None:
    source = Pictograms()
    tree = class_tree(source, None)
    assert tree is not None and set(np.unique(tree.heights)) == {0, 1, 2, 3}
    at = {name: i for i, name in enumerate(source.class_names)}
    assert tree.heights[at["dog"], at["cat"]] == 1  # mammals
    assert (tree.heights == tree.heights.T).all()
    groups = {concept["group"] for concept in source.index["concepts"]}
    assert set(tree.top_groups) == groups
    chosen = np.random.default_rng(0).choice(len(tree.paths), 30, replace=False)
    part = ClassTree(tuple(tree.paths[i] for i in chosen))
    assert part.heights.tolist() == slow_heights(part).tolist()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 8))
def test_rank_correlation_matches_scipy_over_the_wrong_classes(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.integers(0, 9, (6, classes)) + rng.normal(size=(6, classes)).round(1)  # some ties
    labels, similarity = rng.integers(0, classes, 6), rng.normal(size=(classes, classes))
    found = rank_correlations(logits, labels, similarity)
    for i, label in enumerate(labels):
        wrong = np.delete(np.arange(classes), label)
        if len(set(logits[i, wrong])) > 1:
            expected = spearmanr(logits[i, wrong], similarity[label, wrong]).statistic
            assert found[i] == pytest.approx(expected)
    assert (np.abs(found) <= 1 + 1e-9).all()


def test_rank_correlation_of_constant_logits_is_zero() -> None:
    assert rank_correlations(np.zeros((1, 4)), np.array([0]), np.eye(4)).tolist() == [0.0]
