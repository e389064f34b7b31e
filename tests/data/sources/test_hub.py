from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipalign.core.errors import UserError
from clipalign.data.registry import load_source
from clipalign.data.sources.table import ImageTable

CLASSES = ["yak", "cat"]


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"clipalign\[data\]"):
        load_source("hf:someone/something")


@pytest.fixture
def datasets():  # type: ignore[no-untyped-def]
    return pytest.importorskip("datasets")


def make(datasets, count: int, label=None, **more):  # type: ignore[no-untyped-def]
    def content(i: int) -> bytes:
        stream = io.BytesIO()
        Image.new("RGB", (8, 8), (10 * i, 0, 0)).save(stream, "PNG")
        return stream.getvalue()

    features = {"img": datasets.Image(), "label": label or datasets.ClassLabel(names=CLASSES)}
    features |= {name: datasets.Value("string") for name in more}
    values = {"img": [{"bytes": content(i), "path": None} for i in range(count)]}
    values["label"] = [i % 2 if label is None else CLASSES[i % 2] for i in range(count)]
    return datasets.Dataset.from_dict({**values, **more}, features=datasets.Features(features))


def opened(path: Path, *options: str) -> ImageTable:
    source = load_source(str(path), options)
    assert isinstance(source, ImageTable)
    return source


def test_a_data_set_saved_to_disk(datasets, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    parts = {"train": make(datasets, 6), "validation": make(datasets, 2), "test": make(datasets, 4)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    source = opened(tmp_path / "d")
    assert source.class_names == ("yak", "cat")  # in the order of the data
    assert source.parts is not None
    assert {part: len(rows) for part, rows in source.parts.items()} == {
        "train": 6,
        "validation": 2,
        "test": 4,
    }
    assert source.keys[7] == "validation/1" and not source.broken(np.arange(12))
    image = Image.open(io.BytesIO(source.file(9)))  # type: ignore[arg-type]
    assert image.getpixel((0, 0)) == (10, 0, 0)
    assert opened(tmp_path / "d").fingerprint() == source.fingerprint()


def test_text_labels_domains_and_captions(datasets, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    text = datasets.Value("string")
    more = {"domain": ["ink", "oil"] * 3, "caption": [f"number {i}" for i in range(6)]}
    make(datasets, 6, label=text, **more).save_to_disk(tmp_path / "d")
    source = opened(tmp_path / "d")
    assert source.class_names == ("cat", "yak") and source.domain_names == ("ink", "oil")
    assert source.captions is not None and source.captions[2] == "number 2" and source.parts is None
    assert opened(tmp_path / "d", "label=domain").class_names == ("ink", "oil")
    with pytest.raises(UserError, match="no column kind"):
        opened(tmp_path / "d", "label=kind")
    with pytest.raises(UserError, match="no setting lable"):
        opened(tmp_path / "d", "lable=kind")


def test_data_without_labels_are_refused(datasets, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    make(datasets, 4).remove_columns("label").save_to_disk(tmp_path / "d")
    with pytest.raises(UserError, match="cannot tell which column holds the label"):
        opened(tmp_path / "d")
    make(datasets, 4).remove_columns("label").add_column("label", [0, None, 1, 0]).save_to_disk(
        tmp_path / "e"
    )
    with pytest.raises(UserError, match="some images have no label"):
        opened(tmp_path / "e")


def test_other_splits_are_left_out(datasets, tmp_path: Path, caplog) -> None:  # type: ignore[no-untyped-def]
    parts = {"train": make(datasets, 4), "unsupervised": make(datasets, 2)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    source = opened(tmp_path / "d")
    assert len(source) == 4 and source.parts is None and "unsupervised" in caplog.text


def test_a_folder_that_is_none_is_one_error(datasets, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(UserError, match="cannot load it") as caught:
        opened(tmp_path)
    assert "\n" not in str(caught.value)
