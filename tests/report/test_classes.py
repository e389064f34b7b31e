"""Tables and pictures of classes against slow definitions and scikit-learn."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import confusion_matrix

from clipalign.commands.report import write_report
from clipalign.core.errors import UserError
from clipalign.data.builtin.pictograms import Pictograms
from clipalign.evaluation.outputs import Outputs
from clipalign.evaluation.results import ResultRow, write_results
from clipalign.losses import released_semantic_targets
from clipalign.report.changed import changes, gallery
from clipalign.report.class_table import ALL, ENDS, class_accuracies, class_grid
from clipalign.report.clustering import cluster_order
from clipalign.report.collect import StoredRun, find_runs
from clipalign.report.confusion import chosen_classes, confusion, confusion_counts, confusion_figure
from clipalign.report.predictions import Predictions, read_predictions
from clipalign.report.reliability import reliability, reliability_figure
from clipalign.report.similarity import similarity_figure, smoothing_shares
from clipalign.report.style import line_styles
from clipalign.runs.folder import RunFolder

RUN = StoredRun("run", RunFolder(Path("run")), ())


def predictions(seed: int, classes: int = 6, n: int = 120, share: float = 0.6) -> Predictions:
    """Random predictions on two views per row; `share` of them are right."""
    rows = np.arange(n) // 2
    labels = rows % classes
    generator = np.random.default_rng(seed)
    other = (labels + generator.integers(1, classes, n)) % classes
    answers = np.where(generator.random(n) < share, labels, other)
    ranked = np.stack([answers, (answers + 1) % classes], axis=1)
    first = generator.uniform(0.5, 1, n)
    return Predictions(RUN, rows, labels, ranked, np.stack([first, 1 - first], axis=1))


def test_probabilities_are_the_softmax_of_all_logits_at_the_ranked_classes() -> None:
    logits = np.random.default_rng(0).normal(size=(7, 9)).astype(np.float32) * 50
    none = np.zeros(7, np.int64)
    out = Outputs(logits, none, none, none, [str(c) for c in range(9)], ["a"])
    expected = np.sort(softmax(logits.astype(float), axis=1), axis=1)[:, ::-1][:, :5]
    np.testing.assert_allclose(out.probabilities, expected, rtol=1e-4, atol=1e-7)


def test_draws_number_the_views_of_each_row() -> None:
    rows = np.array([4, 4, 4, 7, 9, 9])
    one = Predictions(RUN, rows, rows, rows[:, None])
    assert one.draws.tolist() == [0, 1, 2, 0, 0, 1]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 12), st.integers(0, 1000))
def test_cluster_order_is_a_permutation(count: int, seed: int) -> None:
    similarity = np.random.default_rng(seed).normal(size=(count, count))
    assert sorted(cluster_order(similarity).tolist()) == list(range(count))


def test_cluster_order_puts_groups_together() -> None:
    group = np.random.default_rng(1).permutation(np.repeat(np.arange(4), 5))  # [20]
    order = cluster_order((group[:, None] == group[None]).astype(float))
    assert (np.diff(group[order]) != 0).sum() == 3


def test_confusion_counts_agree_with_scikit_learn() -> None:
    one, two = predictions(0), predictions(1)
    expected = sum(confusion_matrix(p.labels, p.answers, labels=range(6)) for p in (one, two))
    np.testing.assert_array_equal(confusion_counts([one, two], 6), expected)


def test_confusion_rows_sum_to_one_with_the_other_classes() -> None:
    counts = confusion_counts([predictions(0, classes=40, n=800)], 40)
    shown = chosen_classes(counts, limit=8)
    assert len(set(shown.tolist())) == len(shown) <= 8
    one = confusion("erm", counts, shown)
    assert one.shares.shape == (len(shown), len(shown) + 1)
    np.testing.assert_allclose(one.shares.sum(axis=1), 1)
    both = counts + counts.T
    np.fill_diagonal(both, 0)
    assert set(np.unravel_index(both.argmax(), both.shape)) <= set(shown.tolist())
    figure = confusion_figure([one], [str(c) for c in shown])
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()][-1] == "other classes"


def test_chosen_classes_are_all_that_occur_if_few() -> None:
    counts = np.zeros((9, 9))
    counts[2, 2] = counts[5, 7] = 3
    assert sorted(chosen_classes(counts).tolist()) == [2, 5, 7]


def test_class_accuracies_agree_with_the_slow_definition() -> None:
    lines = {"erm": [predictions(0), predictions(1)], "coral": [predictions(2)]}
    names = [f"class {c}" for c in range(6)]
    found = class_accuracies(("task", "noto", "all"), lines, "erm", names)
    for label, seeds in lines.items():
        for i, c in enumerate(found.classes):
            shares = [
                np.mean([a == c for a, y in zip(p.answers, p.labels, strict=True) if y == c]) for p in seeds
            ]
            assert found.accuracy[label][i] == pytest.approx(np.mean(shares))
    grid = class_grid(found)
    gains = [float(line[-1]) for line in grid.lines]
    assert (
        gains == sorted(gains, reverse=True) and len(grid.lines) == 6 and grid.heads[2:] == ("erm", "coral")
    )


def test_table_of_many_classes_shows_both_ends() -> None:
    lines = {"erm": [predictions(0, ALL + 5, 400)], "coral": [predictions(1, ALL + 5, 400)]}
    grid = class_grid(class_accuracies(("", "", "all"), lines, "erm", [str(c) for c in range(ALL + 5)]))
    assert len(grid.lines) == 2 * ENDS and f"{ENDS} largest gains and losses of {ALL + 5}" in grid.note


def test_reliability_agrees_with_the_slow_definition() -> None:
    one = predictions(3)
    assert one.probabilities is not None
    found = reliability([one], bins=4)
    assert found is not None
    pairs = sorted(zip(one.probabilities[:, 0], one.right, strict=True))
    for i in range(4):
        part = pairs[30 * i : 30 * (i + 1)]
        assert found.confidence[i] == pytest.approx(np.mean([p for p, _ in part]))
        assert found.accuracy[i] == pytest.approx(np.mean([r for _, r in part]))
    assert reliability_figure({"erm": found}, line_styles(["erm"])).axes[0].get_xlim() == (0, 100)
    assert reliability([one, Predictions(RUN, one.rows, one.labels, one.ranked)]) is None


def test_changes_are_the_views_that_one_model_answers_right_and_the_other_wrong() -> None:
    before, after = predictions(0), predictions(1)
    lost, gained = changes(before, after)
    assert sorted(lost.views) == [i for i in range(120) if before.right[i] and not after.right[i]]
    assert sorted(gained.views) == [i for i in range(120) if after.right[i] and not before.right[i]]
    assert gallery(Pictograms(), ("a", before), ("b", before), changes(before, before), 3) is None


def test_smoothing_shares_are_those_of_the_loss() -> None:
    text = torch.nn.functional.normalize(
        torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    similarity = text @ text.T
    targets = released_semantic_targets(similarity, 0.9, 35.0)
    shares = smoothing_shares(similarity.double().numpy(), 35.0)
    off = ~np.eye(5, dtype=bool)
    np.testing.assert_allclose(shares[off], targets.numpy()[off], rtol=1e-4)
    figure = similarity_figure(similarity.numpy(), list("abcde"), (1.0, 35.0))
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["cosine of class texts", "softmax of 1 × cosine", "softmax of 35 × cosine"]
    assert all(np.isnan(np.diag(axes.images[0].get_array().filled(np.nan))).all() for axes in figure.axes[:3])


def write_run(folder: Path, method: str, one: Predictions, stored: bool) -> None:
    folder.mkdir(parents=True)
    arrays = {"all/rows": one.rows, "all/labels": one.labels, "all/ranked": one.ranked}
    if stored:
        arrays["all/probabilities"] = one.probabilities
    np.savez_compressed(folder / "predictions.npz", **arrays)
    accuracy = float(one.right.mean())
    row = ResultRow(method, "pocket", "pictograms", "domain-shift", "noto", "all", 0, 5, 120, accuracy)
    write_results(folder, [row])
    config = {"method": method, "data": "pictograms", "steps": 5, "record": {"class_names": ["a"]}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.parametrize("stored", [True, False])
def test_report_has_the_section_on_classes(tmp_path: Path, stored: bool) -> None:
    for seed, method in enumerate(("erm", "coral")):
        write_run(tmp_path / method, method, predictions(seed), stored)
    report = write_report(tmp_path, tmp_path / "report", pictures=0)
    text = report.markdown.read_text()
    assert "## Classes" in text and "pictures/confusion-1.png" in text
    assert ("pictures/reliability-1.png" in text) == stored
    assert ("No reliability plot. Without probabilities in predictions.npz" in text) == (not stored)
    lines = list(csv.DictReader(report.classes.read_text().splitlines()))
    assert len(lines) == 6 and lines[0]["class"] == Pictograms().class_names[0]
    found = read_predictions(find_runs(tmp_path)[0], "all")
    assert found is not None and (found.probabilities is not None) == stored


def test_negative_sharpness_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--sharpness: -1\.0 must be between 0 and 1000"):
        write_report(tmp_path, sharpness=(-1.0,))
