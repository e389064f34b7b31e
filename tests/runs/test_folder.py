from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from clipalign.core.errors import UserError
from clipalign.runs.folder import RunFolder, check_out, is_run, write_config
from clipalign.runs.options import train_options_from
from clipalign.runs.record import RunRecord

RECORD = RunRecord(
    command="clipalign train",
    version="0.1.0",
    torch="2.4",
    origins={"lr": "command line"},
    average="bma",
    resolved={"temperature": 0.5},
    data="photos",
    fingerprint="f00d",
    protocol="in-the-wild",
    target=None,
    split="random",
    split_hash="c0ffee",
    templates=("a {}.", "the {}."),
    domain_names=("noto",),
    class_names=("a dog", "a cat"),
    interpolation="bicubic",
)


def test_record_is_stored_with_the_options_and_read_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert not is_run(tmp_path)
    write_config(folder, train_options_from({"method": "erm", "out": tmp_path, "steps": 7}), RECORD)
    assert folder.record() == RECORD and is_run(tmp_path)
    content = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
    assert content["steps"] == 7 and content["record"]["class_names"] == ["a dog", "a cat"]
    assert "resume" not in content and "overwrite" not in content


def test_record_ignores_unknown_fields_and_names_missing_ones() -> None:
    stored = RECORD.as_dict()
    assert RunRecord.from_dict(stored | {"later": 1}, "config.yaml") == RECORD
    del stored["split_hash"]
    with pytest.raises(UserError, match=r"config\.yaml does not describe a run .*split_hash"):
        RunRecord.from_dict(stored, "config.yaml")


def test_read_metrics_skips_a_partial_line(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.read_metrics() == []
    folder.metrics.write_text(json.dumps({"step": 1}) + "\n" + '{"step": 2', encoding="utf-8")
    assert folder.read_metrics() == [{"step": 1}]


def test_clear_deletes_files_of_the_run_only(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    ours = [folder.results, folder.config, folder.model, folder.card, folder.checkpoint]
    other = tmp_path / "notes.txt"
    for path in (*ours, other):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    folder.clear()
    assert list(tmp_path.iterdir()) == [other]


def test_check_out_refuses_folders_in_use(tmp_path: Path) -> None:
    new, file, used = tmp_path / "new", tmp_path / "file", tmp_path / "used"
    file.touch()
    used.mkdir()
    check_out(used, overwrite=False, resume=True)
    (used / "notes.txt").touch()
    check_out(new, overwrite=False)
    check_out(used, overwrite=True)
    with pytest.raises(UserError, match="is a file"):
        check_out(file, overwrite=True)
    with pytest.raises(UserError, match="is not empty"):
        check_out(used, overwrite=False)
    with pytest.raises(UserError, match="holds no run"):
        check_out(used, overwrite=False, resume=True)
    (used / "config.yaml").touch()
    check_out(used, overwrite=False, resume=True)
