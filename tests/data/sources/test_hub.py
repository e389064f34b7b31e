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


def test_missing_datasets_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
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


def open_source(path: Path, *options: str) -> ImageTable:
    source = load_source(str(path), options)
    assert isinstance(source, ImageTable)
    return source


def test_saved_data_set_gives_classes_parts_and_pixels(datasets, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    parts = {"train": make(datasets, 6), "validation": make(datasets, 2), "test": make(datasets, 4)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    source = open_source(tmp_path / "d")
    assert source.class_names == ("yak", "cat")  # the order of the ClassLabel feature
    assert source.parts is not None
    assert {part: len(rows) for part, rows in source.parts.items()} == {
        "train": 6,
        "validation": 2,
        "test": 4,
    }
    assert source.keys[7] == "validation/1" and not source.broken(np.arange(12))
    image = Image.open(io.BytesIO(source.file(9)))  # type: ignore[arg-type]
    assert image.getpixel((0, 0)) == (10, 0, 0)
    assert open_source(tmp_path / "d").fingerprint() == source.fingerprint()


def test_text_columns_give_labels_domains_and_captions(datasets, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    text = datasets.Value("string")
    more = {"domain": ["ink", "oil"] * 3, "caption": [f"number {i}" for i in range(6)]}
    make(datasets, 6, label=text, **more).save_to_disk(tmp_path / "d")
    source = open_source(tmp_path / "d")
    assert source.class_names == ("cat", "yak") and source.domain_names == ("ink", "oil")
    assert source.captions is not None and source.captions[2] == "number 2" and source.parts is None
    assert open_source(tmp_path / "d", "label=domain").class_names == ("ink", "oil")
    with pytest.raises(UserError, match="no column kind"):
        open_source(tmp_path / "d", "label=kind")
    with pytest.raises(UserError, match="no setting lable"):
        open_source(tmp_path / "d", "lable=kind")


def test_missing_labels_raise_an_error(datasets, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    make(datasets, 4).remove_columns("label").save_to_disk(tmp_path / "d")
    with pytest.raises(UserError, match="cannot tell which column holds the label"):
        open_source(tmp_path / "d")
    make(datasets, 4).remove_columns("label").add_column("label", [0, None, 1, 0]).save_to_disk(
        tmp_path / "e"
    )
    with pytest.raises(UserError, match="some images have no label"):
        open_source(tmp_path / "e")


def test_other_splits_are_ignored_with_a_warning(datasets, tmp_path: Path, caplog) -> None:  # type: ignore[no-untyped-def]
    parts = {"train": make(datasets, 4), "unsupervised": make(datasets, 2)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    source = open_source(tmp_path / "d")
    assert len(source) == 4 and source.parts is None and "unsupervised" in caplog.text


def test_invalid_saved_data_set_raises_one_line(datasets, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(UserError, match="cannot load it") as caught:
        open_source(tmp_path)
    assert "\n" not in str(caught.value)
