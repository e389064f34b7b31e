from __future__ import annotations

import json
import logging
import random
from pathlib import Path

import numpy as np
import pytest

from clipalign.backbone.text.templates import choose_templates
from clipalign.core.errors import UserError
from clipalign.data.published.declarations import find_image_set, image_sets
from clipalign.data.published.open import count_differences
from clipalign.data.registry import load_source
from clipalign.data.sources.table import ImageTable
from clipalign.data.splits import hold_out, seed_hash
from clipalign.protocols import build_episode

PACS_CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
PACS_COUNTS = {
    "art_painting": (379, 255, 285, 184, 201, 295, 449),
    "cartoon": (389, 457, 346, 135, 324, 288, 405),
    "photo": (189, 202, 182, 186, 199, 280, 432),
    "sketch": (772, 740, 753, 608, 816, 80, 160),
}
DOMAINBED = ("pacs", "vlcs", "office-home", "terra-incognita", "domain-net")
WNIDS = [f"n{1000 + 7 * k:08d}" for k in range(12)]


def touch(path: Path) -> None:
    """Create an empty file; splits need names only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def open_source(name: str, root: Path) -> ImageTable:
    # Loading reads names only; none of these files decodes.
    source = load_source(name, root=root, max_broken=1)
    assert isinstance(source, ImageTable)
    return source


def test_pacs_has_the_published_rows_and_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for domain, counts in PACS_COUNTS.items():
        for name, count in zip(PACS_CLASSES, counts, strict=True):
            folder = tmp_path / "PACS" / domain / name
            folder.mkdir(parents=True)
            for i in range(1, count + 1):
                (folder / f"pic_{i:03d}.jpg").touch()
    with caplog.at_level(logging.WARNING):
        source = open_source("PACS", tmp_path)
    assert not caplog.records and len(source) == 9991
    assert source.domain_names == tuple(PACS_COUNTS) and source.class_names == PACS_CLASSES
    _, held = hold_out(np.flatnonzero(source.domains == 0), seed_hash(0, 0))
    assert held[:5].tolist() == [548, 677, 1997, 977, 1553]
    # Classes of the first five files that the published code holds out.
    classes = [source.keys[row].split("/")[1] for row in held[:5]]
    assert classes == ["elephant", "giraffe", "person", "guitar", "house"]


@pytest.mark.parametrize("name", DOMAINBED)
def test_domainbed_sets_are_read_by_domain_and_class(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    facts = image_sets()[name]
    for domain in facts.domains:
        for k in range(facts.classes):
            touch(tmp_path / facts.folder / domain / f"Class_{k:03d}" / f"{domain} 1.jpg")
    touch(tmp_path / facts.folder / "not a domain" / "x" / "1.jpg")
    touch(tmp_path / facts.folder / "readme.jpg")
    source = open_source(name, tmp_path)
    assert source.domain_names == tuple(facts.domains) == tuple(sorted(facts.domains))
    assert len(source.class_names) == facts.classes and len(source) == facts.classes * len(facts.domains)
    assert "do not compare" in caplog.text and str(facts.counts[0][0]) in caplog.text
    assert open_source(facts.title, tmp_path).fingerprint() == source.fingerprint()
    with pytest.raises(UserError, match=f"--data {name} needs --data-root"):
        load_source(name)


def write_split(base: Path, file: str, images: str, listed: dict[str, list[list[object]]]) -> None:
    for lines in listed.values():
        for path, _, _ in lines:
            touch(base / images / str(path))
    (base / file).write_text(json.dumps(listed))


SPLIT = {  # labels are not in the order of names, nor training images in the order of labels
    "train": [
        [f"{c}/{c}_{i}.jpg", label, c] for i in range(20) for label, c in ((2, "ant"), (0, "yak"), (1, "cow"))
    ],
    "val": [
        [f"{c}/v_{i}.jpg", label, c] for i in range(6) for label, c in ((0, "yak"), (1, "cow"), (2, "ant"))
    ],
    "test": [
        [f"{c}/t_{i}.jpg", label, c] for i in range(3) for label, c in ((1, "cow"), (0, "yak"), (2, "ant"))
    ],
}


@pytest.mark.parametrize("name", [name for name, facts in image_sets().items() if facts.layout == "split"])
def test_split_files_of_coop_define_rows_labels_and_names(name: str, tmp_path: Path) -> None:
    facts = image_sets()[name]
    write_split(tmp_path / facts.folder, str(facts.split), facts.images, SPLIT)
    source = open_source(name, tmp_path)
    assert source.class_names == ("yak", "cow", "ant")  # ordered by label
    assert source.parts is not None
    assert {part: len(rows) for part, rows in source.parts.items()} == {
        "train": 60,
        "validation": 18,
        "test": 9,
    }
    assert all(source.file(row).is_file() for row in range(len(source)))  # type: ignore[union-attr]
    assert source.keys[0].endswith("ant/ant_0.jpg")
    assert source.templates == (facts.template,)
    assert source.domain_names == (name,)


def test_shots_of_a_split_file_equal_those_of_coop(tmp_path: Path) -> None:
    write_split(tmp_path / "dtd", "split_zhou_DescribableTextures.json", "images", SPLIT)
    source = open_source("dtd", tmp_path)
    random.seed(1)
    by_class = {
        c: [r for r in range(60) if source.class_names[source.labels[r]] == c] for c in ("ant", "yak", "cow")
    }
    drawn = {c: random.sample(rows, 4) for c, rows in by_class.items()}  # in order of first appearance
    episode = build_episode("base-to-new", _readable(source), None, seed=1, shots=4)
    assert episode.class_names == ("yak", "cow")
    assert set(episode.train_rows) == {*drawn["yak"], *drawn["cow"]}
    assert {test.name: len(test.rows) for test in episode.tests} == {"base": 6, "new": 3}
    whole = build_episode("few-shot", source, None, seed=1, shots=4)
    assert set(whole.train_rows) == {row for rows in drawn.values() for row in rows}


def _readable(source: ImageTable) -> ImageTable:
    """Return the table with all its files declared valid images."""
    source.broken = lambda rows: {}  # type: ignore[method-assign]
    return source


def test_class_names_equal_those_of_the_papers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("airplanes", "Faces", "Faces_easy", "BACKGROUND_Google", "Leopards", "ant"):
        touch(tmp_path / "caltech-101" / "101_ObjectCategories" / name / "image_0001.jpg")
    assert open_source("caltech101", tmp_path).class_names == ("face", "leopard", "airplane", "ant")
    assert "not the published split" in caplog.text
    for name in ("AnnualCrop", "Forest", "SeaLake"):
        touch(tmp_path / "eurosat" / "2750" / name / "a.jpg")
    assert open_source("EuroSAT", tmp_path).class_names == ("Annual Crop Land", "Forest", "Sea or Lake")


def test_missing_split_file_is_named_with_its_source(tmp_path: Path) -> None:
    touch(tmp_path / "oxford_pets" / "images" / "Abyssinian_1.jpg")
    with pytest.raises(UserError, match=r"split_zhou_OxfordPets\.json.*Visual Geometry Group"):
        open_source("oxford-pets", tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        '{"train": []}',
        '{"train": [["a"]], "val": [], "test": []}',
        '{"train": [["../a.jpg", 0, "a"]], "val": [], "test": []}',
        "{",
    ],
)
def test_invalid_split_file_raises_an_error(content: str, tmp_path: Path) -> None:
    touch(tmp_path / "dtd" / "images" / "a.jpg")
    (tmp_path / "dtd" / "split_zhou_DescribableTextures.json").write_text(content)
    with pytest.raises(UserError, match=r"split_zhou_DescribableTextures\.json"):
        open_source("dtd", tmp_path)


def test_fgvc_aircraft_orders_classes_by_variants_txt(tmp_path: Path) -> None:
    base = tmp_path / "fgvc_aircraft"
    for number in range(6):
        touch(base / "images" / f"{number:07d}.jpg")
    (base / "variants.txt").write_text("A300B4\n707-320\n")
    for i, part in enumerate(("train", "val", "test")):
        (base / f"images_variant_{part}.txt").write_text(f"{2 * i:07d} 707-320\n{2 * i + 1:07d} A300B4\n")
    source = open_source("fgvc-aircraft", tmp_path)
    assert source.class_names == ("A300B4", "707-320") and source.labels.tolist() == [1, 0] * 3
    assert source.parts is not None and source.parts["validation"].tolist() == [2, 3]
    (base / "variants.txt").write_text("A300B4\n")
    with pytest.raises(UserError, match=r"707-320 is not in variants\.txt"):
        open_source("fgvc-aircraft", tmp_path)


@pytest.fixture
def imagenets(tmp_path: Path) -> Path:
    """ImageNet and three variants with 12 classes, of which A has four."""
    named = "".join(f"{wnid} {'crane' if k in (3, 8) else f'thing {k}'}\n" for k, wnid in enumerate(WNIDS))
    for k, wnid in enumerate(WNIDS):
        for i in range(8):
            touch(tmp_path / "imagenet" / "images" / "train" / wnid / f"{i}.JPEG")
        touch(tmp_path / "imagenet" / "images" / "val" / wnid / "v.JPEG")
        touch(tmp_path / "imagenetv2" / "imagenetv2-matched-frequency-format-val" / str(k) / "a.jpeg")
        touch(tmp_path / "imagenet-sketch" / "images" / wnid / "s.JPEG")
        if k % 3 == 0:
            touch(tmp_path / "imagenet-adversarial" / "imagenet-a" / wnid / "a.jpg")
    (tmp_path / "imagenet-adversarial" / "imagenet-a" / "README.txt").touch()
    for folder in ("imagenet", "imagenetv2"):
        (tmp_path / folder / "classnames.txt").write_text(named)
    return tmp_path


def test_imagenet_variants_share_class_names(imagenets: Path) -> None:
    v2 = open_source("imagenet-v2", imagenets)
    assert (
        v2.class_names[2] == "thing 2" and v2.class_names[10] == "thing 10"
    )  # numeric, not alphabetical order
    assert [key.split("/")[1] for key in v2.keys] == [str(k) for k in range(12)]
    adversarial = open_source("imagenet-a", imagenets)  # named by the classnames.txt of ImageNet
    assert adversarial.class_names == ("thing 0", "crane", "thing 6", "thing 9")
    assert open_source("imagenet", imagenets).class_names[8] == "crane 2"  # class 3 is "crane"


def test_imagenet_shift_tests_each_variant_on_its_classes(imagenets: Path) -> None:
    source = _readable(open_source("imagenet-shift", imagenets))
    assert source.domain_names == ("imagenet", "imagenet-v2", "imagenet-sketch", "imagenet-a")
    episode = build_episode("imagenet-shift", source, None, seed=1, shots=2)
    assert len(episode.train_rows) == 24 and set(source.domains[episode.train_rows]) == {0}
    assert not set(episode.train_rows) & set(episode.validation_rows) and len(episode.validation_rows) == 24
    tests = {test.name: test for test in episode.tests}
    assert list(tests) == list(source.domain_names)
    assert len(tests["imagenet-v2"].classes) == 12 and tests["imagenet-a"].classes == (0, 3, 6, 9)
    assert [len(test.rows) for test in episode.tests] == [12, 12, 12, 4]
    only = build_episode("imagenet-shift", source, "imagenet-a", seed=1, shots=2)
    assert [test.name for test in only.tests] == ["imagenet-a"]


def test_class_names_default_to_those_of_clip(tmp_path: Path) -> None:
    for k in range(1000):
        touch(tmp_path / "imagenet-sketch" / "images" / f"n{k:08d}" / "s.JPEG")
    source = open_source("imagenet-sketch", tmp_path)
    assert source.class_names[:2] == ("tench", "goldfish") and len(set(source.class_names)) == 1000
    touch(tmp_path / "imagenet-rendition" / "imagenet-r" / "n00000001" / "a.jpg")
    with pytest.raises(UserError, match=r"class names need .*classnames\.txt"):
        open_source("imagenet-r", tmp_path)


def test_missing_folders_are_named_with_their_source(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder .*PACS.*Queen Mary.*data prepare pacs"):
        open_source("pacs", tmp_path)
    with pytest.raises(UserError, match=r"no folder .*imagenet"):
        open_source("imagenet-shift", tmp_path)
    touch(tmp_path / "PACS" / "photo" / "dog" / "1.jpg")
    with pytest.raises(UserError, match="art_painting"):
        open_source("pacs", tmp_path)


def test_declarations_have_licence_source_counts_and_template() -> None:
    assert len(image_sets()) == 20
    for name, facts in image_sets().items():
        assert facts.licence and facts.obtain and facts.counts and "{}" in facts.template
        assert all(len(counts) == len(facts.domains or range(3)) for counts in facts.counts)
        assert find_image_set(name) is facts and find_image_set(facts.title) is facts
    assert find_image_set("office_home") is image_sets()["office-home"]
    assert find_image_set("pictograms") is None


def test_choose_templates_resolves_names(tmp_path: Path) -> None:
    write_split(tmp_path / "food-101", "split_zhou_Food101.json", "images", SPLIT)
    source = open_source("food-101", tmp_path)
    assert choose_templates((), source) == ("a photo of {}, a type of food.",)
    assert choose_templates(("paper",), source) == ("a photo of a {}, a type of food.",)
    source.paper_templates = None
    assert choose_templates(("paper",), source) == source.templates
    assert len(choose_templates(("ensemble",), source)) == 80
    assert "itap of a {}." in choose_templates(("ensemble7",), source)
    assert choose_templates(("a {}.", "the {}."), source) == ("a {}.", "the {}.")
    with pytest.raises(UserError, match="cannot be combined with others"):
        choose_templates(("ensemble", "a {}."), source)
    assert any("Food101" in line for line in count_differences(image_sets()["food-101"], source))
