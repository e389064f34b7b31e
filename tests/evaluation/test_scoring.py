from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, top_k_accuracy_score
from torch import Tensor

from clipalign.backbone import Backbone, preprocess_for
from clipalign.core.distributed import Ranks
from clipalign.core.precision import Precision
from clipalign.core.types import CaptionTest, Preprocess, TestSet
from clipalign.data.sources.folder import ImageFolder
from clipalign.evaluation import EvalLoader, Outputs, outputs_by_test
from clipalign.evaluation.loader import domain_batches
from clipalign.evaluation.metrics import METRICS, ClassificationMetric, MetricValue, compute
from clipalign.evaluation.metrics.class_accuracy import accuracy_by_class
from clipalign.evaluation.metrics.harmonic_mean import harmonic_mean
from clipalign.evaluation.retrieval import retrieval_outputs
from clipalign.evaluation.scoring import (
    domain_tests,
    label_space_digest,
    result_rows,
    score,
    write_predictions,
)
from clipalign.methods import JointClassifier, get_method
from clipalign.protocols import build_episode

PREPROCESS = Preprocess((32, 32), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def outputs(logits: np.ndarray, labels: np.ndarray, rows: np.ndarray, domains: np.ndarray) -> Outputs:
    return Outputs(logits, labels, rows, domains, "abcdefgh"[: logits.shape[1]], ("x", "y"))


def values(of: Outputs) -> dict[str, MetricValue]:
    """Return the values of all metrics of one test set."""
    metrics = [metric() for metric in METRICS.all().values() if issubclass(metric, ClassificationMetric)]
    return compute(metrics, of)


def test_metrics_match_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, 8)).astype(np.float32), rng.integers(0, 8, 200)
    logits[np.arange(200), labels] += 1
    domains = rng.integers(0, 2, 200)
    of = outputs(logits, labels, np.arange(200), domains)
    found = values(of)
    best = logits.argmax(1)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, best))
    assert found["top5"] == pytest.approx(top_k_accuracy_score(labels, logits, k=5))
    assert found["class_accuracy"] == pytest.approx(balanced_accuracy_score(labels, best))
    by_domain: Any = found["domain_accuracy"]
    assert by_domain["y"] == pytest.approx(accuracy_score(labels[domains == 1], best[domains == 1]))
    assert accuracy_by_class(of)["c"] == pytest.approx((best[labels == 2] == 2).mean())
    assert set(found) == {"accuracy", "top5", "class_accuracy", "domain_accuracy"}


def test_metrics_of_few_classes_and_ties() -> None:
    of = outputs(np.zeros((2, 3), np.float32), np.array([0, 1]), np.array([4, 4]), np.array([0, 0]))
    found = values(of)
    assert (found["accuracy"], found["top5"]) == (0.5, 1.0)
    assert accuracy_by_class(of) == {"a": 1.0, "b": 0.0}


class Counting:
    """Classifies colours by channel means, and counts calls and images."""

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


def test_score_runs_one_pass_per_label_space(squares: ImageFolder) -> None:
    episode = build_episode("in-the-wild", squares, "grey", 0)
    counting = Counting()
    views = EvalLoader(squares, PREPROCESS, batch_size=6)
    by_test = outputs_by_test(views, lambda names: counting(names).logits, episode.tests)
    assert counting.calls == 1 and counting.images == 20
    assert {name: len(part.rows) for name, part in by_test.items()} == {"all": 20, "base": 10, "new": 10}
    scores = score(views, lambda names: counting(names).logits, episode.tests)
    assert scores[0].accuracy is not None and scores[0].accuracy > 0.9


def test_labels_are_positions_in_the_label_space(squares: ImageFolder) -> None:
    rows = np.flatnonzero(squares.labels >= 2)
    test = TestSet("new", rows, (3, 2))
    loader = EvalLoader(squares, PREPROCESS)
    by_test = outputs_by_test(loader, lambda names: Counting()(names).logits, [test])
    of = by_test["new"]
    assert isinstance(of, Outputs)
    assert of.labels.tolist() == [1 if squares.labels[row] == 2 else 0 for row in rows]
    assert of.logits.shape == (len(rows), 2)


def test_result_rows_have_harmonic_mean_and_digest(squares: ImageFolder, tmp_path: Path) -> None:
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
    assert base.label_space != new.label_space == label_space_digest(squares.class_names[2:])
    assert base.classes == 2 and base.n == base.rows == len(episode.tests[0].rows)
    write_predictions(tmp_path / "p.npz", scores)
    with np.load(tmp_path / "p.npz", allow_pickle=False) as stored:
        right = stored["new/ranked"][:, 0] == stored["new/labels"]
        assert right.mean() == pytest.approx(new.accuracy)
        assert (squares.labels[stored["new/rows"]] == stored["new/labels"]).all()


def test_outputs_under_bf16_are_float32_products_of_the_features(
    squares: ImageFolder, tiny: Backbone
) -> None:
    method = get_method("zeroshot")()
    method.setup(tiny, build_episode("domain-shift", squares, "grey", 0), ("a photo of a {}.",))
    precision = Precision("bf16", torch.device("cpu"))
    loader = EvalLoader(squares, preprocess_for(tiny), precision=precision)
    rows, classes = np.arange(12), range(4)
    logits = loader.outputs(method.classifier(squares.class_names), rows, "test", classes).logits
    (batch,) = loader.batches(rows, "test", classes)
    with torch.no_grad():
        with precision.autocast():
            features = tiny.encode_image(batch.images)  # [n, d] bfloat16
        text = method.text_features(squares.class_names)  # [C, d]
        exact = method.scale * (torch.nn.functional.normalize(features.float(), dim=1) @ text.T)  # [n, C]
    assert features.dtype == torch.bfloat16
    assert np.array_equal(logits, exact.numpy())


def test_ranked_classes_with_equal_logits_are_in_class_order() -> None:
    # Sorts of more than 16 values are stable only if the algorithm is.
    logits = np.random.default_rng(0).integers(0, 3, size=(20, 300)).astype(np.float32)  # [n, C]
    of = Outputs(logits, np.zeros(20, np.int64), np.arange(20), np.zeros(20, np.int64), [""] * 300, ("x",))
    expected = [sorted(range(300), key=lambda c: (-row[c], c))[:5] for row in logits]
    assert of.ranked.tolist() == expected


def test_outputs_of_features_leave_out_processes_without_images(squares: ImageFolder) -> None:
    rows, world = np.arange(2), 3
    parts: list[Any] = []

    class Recording(Ranks):
        def gather(self, value: Any) -> list[Any]:
            parts.append(value)
            return [value]

    class Gathered(Ranks):
        def gather(self, value: Any) -> list[Any]:
            return parts

    def outputs_of(ranks: Ranks) -> Outputs:
        loader = EvalLoader(squares, PREPROCESS, ranks=ranks)
        return loader.outputs(lambda images: images.flatten(1)[:, :5], rows, "test", ())  # [B, 5]

    local = [outputs_of(Recording(rank, world)) for rank in range(world)]
    assert sorted(len(part.logits) for part in local) == [0, 1, 1]
    whole = outputs_of(Ranks())
    assert whole.logits.shape == (2, 5)
    for rank in range(world):
        found = outputs_of(Gathered(rank, world))
        for name in ("logits", "labels", "rows", "domains"):
            values, expected = getattr(found, name), getattr(whole, name)
            assert np.array_equal(values, expected) and values.dtype == expected.dtype


def test_retrieval_outputs_count_the_truncated_captions_of_each_test(
    squares: ImageFolder, tiny: Backbone
) -> None:
    method = get_method("zeroshot")()
    method.setup(tiny, build_episode("domain-shift", squares, "grey", 0), ("a photo of a {}.",))
    window = tiny.context_length
    short, full, one_more, long = (" ".join(["a"] * (n - 2)) for n in (5, window, window + 1, 2 * window))
    assert tiny.tokenize([short, full, one_more, long]).lengths == (5, window, window + 1, 2 * window)
    texts = {"one": (full, one_more, short), "two": (one_more, full, long), "none": (short, full)}
    tests = [
        CaptionTest(name, np.arange(len(captions)), captions, np.arange(len(captions)))
        for name, captions in texts.items()
    ]
    outputs = retrieval_outputs(EvalLoader(squares, preprocess_for(tiny)), method, tests, "test")
    assert [output.truncated for output in outputs] == [1, 2, 0]


class Joint:
    """Records the images of each call, and returns the mean pixel of each."""

    def __init__(self) -> None:
        self.calls: list[Tensor] = []

    def logits(self, images: Tensor) -> Tensor:
        self.calls.append(images)
        return images.mean(dim=(1, 2, 3)).unsqueeze(1)  # [B, 1]


@pytest.mark.parametrize("world", [1, 3])
def test_joint_classifier_receives_shuffled_batches_of_one_domain(squares: ImageFolder, world: int) -> None:
    rows, classes = np.arange(len(squares.labels)), range(4)  # sorted by domain and class
    loader = EvalLoader(squares, PREPROCESS)
    means = loader.outputs(Joint().logits, rows, "test", classes)
    (images,) = (batch.images for batch in loader.batches(rows, "test", classes))
    row_of = {image.numpy().tobytes(): row for row, image in enumerate(images)}
    assert len(row_of) == len(rows)
    calls: list[list[int]] = []
    for rank in range(world):
        joint = Joint()
        part = EvalLoader(squares, PREPROCESS, ranks=OneOf(rank, world))
        outputs = part.outputs(JointClassifier(joint.logits, 8), rows, "test", classes)
        calls += [[row_of[image.numpy().tobytes()] for image in call] for call in joint.calls]
        kept = np.isin(rows, outputs.rows)
        assert np.array_equal(outputs.rows, rows[kept]) and np.array_equal(outputs.logits, means.logits[kept])
        assert np.array_equal(outputs.labels, squares.labels[outputs.rows])
    assert sorted(row for call in calls for row in call) == rows.tolist()
    for call in calls:
        assert len(set(squares.domains[call].tolist())) == 1 and 6 <= len(call) <= 8
        assert len(set(squares.labels[call].tolist())) >= 3, "20 sorted rows of four classes would give two"
    # The same batches for any number of processes, and in every run.
    expected = [batch.tolist() for batch in domain_batches(squares.domains, 8)]
    assert calls == expected


class OneOf(Ranks):
    """A process that takes its share of the work, and gathers its own results only."""

    def gather(self, value: Any) -> list[Any]:
        return [value]


def test_domain_tests_cover_every_domain(squares: ImageFolder) -> None:
    tests = domain_tests(squares)
    assert [test.name for test in tests] == list(squares.domain_names)
    assert sum(len(test.rows) for test in tests) == len(squares.labels)
    assert all(test.classes == (0, 1, 2, 3) for test in tests)
