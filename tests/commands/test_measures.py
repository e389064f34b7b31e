"""`--metrics` of `train`, `eval` and studies: values in rows, reports, cards and trackers, and invalid input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from clipalign.commands.cli import main
from clipalign.commands.sweep.study import read_study
from clipalign.evaluation.metrics import metric_groups

GROUPS = {"attention", "calibration", "ood", "severity", "stability"}
TREE = "red_square\twarm\nyellow_square\twarm\ngreen_square\tcold\nblue_square\tcold\n"
# At least one field of each group, on a test set of new classes.
EXPECTED = (
    *("ece", "ece_mass", "brier", "nll", "temperature", "ece_scaled", "nll_scaled"),
    *(
        "ood_msp_auroc",
        "ood_msp_aupr",
        "ood_msp_fpr95",
        "ood_maxlogit_auroc",
        "ood_energy_auroc",
        "ood_mcm_fpr95",
    ),
    *("cka", "feature_cosine", "forgetting", "forgetting_by_group"),
    "text_rank_correlation",
    *("attention_mass_ratio", "attention_pointing", "attention_ap", "attention_pointing_interval"),
    *("attention_mass_ratio_by_layer", "guide_pointing", "guide_ap_by_structure"),
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tree") / "tree.tsv"
    path.write_text(TREE)
    return path


@pytest.fixture(scope="module")
def run(
    tiny_spec: str,
    squares_folder: Path,
    square_masks: Path,
    tree: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Return a run with all metrics."""
    out = tmp_path_factory.mktemp("runs") / "erm"
    command = ["train", "--method", "erm", "--data", str(squares_folder), "--backbone", tiny_spec]
    command += ["--protocol", "in-the-wild", "--target", "grey", "--steps", "2", "--batch-size", "4"]
    command += ["--metrics", "attention,severity", "stability,calibration,ood", "--log-to", "tensorboard"]
    command += ["--class-tree", str(tree), "--object-masks", str(square_masks), "--out", str(out)]
    assert main(command) == 0
    return out


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    lines = (folder / "results.jsonl").read_text().splitlines()
    return {row["test"]: row for row in map(json.loads, lines)}


def evaluate(model: str | Path, out: Path, *options: str) -> int:
    return main(["eval", str(model), "--out", str(out), *options])


def test_train_writes_the_values_of_every_group(run: Path) -> None:
    new = rows(run)["new"]
    assert [name for name in EXPECTED if name not in new] == []
    assert "ood_msp_auroc" not in rows(run)["base"]
    assert 0 <= new["ece"] <= 1 and 0 <= new["brier"] <= 2 and 0 < new["cka"] <= 1 + 1e-9
    assert new["forgetting"] == pytest.approx(new["zeroshot"] - new["accuracy"])
    assert set(new["forgetting_by_group"]) <= {"warm", "cold"}


def test_eval_of_a_run_gives_the_values_of_its_training(
    run: Path, squares_folder: Path, square_masks: Path, tree: Path, tmp_path: Path
) -> None:
    options = ["--data", str(squares_folder), "--split-file", str(run / "split.json"), "--metrics", "all"]
    options += ["--class-tree", str(tree), "--object-masks", str(square_masks)]
    assert evaluate(run, tmp_path / "eval", *options) == 0
    trained, scored = rows(run), rows(tmp_path / "eval")
    for test, row in trained.items():
        for name in {field.name for metric in metric_groups().values() for field in metric.fields} & set(row):
            assert scored[test][name] == pytest.approx(row[name], abs=1e-6), (test, name)


def test_report_card_and_tracker_show_the_values(run: Path, tmp_path: Path) -> None:
    assert main(["report", str(run.parent), "--out", str(tmp_path / "report"), "--pictures", "0"]) == 0
    report = (tmp_path / "report" / "report.md").read_text()
    assert "Beyond accuracy" in report and "ECE ↓" in report and "OOD AUROC ↑" in report
    assert "temperature-scaled" in report and "mass ratio ↑" in report
    assert "ECE ↓" in (tmp_path / "report" / "tables.csv").read_text()
    every_row = report[report.index("Every row") :]
    assert "NLL" not in every_row
    card = (run / "README.md").read_text()
    assert "### Beyond accuracy" in card and "| FPR95, MSP ↓ |" in card
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    tags = set(events.Tags()["scalars"])
    assert {
        "test/new/ece",
        "test/new/ood_msp_fpr95",
        "test/all/attention_pointing",
        "test/all/attention_pointing/low",
        "test/all/attention_pointing/layer/0",
    } <= tags


def test_without_the_option_rows_have_no_such_values(
    tiny_spec: str, squares_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(tiny_spec, tmp_path / "plain", "--data", str(squares_folder)) == 0
    assert not set(EXPECTED) & set(rows(tmp_path / "plain")["grey"])
    # Without a protocol there is no validation, and so no temperature.
    assert (
        evaluate(tiny_spec, tmp_path / "ece", "--data", str(squares_folder), "--metrics", "calibration") == 0
    )
    row = rows(tmp_path / "ece")["grey"]
    assert "ece" in row and "temperature" not in row
    assert "grey, calibration: ECE " in capsys.readouterr().out


def test_all_leaves_out_what_does_not_apply(
    tiny_spec: str, squares_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(tiny_spec, tmp_path / "all", "--data", str(squares_folder), "--metrics", "all") == 0
    printed = capsys.readouterr()
    for name in GROUPS - {"calibration"}:
        assert f"--metrics all: without {name}: " in printed.out + printed.err
    assert "ece" in rows(tmp_path / "all")["grey"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--metrics", "fairness"), '--metrics: unknown "fairness"; choose from attention, calibration, ood'),
        (("--metrics", "accuracy"), '--metrics: unknown "accuracy"'),
        (("--metrics", "ood"), "--metrics ood: there are no images of new classes; it needs --protocol"),
        (("--metrics", "stability"), "--metrics stability: the model is a backbone that was not fine-tuned"),
        (("--metrics", "severity"), "--metrics severity: squares has no hierarchy of classes; give one with"),
        (("--metrics", "attention"), "--metrics attention: squares has no masks of its objects"),
        (("--metrics", "severity", "--class-tree", "no.tsv"), "--class-tree: cannot read no.tsv"),
    ],
)
def test_group_that_does_not_apply_is_one_error(
    options: Sequence[str],
    message: str,
    tiny_spec: str,
    squares_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert evaluate(tiny_spec, tmp_path / "out", "--data", str(squares_folder), *options) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_training_does_not_start_if_a_group_does_not_apply(
    tiny_spec: str, squares_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--method", "erm", "--data", str(squares_folder), "--backbone", tiny_spec]
    command += ["--target", "grey", "--metrics", "ood", "--out", str(tmp_path / "run")]
    assert main(command) == 2
    assert "--metrics ood: there are no images of new classes" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_captions_have_no_groups(
    tiny_spec: str,
    captions_csv: Path,
    squares_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--data", str(captions_csv), "--data-root", str(squares_folder), "--protocol", "retrieval"]
    assert evaluate(tiny_spec, tmp_path / "out", *options, "--metrics", "all") == 2
    assert "the test sets of --protocol retrieval are captions" in capsys.readouterr().err


def test_mask_of_another_size_leaves_nothing_behind(
    tiny_spec: str,
    squares_folder: Path,
    square_masks: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from PIL import Image

    shutil.copytree(square_masks, tmp_path / "masks")
    Image.new("L", (7, 9)).save(tmp_path / "masks" / "dark" / "red_square" / "0.png")
    options = [
        "--data",
        str(squares_folder),
        "--metrics",
        "attention",
        "--object-masks",
        str(tmp_path / "masks"),
    ]
    assert evaluate(tiny_spec, tmp_path / "out", *options) == 2
    assert "has 7 x 9 pixels, its image dark/red_square/0.png has 40 x 36" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_study_passes_metrics_to_every_run(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "methods: [zeroshot, erm]\nprotocol: in-the-wild\ntargets: noto\n"
        "options: {steps: 5, metrics: [ood, severity]}\n"
    )
    jobs = read_study(path)
    assert [job.method for job in jobs] == ["zeroshot", "erm"]
    for job in jobs:
        assert job.check(tmp_path).config.evaluation.metrics == ("ood", "severity")
