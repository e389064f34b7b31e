from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from clipalign.commands.cli import main
from clipalign.evaluation.results import ResultRow
from clipalign.runs.card import base_model, card_data, licences, limits, model_card
from clipalign.runs.record import RunRecord

RECORD = RunRecord(
    command="clipalign train --method erm",
    version="0.1.0",
    torch="2.4",
    average="none",
    data="photos",
    fingerprint="f00d",
    protocol="in-the-wild",
    target="noto",
    split="random",
    split_hash="c0ffee",
    templates=("a photo of a {}.", "a", "b", "c"),
    domain_names=("noto",),
    class_names=tuple(f"class {i}" for i in range(20)),
)


def row(**changes: Any) -> ResultRow:
    fields: dict[str, Any] = {
        "method": "erm",
        "backbone": "ViT-B-16:openai",
        "data": "/home/me/photos",
        "protocol": "in-the-wild",
        "target": "noto",
        "test": "new",
        "seed": 0,
        "steps": 5,
        "n": 10,
        "accuracy": 0.25,
    }
    return ResultRow(**fields | changes)


def test_card_of_a_run_has_metadata_and_results(tiny_spec: str, squares_folder: Path, tmp_path: Path) -> None:
    arguments = ["train", "--method", "erm", "--data", str(squares_folder), "--target", "grey"]
    arguments += ["--backbone", tiny_spec, "--steps", "1", "--batch-size", "4", "--protocol", "in-the-wild"]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 0
    text = (tmp_path / "run" / "README.md").read_text()
    for expected in (
        "target grey left out of training",
        "| new |",
        "clipalign train --method erm",
        "state here under which terms",
    ):
        assert expected in text, expected
    assert "{" not in text.replace("{}", "")
    data = ModelCard(text).data
    assert data.library_name == "clipalign" and data.license == "other" and data.datasets == ["squares"]
    assert "erm" in data.tags and data.base_model is None
    assert {result.dataset_split for result in data.eval_results} == {"all", "base", "new"}


def test_card_of_captions_has_recalls(
    tiny_spec: str, captions_csv: Path, squares_folder: Path, tmp_path: Path
) -> None:
    arguments = ["train", "--method", "infonce", "--data", str(captions_csv), "--steps", "1"]
    arguments += ["--data-root", str(squares_folder), "--backbone", tiny_spec, "--batch-size", "4"]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 0
    text = (tmp_path / "run" / "README.md").read_text()
    assert "| T2I R@1 |" in text and "T2I: captions whose image is" in text
    assert "| long |" in text and "Protocol: retrieval." in text
    assert "Trained classes" not in text and "None" not in text
    results = ModelCard(text).data.eval_results
    assert {"text to image recall@1 (%)", "image to text recall@10 (%)"} <= {r.metric_name for r in results}


def test_metadata_holds_base_model_data_and_every_accuracy() -> None:
    rows = [row(test="base", accuracy=0.5), row(), row(test="odd", accuracy=None, reason="no text tower")]
    data = card_data(RECORD, rows)
    assert data.base_model == "timm/vit_base_patch16_clip_224.openai"
    assert data.datasets == ["photos"] and "/home/me" not in data.to_yaml()
    found = {result.dataset_split: (result.metric_type, result.metric_value) for result in data.eval_results}
    assert found == {"base": ("accuracy", 50.0), "new": ("accuracy", 25.0)}
    assert card_data(RECORD, [row(data="hf:org/photos")]).datasets == ["org/photos"]
    assert card_data(RECORD, [row(accuracy=None)]).eval_results is None


def test_card_shortens_lists_and_escapes_cells() -> None:
    text = model_card(
        RECORD, [row(test="a|b", domain_accuracy={"noto": 0.5, "twemoji": 0.25}), row(top5=0.5, classes=9)]
    ).content
    assert "class 11 and 8 more." in text and "class 12" not in text
    assert "a photo of a {}. | a | b and 1 more." in text
    assert "| a\\|b | 25.0 | – | 10 |  |  |" in text and "| new | 25.0 | 50.0 | 10 | 9 |  |" in text
    assert "Its worst domain in a|b is twemoji: 25.0 %." in text
    assert not re.search(r"\n{3,}", text)


@pytest.mark.parametrize("backbone", ["pocket", "pocket@96", "local-dir:/models/mine", "ViT-B-16:my.pt"])
def test_base_model_of_backbone_without_hub_repository_is_none(backbone: str) -> None:
    assert base_model(backbone) is None


def test_loss_on_new_classes_is_a_limit() -> None:
    found = list(limits([row(backbone="pocket", zeroshot=0.5)]))
    assert found[0] == "On classes that were not trained it lost 25.0 points (new)."
    assert "test vehicle" in found[1]


def test_licences_of_shipped_backbone_and_data_refer_to_notice() -> None:
    found = licences("d", row(backbone="pocket@96", data="pictoscenes"))
    assert len(found) == 2 and all("ships with clipalign" in term for term in found)
