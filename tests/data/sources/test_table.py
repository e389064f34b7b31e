from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipalign.core.errors import UserError
from clipalign.core.types import Preprocess
from clipalign.data.registry import load_source
from clipalign.data.sources.class_names import looks_like_id, read_class_names
from clipalign.data.sources.folder import ImageFolder
from clipalign.data.sources.table import ImageTable
from clipalign.protocols import build_episode, read_split, write_skipped, write_split

PREPROCESS = Preprocess((16, 16), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), "bilinear")


def draw(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), (value % 256, 40, 90)).save(path)


def grow(root: Path, *folders: str, images: int = 5) -> Path:
    for k, folder in enumerate(folders):
        for i in range(images):
            draw(root / folder / f"{i}.jpg", 10 * k + i)
    return root


def table(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    return path


def names(source: object) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return source.class_names, source.domain_names  # type: ignore[attr-defined]


def test_layout_of_a_folder_is_detected(tmp_path: Path) -> None:
    flat = grow(tmp_path / "flat", "cat", "dog")
    assert names(load_source(str(flat))) == (("cat", "dog"), ("flat",))
    deep = grow(tmp_path / "deep", "ink/cat", "ink/dog", "oil/cat")
    assert names(load_source(str(deep))) == (("cat", "dog"), ("ink", "oil"))
    split = load_source(str(grow(tmp_path / "split", "train/cat", "train/dog", "Val/cat", "test/dog")))
    assert names(split) == (("cat", "dog"), ("split",))
    assert {part: len(rows) for part, rows in split.parts.items()} == {  # type: ignore[attr-defined]
        "train": 10,
        "validation": 5,
        "test": 5,
    }


def test_layout_option_overrides_detection(tmp_path: Path) -> None:
    root = grow(tmp_path / "d", "ink/cat", "oil/cat")
    draw(root / "ink" / "cover.jpg")  # an image in a first-level folder makes it a class
    assert names(load_source(str(root)))[0] == ("ink", "oil")
    assert names(load_source(str(root), layout="domain")) == (("cat",), ("ink", "oil"))
    assert names(load_source(str(root), layout="class"))[0] == ("ink", "oil")


def test_rows_have_the_order_of_torchvision(tmp_path: Path) -> None:
    for name in ("a/b.jpg", "a/B.jpg", "a/a2/z.jpg", "a/a10/c.jpg", "Z/q.jpg", "a/10.jpg", "a/9.jpg"):
        draw(tmp_path / name)
    from torchvision.datasets import ImageFolder as Torchvision

    expected = [os.path.relpath(path, tmp_path) for path, _ in Torchvision(str(tmp_path)).samples]
    assert list(load_source(str(tmp_path)).keys) == expected  # type: ignore[attr-defined]


def test_links_are_followed_without_loops(tmp_path: Path) -> None:
    outside = grow(tmp_path / "outside", "pool")
    root = grow(tmp_path / "root", "cat")
    (root / "dog").symlink_to(outside / "pool")
    (root / "cat" / "up").symlink_to(root)
    (root / "cat" / "one.jpg").symlink_to(outside / "pool" / "0.jpg")
    source = load_source(str(root))
    assert source.class_names == ("cat", "dog") and len(source.labels) == 11
    assert not source.broken(np.arange(11))  # type: ignore[attr-defined]


def test_file_names_may_be_non_utf8_but_class_names_may_not(tmp_path: Path) -> None:
    root = grow(tmp_path / "d", "cat", "dog", images=9)
    shutil.move(root / "cat" / "0.jpg", os.fsencode(root / "cat") + b"/caf\xe9.jpg")
    (root / "dog" / os.fsdecode(b"\xff.jpg")).write_bytes(b"no image")
    source = load_source(str(root), max_broken=0.2)
    episode = build_episode("base-to-new", source, None)
    write_split(tmp_path / "split.json", episode, 0)
    assert read_split(tmp_path / "split.json", source).split_hash == episode.split_hash
    write_skipped(tmp_path / "skipped.csv", episode)
    (root / os.fsdecode(b"\xe9")).mkdir()
    draw(root / os.fsdecode(b"\xe9") / "a.jpg")
    with pytest.raises(UserError, match="not UTF-8") as caught:
        load_source(str(root))
    assert str(caught.value).encode("utf-8")


def test_broken_files_are_skipped_after_the_split(tmp_path: Path) -> None:
    root = grow(tmp_path / "d", "ink/cat", "ink/dog", "oil/cat", "oil/dog", images=10)
    before = build_episode("domain-shift", load_source(str(root)), "oil")
    victims = [before.train_rows[0], before.tests[0].rows[3]]
    paths = load_source(str(root)).keys  # type: ignore[attr-defined]
    for row, content in zip(victims, (b"", b"text"), strict=True):
        (root / paths[row]).write_bytes(content)
    after = build_episode("domain-shift", load_source(str(root), max_broken=0.05), "oil")
    assert set(after.skipped) == set(victims)
    assert set(before.train_rows) - set(after.train_rows) == {victims[0]}
    np.testing.assert_array_equal(before.validation_rows, after.validation_rows)
    assert len(after.tests[0].rows) == 19 and after.split_hash != before.split_hash
    write_skipped(tmp_path / "skipped.csv", after)
    lines = (tmp_path / "skipped.csv").read_text().splitlines()
    assert lines[0] == "path,reason" and f"{paths[victims[1]]},not an image" in lines
    with pytest.raises(UserError, match=r"2 of 40 images do not decode.*--max-broken 0\.01"):
        build_episode("domain-shift", load_source(str(root)), "oil")


def test_protocols_accept_a_class_with_one_image(tmp_path: Path) -> None:
    root = grow(tmp_path / "d", "ink/cat", "ink/dog", "oil/cat", "oil/dog", images=6)
    draw(root / "ink" / "yak" / "only.jpg")
    source = load_source(str(root))
    for protocol in ("domain-shift", "in-the-wild"):
        assert build_episode(protocol, source, "oil").train_classes
    episode = build_episode("few-shot", source, None, shots=2)
    assert len(episode.train_classes) == 3 and 2 in source.labels[episode.tests[0].rows]


CSV = "path,label,domain,split,caption\n" + "".join(
    f"{d}/{k}/{i}.jpg,{k},{d},{'train' if i < 3 else 'val' if i == 3 else 'test'},a {k} in {d}\n"
    for d in ("ink", "oil")
    for k in ("yak", "cat")
    for i in range(5)
)


@pytest.fixture
def image_root(tmp_path: Path) -> Path:
    return grow(tmp_path, "ink/yak", "ink/cat", "oil/yak", "oil/cat")


@pytest.fixture
def listed(image_root: Path) -> ImageTable:
    source = load_source(str(table(image_root / "list.csv", CSV)))
    assert isinstance(source, ImageTable)
    return source


def test_csv_columns_give_classes_domains_and_captions(listed: ImageTable) -> None:
    assert names(listed) == (("cat", "yak"), ("ink", "oil"))
    assert listed.keys[:2] == ("ink/yak/0.jpg", "ink/yak/1.jpg")  # rows keep the order of the file
    assert listed.captions is not None and listed.captions[19] == "a cat in oil"
    views = listed.images(np.array([0, 7]), "test", np.zeros(2, int), 0, PREPROCESS)
    assert views.shape == (2, 3, 16, 16) and views.isfinite().all()


def test_parquet_equals_csv(listed: ImageTable, image_root: Path) -> None:
    csv = pytest.importorskip("pyarrow.csv")
    from pyarrow import parquet

    parquet.write_table(csv.read_csv(image_root / "list.csv"), image_root / "list.parquet")
    assert load_source(str(image_root / "list.parquet")).fingerprint() == listed.fingerprint()


def test_protocols_use_the_split_column(listed: ImageTable) -> None:
    number = np.array([int(key[-5]) for key in listed.keys])
    shift = build_episode("domain-shift", listed, "oil")
    assert set(number[shift.train_rows]) == {0, 1, 2} and set(number[shift.validation_rows]) == {3}
    assert len(shift.tests[0].rows) == 10 and "own split" in shift.rule
    parts = {
        part: build_episode("domain-shift", listed, "oil", target_split=part).tests[0]
        for part in ("in", "out")
    }
    assert set(number[parts["in"].rows]) == {0, 1, 2} and set(number[parts["out"].rows]) == {3, 4}
    assert parts["in"].name == "in"
    for protocol in ("base-to-new", "few-shot"):
        episode = build_episode(protocol, listed, None)
        assert set(number[episode.train_rows]) == {0, 1, 2}
        assert {n for test in episode.tests for n in number[test.rows]} == {4}
    wild = build_episode("in-the-wild", listed, "oil")
    assert set(number[wild.train_rows]) == {0, 1, 2} and set(listed.labels[wild.train_rows]) == {0}


def test_data_root_is_the_base_of_relative_paths(
    image_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = table(tmp_path_factory.mktemp("lists") / "list.tsv", CSV.replace(",", "\t"))
    source = load_source(str(path), root=image_root)
    assert isinstance(source, ImageTable) and not source.broken(np.arange(20))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("path,label\n", "no lines"),
        ("path,species\na.jpg,cat\n", r'no column "label"; it has path, species.*label=COLUMN'),
        ("label\ncat\n", 'no column "path"'),
        ("path,label\na.jpg,\n", "line 2: no label"),
        ("path,label\na.jpg,cat,extra\n", "line 2: 3 cells under 2"),
        ("path,label,split\na.jpg,cat,holdout\n", 'line 2: split is "holdout"'),
        ("path,label,split\na.jpg,cat,\n", 'split is ""'),
        ("path,label\na.jpg,Cat\nb.jpg,cat\n", "are the same to the model.*--class-names"),
    ],
)
def test_invalid_table_raises_one_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_source(str(table(tmp_path / "list.csv", text)))
    assert "\n" not in str(caught.value)


def test_columns_can_be_set_by_options(image_root: Path) -> None:
    path = table(image_root / "own.csv", "photo;species\nink/yak/0.jpg;Yak\n")
    assert load_source(str(path), ["path=photo", "label=species"]).class_names == ("Yak",)
    with pytest.raises(UserError, match='no column "genus"'):
        load_source(str(path), ["path=photo", "label=genus"])
    with pytest.raises(UserError, match="no setting photo"):
        load_source(str(path), ["photo=photo"])


def test_missing_files_count_as_broken(image_root: Path) -> None:
    source = load_source(
        str(table(image_root / "list.csv", CSV + "ink/none.jpg,cat,ink,train,\n")), max_broken=0.1
    )
    assert source.broken(np.arange(21)) == {20: "no such file"}  # type: ignore[attr-defined]


def test_class_names_file_renames_classes(tmp_path: Path) -> None:
    root = grow(tmp_path / "d", "n01440764", "n02", images=1)
    file = table(tmp_path / "names.txt", "n01440764 tench, Tinca tinca\nn02 great white shark\nn03 hen\n")
    assert read_class_names(file)["n01440764"] == "tench, Tinca tinca"
    file = table(tmp_path / "names.csv", "n01440764,tench\n")
    assert load_source(str(root), class_names=file).class_names == ("tench", "n02")
    file = table(tmp_path / "names.json", '{"n02": "hen"}')
    assert load_source(str(root), class_names=file).class_names == ("n01440764", "hen")
    with pytest.raises(UserError, match="none of the classes"):
        load_source(str(root), class_names=table(tmp_path / "n.txt", "cat hat\n"))
    with pytest.raises(UserError, match=r"line 1.*not a label and a name"):
        load_source(str(root), class_names=table(tmp_path / "n.txt", "cat\n"))
    with pytest.raises(UserError, match="the same to the model"):
        load_source(str(root), class_names=table(tmp_path / "n.txt", "n01440764 n02\n"))


@pytest.mark.parametrize(
    ("name", "is_id"),
    [("n01440764", True), ("17", True), ("class_3", True), ("tench", False), ("707-320", False)],
)
def test_looks_like_id_separates_ids_from_names(name: str, is_id: bool) -> None:
    assert looks_like_id(name) is is_id


def test_split_file_fits_data_with_additional_files(tmp_path: Path) -> None:
    root = grow(tmp_path / "d", "ink/cat", "ink/dog", "oil/cat", "oil/dog")
    first = build_episode("in-the-wild", ImageFolder(root), "oil")
    write_split(tmp_path / "s.json", first, 0)
    draw(root / "ink" / "cat" / "00.jpg")
    source = ImageFolder(root)
    again = read_split(tmp_path / "s.json", source)
    old = ImageFolder(root).keys
    assert len(again.train_rows) == len(first.train_rows) and again.train_classes == first.train_classes
    assert "ink/cat/00.jpg" not in [old[row] for row in again.train_rows]
    shutil.rmtree(root / "ink" / "cat")
    with pytest.raises(UserError, match=r"s\.json names .ink/cat/"):
        read_split(tmp_path / "s.json", ImageFolder(root))
    (tmp_path / "s.json").write_text("{")
    with pytest.raises(UserError, match=r"--split-file: .* is not valid JSON"):
        read_split(tmp_path / "s.json", source)


def test_build_episode_refuses_options_of_other_protocols(squares: ImageFolder) -> None:
    with pytest.raises(
        UserError, match=r"--shots is for --protocol base-to-new or few-shot or imagenet-shift"
    ):
        build_episode("domain-shift", squares, "grey", shots=4)
    with pytest.raises(UserError, match="--target-split is for --protocol domain-shift, not few-shot"):
        build_episode("few-shot", squares, None, target_split="in")
    with pytest.raises(UserError, match="imagenet-shift needs"):
        build_episode("imagenet-shift", squares, None)
