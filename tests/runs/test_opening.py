"""A model is opened by the path of a run or the name of a backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import clipalign
from clipalign.core.errors import UserError
from clipalign.runs.opening import open_model


def test_backbone_opens_as_zero_shot(tiny_spec: str) -> None:
    opened = open_model(tiny_spec, templates=("one {}.",))
    assert opened.method.name == "zeroshot" and opened.run is None
    assert opened.method.templates == ("one {}.",)
    assert opened.class_names == () and opened.record is None and opened.interpolation is None


def test_run_opens_with_its_classes_and_either_weights(
    tiny_spec: str, squares_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    options = {"backbone": tiny_spec, "target": "grey", "steps": 2, "batch_size": 4, "lr": 1e-2}
    clipalign.train("erm", squares_folder, out, average="ema", **options)  # type: ignore[arg-type]
    averaged, last = (open_model(out, weights=weights) for weights in ("model", "last"))
    assert averaged.method.name == "erm" and len(averaged.class_names) == 4
    assert averaged.interpolation == "bilinear"
    assert averaged.record is not None and averaged.record.target == "grey"
    first, second = (opened.method.state_dict()["visual.proj"] for opened in (averaged, last))
    assert not torch.equal(first, second)


def test_folder_that_is_not_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"MODEL: .* is not a run folder \(no config.yaml\)"):
        open_model(tmp_path)
