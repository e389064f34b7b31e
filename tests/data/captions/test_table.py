from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clipalign.commands.data import run_check
from clipalign.core.errors import UserError
from clipalign.core.types import CaptionSource, Preprocess
from clipalign.data.captions import files, json_list
from clipalign.data.captions.buffer import CaptionBuffer
from clipalign.data.captions.json_list import json_entries
from clipalign.data.captions.table import CaptionRecord, CaptionTable, complete_parts
from clipalign.data.decode import evaluation_view, read_image, stack_views
from clipalign.data.registry import load_source
from clipalign.data.sources.table import FilesBelow, ImageTable

PREPROCESS = Preprocess((16, 16), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), "bicubic")


def draw(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 17), (value % 256, 40, 90)).save(path)
    return path


@pytest.fixture
def image_root(tmp_path: Path) -> Path:
    for i in range(30):
        draw(tmp_path / "images" / f"{i}.png", 8 * i)
    return tmp_path


def open_source(path: Path, **settings: Any) -> CaptionTable:
    source = load_source(str(path), **settings)
    assert isinstance(source, CaptionTable) and isinstance(source, CaptionSource)
    return source


def table(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    return path


def sizes(source: CaptionTable) -> dict[str, int]:
    return {part: len(rows) for part, rows in (source.parts or {}).items()}


def test_lines_with_one_path_are_captions_of_one_image(image_root: Path) -> None:
    text = 'path,caption\nimages/0.png,"A cat, asleep. A dog."\nimages/1.png,two\n./images/0.png,again\n'
    source = open_source(table(image_root / "captions.csv", text))
    assert source.keys == ("images/0.png", "images/1.png")
    assert list(source.texts) == [("A cat, asleep. A dog.", "again"), ("two",)]
    assert source.texts[-1] == ("two",) and source.texts[:1] == [source.texts[0]]
    assert source.labels.tolist() == [0, 0]
    assert not source.broken(np.arange(2))


def test_training_views_equal_evaluation_views(image_root: Path) -> None:
    source = open_source(table(image_root / "captions.csv", "path,caption\nimages/3.png,three\n"))
    assert source.interpolation == "bicubic"
    rows, draws = np.array([0, 0]), np.array([4, 5])
    views = source.images(rows, "train", draws, 9, PREPROCESS)
    expected = evaluation_view(read_image(image_root / "images" / "3.png"), PREPROCESS)
    assert torch.equal(views, stack_views([expected, expected], PREPROCESS))


def test_parts_follow_the_split_column(image_root: Path) -> None:
    lines = [f"images/{i}.png,caption {i},{part}" for i, part in enumerate(("train", "val", "test", "Train"))]
    source = open_source(table(image_root / "c.csv", "\n".join(["path,caption,split", *lines])))
    assert source.parts is not None
    assert [source.parts[p].tolist() for p in ("train", "validation", "test")] == [[0, 3], [1], [2]]


def test_parts_without_a_split_depend_on_keys_not_on_order(image_root: Path) -> None:
    lines = [f"images/{i}.png,caption {i} {j}" for i in range(30) for j in range(2)]
    first = open_source(table(image_root / "a.csv", "\n".join(["path,caption", *lines])))
    assert sizes(first) == {"train": 24, "test": 3, "validation": 3}
    again = open_source(table(image_root / "b.csv", "\n".join(["path,caption", *lines[::-1]])))
    for part in ("train", "validation", "test"):
        keys = [{source.keys[row] for row in source.parts[part]} for source in (first, again)]  # type: ignore[index]
        assert keys[0] == keys[1]
    assert first.fingerprint() != again.fingerprint()  # it covers the order of captions


def test_missing_validation_part_is_drawn_from_training(image_root: Path) -> None:
    lines = [f"images/{i}.png,caption {i},{'test' if i < 10 else 'train'}" for i in range(30)]
    source = open_source(table(image_root / "a.csv", "\n".join(["path,caption,split", *lines])))
    assert sizes(source) == {"train": 18, "validation": 2, "test": 10}
    only = open_source(table(image_root / "b.csv", "\n".join(["path,caption,split", *lines[:10]])))
    assert sizes(only) == {"train": 0, "validation": 0, "test": 10}
    assert only.caption_tests("validation") == ()


@given(st.sets(st.text("abc/", min_size=1, max_size=6), min_size=1, max_size=40), st.booleans())
def test_complete_parts_is_a_partition(names: set[str], given: bool) -> None:
    keys = sorted(names)
    parts = (
        {"train": np.arange(len(keys)), "validation": np.arange(0), "test": np.arange(0)} if given else None
    )
    completed = complete_parts(parts, keys)
    assert sorted(np.concatenate(list(completed.values())).tolist()) == list(range(len(keys)))
    if len(keys) > 2:
        assert all(len(rows) for part, rows in completed.items() if part != "test" or not given)


def test_caption_tests_are_whole_captions_and_first_sentences(image_root: Path) -> None:
    text = (
        "path,caption,split\nimages/0.png,One. Two.,test\nimages/0.png,Three.,test\nimages/1.png,Four,test\n"
    )
    long, short = open_source(table(image_root / "a.csv", text)).caption_tests("test")
    assert (long.name, long.texts) == ("long", ("One. Two.", "Three.", "Four"))
    assert (short.name, short.texts) == ("short", ("One.", "Three.", "Four."))
    assert long.owner.tolist() == short.owner.tolist() == [0, 0, 1]


def test_table_with_labels_opens_with_or_without_captions(image_root: Path) -> None:
    text = (
        "path,label,caption\nimages/0.png,cat,A cat.\nimages/1.png,dog,A dog.\nimages/0.png,cat,It sleeps.\n"
    )
    path = table(image_root / "both.csv", text)
    plain = load_source(str(path))
    assert type(plain) is ImageTable and len(plain) == 3
    source = open_source(path, captions=True)
    assert source.class_names == ("cat", "dog") and source.labels.tolist() == [0, 1]
    assert source.texts[0] == ("A cat.", "It sleeps.")


def test_caption_column_can_be_named(image_root: Path) -> None:
    path = table(image_root / "c.csv", "path;says\nimages/0.png;hello\n")
    assert open_source(path, options=["caption=says"]).texts[0] == ("hello",)
    with pytest.raises(UserError, match=r'no column "caption".*--data-options caption=COLUMN'):
        load_source(str(path), captions=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,caption\nimages/0.png,one\nimages/1.png,\n", r"line 3: empty caption"),
        ('path,caption\nimages/0.png,"one\ntwo"\nimages/1.png," "\n', r"line 4: empty caption"),
        ("path,caption\n,one\n", r"line 2: no path"),
        ("path,caption,split\nimages/0.png,one,later\n", r'line 2: split is "later"'),
        (
            "path,caption,split\nimages/0.png,a,train\nimages/0.png,b,test\n",
            r'line 3: .*split "test", but "train"',
        ),
        ("path,caption\n", "no images"),
        ("path,caption\nimages/0.png,\udcff\n", "line 2: the caption is not UTF-8"),
    ],
)
def test_invalid_lines_raise_an_error_with_their_number(image_root: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_source(str(table(image_root / "bad.csv", text)))


def test_check_suggests_a_caption_method(image_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = table(
        image_root / "c.csv", "path,caption\nimages/0.png,one\nimages/1.png,two\nimages/2.png,three\n"
    )
    run_check([str(path), "--sheet", "None"])
    assert "--method smartclip" in capsys.readouterr().out


def test_captions_of_a_folder_raise_an_error(image_root: Path) -> None:
    draw(image_root / "folder" / "cat" / "0.png")
    draw(image_root / "folder" / "dog" / "0.png")
    with pytest.raises(UserError, match="has no captions"):
        load_source(str(image_root / "folder"), captions=True)


def test_parquet_gives_the_same_captions_as_csv(image_root: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"path": ["images/0.png", "images/0.png"], "caption": ["one", "two"]}
    parquet.write_table(pyarrow.table(columns), image_root / "c.parquet")
    assert list(open_source(image_root / "c.parquet").texts) == [("one", "two")]


def test_json_list_gives_captions_and_parts(image_root: Path) -> None:
    content = [
        {"image": "images/0.png", "caption": "one\nline"},
        {"image": "images/1.png", "captions": ["two", "three"], "split": "val"},
    ]
    path = image_root / "c.json"
    path.write_text(json.dumps([entry | {"split": entry.get("split", "train")} for entry in content]))
    source = open_source(path)
    assert list(source.texts) == [("one line",), ("two", "three")]
    assert source.parts is not None and source.parts["validation"].tolist() == [1]


def test_sharegpt4v_entries_give_second_turns_and_parts(
    image_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SHARE_TEST", 4)
    content = [
        {
            "id": str(i),
            "image": f"images/{i}.png",
            "conversations": [
                {"from": "human", "value": "<image>\nWhat is it?"},
                {"from": "gpt", "value": f"A picture.\n\nNumber {i}."},
            ],
        }
        for i in range(30)
    ]
    (image_root / "share.json").write_text(json.dumps(content, indent=1))
    source = open_source(image_root / "share.json")
    assert source.texts[7] == ("A picture. Number 7.",)
    assert source.parts is not None and source.parts["test"].tolist() == [0, 1, 2, 3]
    assert sizes(source) == {"train": 23, "validation": 3, "test": 4}
    assert [test.name for test in source.caption_tests("test")] == ["long", "short"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"image": "a.png"}', "not a list of entries"),
        ('[{"image": "images/0.png", "caption": "a"}', "the list has no end"),
        ('[{"image": "images/0.png"}]', "entry 1: not {image, caption}"),
        ('[{"image": "images/0.png", "caption": 3}]', "entry 1: not"),
        ('[{"image": "images/0.png", "captions": []}]', "entry 1: .* no caption"),
        ('[{"image": "images/0.png", "caption": "a"}, 7]', "entry 2: not"),
        ('[{"image": "i.png", "conversations": [{"value": "x"}]}]', "entry 1: not"),
        ("[]", "no images"),
        ("", "cannot read"),
    ],
)
def test_invalid_json_raises_an_error_with_its_entry(image_root: Path, text: str, message: str) -> None:
    (image_root / "bad.json").write_text(text)
    with pytest.raises(UserError, match=message):
        load_source(str(image_root / "bad.json"))


@pytest.mark.parametrize("chunk", [1, 3, 17, 1000])
def test_json_entries_do_not_depend_on_the_chunk_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(json_list, "CHUNK", chunk)
    content = [{"a": ["x, ]", {"b": 'é"\\'}]}, {}, {"c": 12.5}]
    (tmp_path / "a.json").write_text(f" {json.dumps(content, indent=2)} \n", encoding="utf-8")
    assert list(json_entries(tmp_path / "a.json")) == content


def test_json_entries_stop_at_a_damaged_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_list, "CHUNK", 10)
    monkeypatch.setattr(json_list, "LARGEST_ENTRY", 50)
    (tmp_path / "a.json").write_text("[{'a': 1}" + " " * 10000)
    with pytest.raises(UserError, match=r"cannot read .*column"):
        list(json_entries(tmp_path / "a.json"))


def shard(path: Path, count: int, captions: bool = True) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as file:
        for i in range(count):
            stream = io.BytesIO()
            Image.new("RGB", (9, 8), (20 * i, 40, 90)).save(stream, "PNG")
            files = {"png": stream.getvalue()}
            if captions and i % 2:
                files["txt"] = f"picture {i}".encode()
            elif captions:
                files["json"] = json.dumps({"captions": [f"picture {i}", "another"]}).encode()
            for kind, content in files.items():
                member = tarfile.TarInfo(f"{i:04d}.{kind}")
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))


def test_shards_give_captions_parts_and_pixels(tmp_path: Path) -> None:
    for name, count in (("train-0", 8), ("train-1", 4), ("test-0", 3)):
        shard(tmp_path / "shards" / f"{name}.tar", count)
    source = open_source(tmp_path / "shards")
    assert sizes(source) == {"train": 11, "validation": 1, "test": 3}
    assert source.texts[0] == ("picture 0", "another") and source.texts[1] == ("picture 1",)
    assert source.keys[0] == "test-0.tar/0000"
    views = source.images(np.array([2]), "test", np.array([0]), 0, PREPROCESS)
    assert views[0, 0, 0, 0].item() == pytest.approx((40 / 255 - 0.5) / 0.2, abs=1e-5)


def test_shards_named_train_only_are_split_by_key(tmp_path: Path) -> None:
    shard(tmp_path / "shards" / "train-0.tar", 12)
    assert sizes(open_source(tmp_path / "shards")) == {"train": 10, "validation": 1, "test": 1}


def test_shard_image_without_caption_is_named(tmp_path: Path) -> None:
    shard(tmp_path / "shards" / "a.tar", 3, captions=False)
    with pytest.raises(UserError, match="0000 has no caption"):
        load_source(str(tmp_path / "shards"), captions=True)


def test_caption_buffer_stores_each_character_once() -> None:
    texts = CaptionBuffer()
    for row in range(2000):
        texts.add(row, "long caption " * 20)
    held = (
        len(texts._bytes) + texts._ends.itemsize * len(texts._ends) + texts._rows.itemsize * len(texts._rows)
    )
    assert held == 2000 * (13 * 20 + 16) + 8 and len(texts) == 2000 and texts[1999] == ("long caption " * 20,)


def test_fingerprint_covers_captions_and_keys(image_root: Path) -> None:
    def source(text: str, key: str = "images/0.png") -> CaptionTable:
        return CaptionTable(
            "a", [CaptionRecord(key, [text], "here")], lambda keys: FilesBelow(image_root, keys)
        )

    assert source("one").fingerprint() == source("one").fingerprint() != source("two").fingerprint()
    assert source("one").fingerprint() != source("one", "images/1.png").fingerprint()
