from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipalign.commands.cli import main
from clipalign.core.errors import UserError
from clipalign.core.types import Preprocess
from clipalign.data.captions.table import CaptionTable
from clipalign.data.published.caption_readers import READERS, rejoin_sentences
from clipalign.data.published.declarations import caption_sets
from clipalign.data.registry import list_data, load_source
from clipalign.evaluation.results import read_results

PREPROCESS = Preprocess((8, 8), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), "bicubic")


def draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (40, 90, 10)).save(path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def coco(root: Path, images: str, annotations: str, each: int) -> None:
    """Write COCO's JSON with images out of order and the captions of all images interleaved."""
    content: dict[str, list[dict[str, object]]] = {"images": [], "annotations": []}
    for i in (3, 1, 2):
        draw(root / "coco" / images / f"{i:012d}.jpg")
        content["images"].append({"id": i, "file_name": f"{i:012d}.jpg"})
    for j in range(each):
        for i in (1, 2, 3):
            content["annotations"].append({"image_id": i, "id": 10 * i + j, "caption": f"image {i} text {j}"})
    write(root / "coco" / annotations, json.dumps(content))


def coco_karpathy(root: Path) -> None:
    coco(root, "val2014", "coco_test_karpathy.json", 6)


def coco_val2017(root: Path) -> None:
    coco(root, "val2017", "annotations/captions_val2017.json", 6)


def flickr30k(root: Path) -> None:
    lines = ["image, caption"]
    for i in range(3):
        draw(root / "flickr30k" / "flickr30k-images" / f"10{i}.jpg")
        lines += [f"10{i}.jpg,A man, a dog.jpg, and number {j} ." for j in range(5)]
    write(root / "flickr30k" / "flickr30k_test_karpathy.txt", "\n".join(lines))


def flickr30k_full(root: Path) -> None:
    lines = []
    for i in range(4):
        draw(root / "flickr30k" / "Images" / f"10{i}.jpg")
        lines += [f"10{i}.jpg#{j}\tA man # {j} , a dog ." for j in range(5)]
    write(root / "flickr30k" / "results_20130124.token", "\n".join(lines) + "\n")


def sharegpt4v(root: Path) -> None:
    entries = []
    for i in range(1010):
        image = f"sam/images/sa_{i}.jpg" if i < 1003 else f"coco/train2017/{i}.jpg"
        if i in (0, 1, 1009):
            draw(root / "sharegpt4v" / "data" / image)
        turns = [
            {"from": "human", "value": "What?"},
            {"from": "gpt", "value": f"Scene {i}.\nIt is so. Calm."},
        ]
        entries.append({"id": f"sa_{i}", "image": image, "conversations": turns})
    name = "share-captioner_coco_lcs_sam_1246k_1107.json"
    write(root / "sharegpt4v" / "data" / name, json.dumps(entries))


def urban1k(root: Path) -> None:
    for i in (1, 2, 10):
        draw(root / "Urban1k" / "image" / f"{i}.jpg")
        write(root / "Urban1k" / "caption" / f"{i}.txt", f"Street {i}. Long, it is.\nsecond line\n")


def dci(root: Path) -> None:
    base = root / "densely_captioned_images"
    for i in range(4):
        draw(base / "photos" / f"sa_{i}.jpg")
        content = {
            "image": f"sa_{i}.jpg",
            "short_caption": f"Short {i}.",
            "extra_caption": "" if i == 2 else f"First thing.\nSecond </s>thing {i}.",
            "mask_data": {},
        }
        write(base / "annotations" / f"sa_{i}.json", json.dumps(content))
    write(
        base / "splits.json",
        json.dumps({"train": ["sa_3.json"], "valid": ["sa_1.json"], "test": ["sa_0", "sa_2"]}),
    )


# Name -> builder, images, captions, test, (first image, its first caption).
CASES: dict[str, tuple[Callable[[Path], None], int, int, str, tuple[str, str]]] = {
    "coco-karpathy": (coco_karpathy, 3, 18, "short", ("000000000001.jpg", "image 1 text 0")),
    "coco-val2017": (coco_val2017, 3, 15, "short", ("000000000001.jpg", "image 1 text 0")),
    "flickr30k": (flickr30k, 3, 15, "short", ("100.jpg", "A man, a dog.jpg, and number 0 .")),
    "flickr30k-full": (flickr30k_full, 4, 20, "short", ("100.jpg", "A man # 0 , a dog .")),
    "sharegpt4v": (sharegpt4v, 1000, 1000, "long", ("sam/images/sa_0.jpg", "Scene 0. It is so. Calm.")),
    "sharegpt4v-1k": (sharegpt4v, 1000, 1000, "long", ("sam/images/sa_0.jpg", "Scene 0. It is so. Calm.")),
    "urban1k": (urban1k, 3, 3, "long", ("1.jpg", "Street 1. Long, it is.")),
    "dci": (dci, 4, 4, "long", ("sa_3.jpg", "Short 3. First thing. Second. thing 3")),
    "dci-extra": (dci, 3, 3, "long", ("sa_3.jpg", "First thing. Second </s>thing 3.")),
    "dci-test": (dci, 2, 2, "long", ("sa_0.jpg", "Short 0. First thing. Second. thing 0")),
}


def open_source(name: str, root: Path) -> CaptionTable:
    source = load_source(name, root=root, captions=True)
    assert isinstance(source, CaptionTable)
    return source


def test_cases_cover_every_caption_set() -> None:
    assert set(CASES) == set(caption_sets()) and set(CASES) < set(list_data())


@pytest.mark.parametrize("name", list(CASES))
def test_load_source_reads_each_set_as_published(name: str, tmp_path: Path) -> None:
    build, images, captions, test_name, (key, caption) = CASES[name]
    build(tmp_path)
    source = open_source(name, tmp_path)
    tests = source.caption_tests("test")
    assert [test.name for test in tests] == (["long", "short"] if name == "sharegpt4v" else [test_name])
    assert len(tests[0].rows) == images and len(tests[0].texts) == captions
    first = int(tests[0].rows[0])
    assert (source.keys[first], tests[0].texts[0]) == (key, caption)
    assert np.array_equal(np.unique(tests[0].owner), np.arange(images))
    assert source.images(np.array([first]), "test", np.array([0]), 0, PREPROCESS).shape == (1, 3, 8, 8)


def test_sharegpt4v_tests_its_first_thousand_entries(tmp_path: Path) -> None:
    sharegpt4v(tmp_path)
    parts = open_source("sharegpt4v", tmp_path).parts
    assert parts is not None and len(parts["train"]) == 9 and len(parts["validation"]) == 1
    assert parts["test"].tolist() == list(range(1000))
    assert len(open_source("sharegpt4v-1k", tmp_path)) == 1000


def test_coco_sets_do_not_share_annotations(tmp_path: Path) -> None:
    coco_karpathy(tmp_path)
    with pytest.raises(UserError, match=r"no .*coco/annotations/captions_val2017.json"):
        open_source("coco-val2017", tmp_path)


@pytest.mark.parametrize("name", list(CASES))
def test_missing_files_are_named_with_path_and_licence(name: str, tmp_path: Path) -> None:
    facts = caption_sets()[name]
    with pytest.raises(UserError) as error:
        open_source(name, tmp_path)
    assert str(tmp_path / facts.folder / facts.annotations) in str(error.value)
    assert facts.licence in str(error.value)
    with pytest.raises(UserError, match=f"{name} needs --data-root"):
        load_source(name)
    CASES[name][0](tmp_path)
    base = tmp_path / facts.folder
    for image in base.rglob("*.jpg"):
        image.unlink()
    with pytest.raises(UserError) as error:
        open_source(name, tmp_path)
    if name == "urban1k":  # its images define which captions are needed
        assert str(base / facts.annotations) in str(error.value)
    else:
        assert str(base / facts.images[0] / CASES[name][4][0]) in str(error.value)


def test_data_root_may_be_the_folder_of_the_set(tmp_path: Path) -> None:
    urban1k(tmp_path)
    shutil.move(tmp_path / "Urban1k", tmp_path / "mine")
    assert len(open_source("urban1k", tmp_path / "mine")) == 3


def test_different_counts_log_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flickr30k(tmp_path)
    with caplog.at_level(logging.WARNING):
        open_source("flickr30k", tmp_path)
    assert "the test has 3 images and 15 captions, 1000 and 5000 published" in caplog.text


@pytest.mark.parametrize(
    ("name", "file", "text", "message"),
    [
        ("coco-karpathy", "coco/coco_test_karpathy.json", "[]", "not as published"),
        ("coco-karpathy", "coco/coco_test_karpathy.json", "{", "is not valid JSON"),
        ("flickr30k", "flickr30k/flickr30k_test_karpathy.txt", "image\n100.png,a\n", "line 2"),
        ("flickr30k", "flickr30k/flickr30k_test_karpathy.txt", "image\n../1.jpg,a\n", "leads out"),
        (
            "flickr30k",
            "flickr30k/flickr30k_test_karpathy.txt",
            "image\n100.jpg, \n",
            "line 2: empty caption",
        ),
        ("flickr30k-full", "flickr30k/results_20130124.token", "100.jpg a dog\n", "line 1"),
        ("flickr30k-full", "flickr30k/results_20130124.token", "", "no images"),
        ("urban1k", "Urban1k/caption/2.txt", "\nsecond", "2.txt: empty caption"),
        ("dci", "densely_captioned_images/splits.json", '{"test": ["sa_9"]}', "no .*sa_9.json"),
        ("dci", "densely_captioned_images/annotations/sa_1.json", "{}", "not as published"),
    ],
)
def test_damaged_annotations_raise_an_error_with_their_place(
    name: str, file: str, text: str, message: str, tmp_path: Path
) -> None:
    CASES[name][0](tmp_path)
    write(tmp_path / file, text)
    with pytest.raises(UserError, match=message):
        open_source(name, tmp_path)


def test_missing_caption_file_is_named(tmp_path: Path) -> None:
    urban1k(tmp_path)
    (tmp_path / "Urban1k" / "caption" / "10.txt").unlink()
    with pytest.raises(UserError, match=r"no .*caption/10.txt, the caption of 10.jpg"):
        open_source("urban1k", tmp_path)


def test_rejoin_sentences_splits_at_stops_breaks_and_end_marks() -> None:
    assert (
        rejoin_sentences("Short one.\nExtra, two. Three </s> four..\n")
        == "Short one. Extra, two. Three. four"
    )


def test_list_data_prints_every_caption_set(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", "data"])
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert set(CASES) < set(lines)
    assert "val2017" in lines["coco-val2017"] and "--data-root" in lines["urban1k"]


def test_every_reader_is_used_by_a_set() -> None:
    assert {facts.reader for facts in caption_sets().values()} == set(READERS)


def test_sets_without_training_images_are_scored_but_not_trained_on(
    tiny_spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    urban1k(tmp_path)
    data = ["--data", "urban1k", "--data-root", str(tmp_path), "--out"]
    assert main(["eval", tiny_spec, *data, str(tmp_path / "rows")]) == 0
    rows = read_results(tmp_path / "rows")
    assert [row.test for row in rows] == ["long"] and 0 <= rows[0].extra["text_to_image_recall@10"] <= 1
    zeroshot = ["train", "--backbone", tiny_spec, "--method", "zeroshot", *data]
    assert main([*zeroshot, str(tmp_path / "zeroshot")]) == 0
    arguments = ["train", "--backbone", tiny_spec, "--method", "smartclip", *data, str(tmp_path / "run")]
    assert main(arguments) == 2 and "has only test rows" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
