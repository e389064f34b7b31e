from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from clipalign.commands.report import write_report
from clipalign.commands.train import run_training
from clipalign.core.masked_source import MaskedSource
from clipalign.explain.compare import Model, draw_views
from clipalign.report import pictures


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_spec: str, squares_folder: Path) -> Path:
    """Runs of three methods in the wild on a copy of the coloured squares, which tests may move."""
    root = tmp_path_factory.mktemp("pictures")
    shutil.copytree(squares_folder, root / "squares")
    shared = ["--data", str(root / "squares"), "--protocol", "in-the-wild", "--target", "dark"]
    shared += ["--backbone", tiny_spec, "--steps", "2", "--batch-size", "4"]
    for method in ("erm", "alignclip", "coop"):
        run_training(["--method", method, *shared, "--out", str(root / "runs" / method)])
    return root


def test_report_compares_runs_on_the_same_images(runs: Path) -> None:
    report = write_report(runs / "runs", runs / "with", pictures=3)
    text = report.markdown.read_text(encoding="utf-8")
    assert "3 test images of squares (in-the-wild, target dark)" in text
    assert (runs / "with" / "pictures" / "maps.png").stat().st_size > 10_000
    # Photographs have no masks, so their maps are not scored.
    assert "uniform map" not in text


def test_pictures_show_only_methods_that_train_the_image_tower(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[list[str]] = []
    draw = pictures.compare_figure
    monkeypatch.setattr(
        pictures,
        "compare_figure",
        lambda models, *rest: titles.append([m.title for m in models]) or draw(models, *rest),  # type: ignore[func-returns-value]
    )
    write_report(runs / "runs", tmp_path / "report", pictures=1)
    assert titles == [["zero-shot", "after erm", "after alignclip"]]


def test_pictures_show_every_variant_with_its_own_settings(
    runs: Path, tiny_spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = ["--data", str(runs / "squares"), "--protocol", "in-the-wild", "--target", "dark"]
    shared += ["--backbone", tiny_spec, "--steps", "1", "--batch-size", "4", "--method", "alignclip"]
    for name, more in (
        ("a", ["--guide", "vvv", "--dual-blocks", "2", "--first-aligned-layer", "1"]),
        ("b", []),
        ("c", ["--seed", "1"]),  # a seed of b, not a variant
        ("d", ["--guide", "qqv"]),
        ("e", ["--guide", "kkv"]),
    ):
        run_training([*shared, *more, "--out", str(tmp_path / "runs" / name)])
    figures: list[list[Model]] = []
    draw = pictures.compare_figure
    monkeypatch.setattr(
        pictures,
        "compare_figure",
        lambda models, *rest: figures.append(list(models)) or draw(models, *rest),  # type: ignore[func-returns-value]
    )
    write_report(tmp_path / "runs", tmp_path / "report", pictures=1)
    assert [len(models) for models in figures] == [4, 2]
    assert (tmp_path / "report" / "pictures" / "maps-2.png").is_file()
    models = [model for figure in figures for model in figure if model.title != "zero-shot"]
    assert sorted(model.map_settings.guide for model in models) == ["dv", "kkv", "qqv", "vvv"]
    assert all("guide" in model.title for model in models)
    vvv = next(model.map_settings for model in models if model.map_settings.guide == "vvv")
    assert (vvv.layers, vvv.dual_blocks) == ((1,), 2)
    # Zero-shot is drawn with the settings of the first run of its figure.
    assert all(models[0].settings == models[1].settings for models in figures)


def test_pictures_use_the_default_protocol_of_the_run(
    tiny_spec: str, squares_folder: Path, tmp_path: Path
) -> None:
    arguments = ["--data", str(squares_folder), "--target", "dark", "--backbone", tiny_spec]
    run_training(
        ["--method", "erm", *arguments, "--steps", "1", "--batch-size", "4", "--out", str(tmp_path / "a")]
    )
    text = write_report(tmp_path / "a", tmp_path / "r", pictures=2).markdown.read_text(encoding="utf-8")
    assert "2 test images of squares (domain-shift, target dark)" in text


def test_no_pictures_open_no_model(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipalign.report.pictures.open_run", None)
    text = write_report(runs / "runs", runs / "without", pictures=0).markdown.read_text(encoding="utf-8")
    assert "Attention maps" not in text and "## Accuracy" in text


def test_report_without_its_data_says_why_pictures_are_missing(runs: Path) -> None:
    (runs / "squares").rename(runs / "elsewhere")
    try:
        text = write_report(runs / "runs", runs / "gone", pictures=3).markdown.read_text(encoding="utf-8")
    finally:
        (runs / "elsewhere").rename(runs / "squares")
    assert "No pictures:" in text and "| dark | alignclip |" in text


class TwoViews:
    def views(self, stage: str) -> int:
        return 2


def test_draw_views_repeats_rows_only_after_all_were_drawn() -> None:
    rows = np.array([3, 5, 8, 13])
    few = draw_views(TwoViews(), rows, 4, seed=1)  # type: ignore[arg-type]
    assert sorted(few.rows) == rows.tolist() and set(few.draws) <= {0, 1}
    many = draw_views(TwoViews(), rows, 10, seed=1)  # type: ignore[arg-type]
    assert len(many.rows) == 10 and set(many.rows) == set(rows)
    again = draw_views(TwoViews(), rows, 10, seed=1)  # type: ignore[arg-type]
    np.testing.assert_array_equal(many.rows, again.rows)
    np.testing.assert_array_equal(many.draws, again.draws)


def test_draw_views_draws_rows_and_views_at_random() -> None:
    rows = np.arange(100)
    first, second = (draw_views(TwoViews(), rows, 100, seed) for seed in (1, 2))  # type: ignore[arg-type]
    for drawn in (first, second):
        assert 30 < drawn.draws.sum() < 70 and set(drawn.draws) == {0, 1}
        assert not np.array_equal(drawn.rows, rows) and set(drawn.rows) == set(rows)
    assert not np.array_equal(first.rows, second.rows)
    assert not np.array_equal(first.draws, second.draws)


def test_draw_views_of_no_images_is_empty() -> None:  # new classes of `report --pictures 1`
    none = draw_views(TwoViews(), np.array([3, 5]), 0)  # type: ignore[arg-type]
    assert len(none.rows) == len(none.draws) == 0


def test_pictograms_have_masks() -> None:
    from clipalign.data.builtin.pictograms import Pictograms

    source = Pictograms()
    assert isinstance(source, MaskedSource)
    sample = source.sample(7, "test", 1)
    assert sample.silhouette.shape == (64, 64) and 0.05 < float(sample.silhouette.mean()) < 0.95
    assert torch.all(sample.silhouette >= sample.alpha)
