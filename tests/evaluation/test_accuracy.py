from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, top_k_accuracy_score
from torch import Tensor

from clipalign.core.types import Preprocess, TestSet
from clipalign.data.sources.folder import ImageFolder
from clipalign.evaluation import EvalLoader, Outputs, accuracy, outputs_by_test
from clipalign.evaluation.rows import digest, domain_tests, result_rows, score, write_predictions
from clipalign.protocols import build_episode
from clipalign.runs.results import harmonic_mean

PREPROCESS = Preprocess((32, 32), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_accuracy_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, 8)).astype(np.float32), rng.integers(0, 8, 200)
    logits[np.arange(200), labels] += 1
    domains = rng.integers(0, 2, 200)
    found = accuracy(Outputs(logits, labels, np.arange(200), domains), list("abcdefgh"), ["x", "y"])
    best = logits.argmax(1)
    assert found.top1 == pytest.approx(accuracy_score(labels, best))
    assert found.top5 == pytest.approx(top_k_accuracy_score(labels, logits, k=5))
    assert found.class_mean == pytest.approx(balanced_accuracy_score(labels, best))
    assert found.per_domain["y"] == pytest.approx(accuracy_score(labels[domains == 1], best[domains == 1]))
    assert found.per_class["c"] == pytest.approx((best[labels == 2] == 2).mean())
    assert found.n == found.rows == 200


def test_few_classes_and_ties() -> None:
    outputs = Outputs(np.zeros((2, 3), np.float32), np.array([0, 1]), np.array([4, 4]), np.array([0, 0]))
    found = accuracy(outputs, "abc", ["x"])
    assert (found.top1, found.top5, found.rows) == (0.5, 1.0, 1)
    assert found.per_class == {"a": 1.0, "b": 0.0}


class Counting:
    """Tells colours by their channel means, and counts what it is shown."""

    def __init__(self) -> None:
        self.images = self.calls = 0

    def __call__(self, class_names: tuple[str, ...]) -> Counting:
        self.class_names = class_names
        self.calls += 1
        return self

    def logits(self, images: Tensor) -> Tensor:
        self.images += len(images)
        colours = {"red": (2, -1, -1), "green": (-1, 2, -1), "blue": (-1, -1, 2), "yellow": (1, 1, -2)}
        prototypes = torch.tensor([colours[name.split("_")[0]] for name in self.class_names]).float()
        chroma = images.mean(dim=(2, 3)) - images.mean(dim=(1, 2, 3)).unsqueeze(1)
        return chroma @ (prototypes / prototypes.norm(dim=1, keepdim=True)).T


def test_one_pass_per_label_space(squares: ImageFolder) -> None:
    episode = build_episode("in-the-wild", squares, "grey", 0)
    counting = Counting()
    views = EvalLoader(squares, PREPROCESS, batch_size=6)
    outputs = outputs_by_test(views, lambda names: counting(names).logits, episode.tests)
    assert counting.calls == 1 and counting.images == 20
    assert {name: len(part.rows) for name, part in outputs.items()} == {"all": 20, "base": 10, "new": 10}
    scores = score(views, lambda names: counting(names).logits, episode.tests)
    assert scores[0].accuracy.top1 > 0.9


def test_labels_are_positions_in_the_label_space(squares: ImageFolder) -> None:
    rows = np.flatnonzero(squares.labels >= 2)
    test = TestSet("new", rows, (3, 2))
    outputs = outputs_by_test(
        EvalLoader(squares, PREPROCESS), lambda names: Counting()(names).logits, [test]
    )["new"]
    assert outputs.labels.tolist() == [1 if squares.labels[row] == 2 else 0 for row in rows]
    assert outputs.logits.shape == (len(rows), 2)


def test_rows_have_a_harmonic_mean_and_a_digest(squares: ImageFolder, tmp_path) -> None:
    episode = build_episode("base-to-new", squares, None, 0)
    counting = Counting()
    scores = score(EvalLoader(squares, PREPROCESS), lambda names: counting(names).logits, episode.tests)
    facts = {
        "method": "m",
        "backbone": "b",
        "data": "d",
        "protocol": "p",
        "target": None,
        "seed": 0,
        "steps": 1,
    }
    rows = result_rows(scores, squares, facts, {"new": 0.25})
    base, new = rows
    assert base.h == new.h == pytest.approx(harmonic_mean(base.accuracy, new.accuracy))
    assert (base.zeroshot, new.zeroshot) == (None, 0.25)
    assert base.label_space != new.label_space == digest(squares.class_names[2:])
    assert base.classes == 2 and base.n == base.rows == len(episode.tests[0].rows)
    write_predictions(tmp_path / "p.npz", scores)
    with np.load(tmp_path / "p.npz", allow_pickle=False) as stored:
        right = stored["new/ranked"][:, 0] == stored["new/labels"]
        assert right.mean() == pytest.approx(new.accuracy)
        assert (squares.labels[stored["new/rows"]] == stored["new/labels"]).all()


def test_without_a_protocol_every_domain_is_a_test(squares: ImageFolder) -> None:
    tests = domain_tests(squares)
    assert [test.name for test in tests] == list(squares.domain_names)
    assert sum(len(test.rows) for test in tests) == len(squares.labels)
    assert all(test.classes == (0, 1, 2, 3) for test in tests)
