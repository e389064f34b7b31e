from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from clipalign.commands.cli import main
from clipalign.core.errors import UserError
from clipalign.data.published.archives import prepare
from clipalign.data.published.declarations import image_sets


def picture() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (2, 2)).save(stream, "JPEG")
    return stream.getvalue()


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, files: dict[str, bytes], *special: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in special:
            archive.addfile(member)
    return path


def pacs(top: str) -> dict[str, bytes]:
    facts = image_sets()["pacs"]
    files = {f"{top}/{d}/class{k}/pic_1.jpg": picture() for d in facts.domains for k in range(7)}
    return files | {f"__MACOSX/{top}/photo/._pic.jpg": b"", f"{top}/.DS_Store": b""}


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_prepare_lays_out_an_archive_and_counts_its_images(write, tmp_path: Path) -> None:
    archive = write(tmp_path / "a", pacs("kfold"))  # the folder in PACS's archive
    problems = prepare(image_sets()["pacs"], [archive], tmp_path / "root")
    assert len(problems) == 1 and "7/7/7/7 images, 2048/2344/1670/3929 published" in problems[0]
    files = sorted(
        p.relative_to(tmp_path / "root").as_posix() for p in (tmp_path / "root").rglob("*") if p.is_file()
    )
    assert len(files) == 28 and files[0] == "PACS/art_painting/class0/pic_1.jpg"
    with pytest.raises(UserError, match="exists already"):
        prepare(image_sets()["pacs"], [archive], tmp_path / "root")


def test_prepare_merges_several_archives_and_files(tmp_path: Path) -> None:
    facts = image_sets()["domain-net"]
    archives = [
        write_zip(tmp_path / f"{d}.zip", {f"{d}/cat/{i}.jpg": picture() for i in "12"}) for d in facts.domains
    ]
    (tmp_path / "out.txt").write_text("clipart/cat/2.jpg\nclipart/cat/none.jpg\n")
    problems = prepare(facts, archives, tmp_path / "root", exclude=tmp_path / "out.txt")
    assert any("1/2/2/2/2/2 images" in line for line in problems)
    inner = write_tar(tmp_path / "i.tar.gz", {"101_ObjectCategories/ant/1.jpg": picture()})
    outer = write_zip(tmp_path / "c.zip", {"caltech-101/101_ObjectCategories.tar.gz": inner.read_bytes()})
    split = tmp_path / "split_zhou_Caltech101.json"
    split.write_text('{"train": [["ant/1.jpg", 0, "ant"]], "val": [], "test": []}')
    prepare(image_sets()["caltech-101"], [outer, split], tmp_path / "root")
    assert (tmp_path / "root/caltech-101/101_ObjectCategories/ant/1.jpg").is_file()


@pytest.mark.parametrize(
    "name", ["../evil.jpg", "/etc/evil.jpg", "PACS/../../evil.jpg", "C:/evil.jpg", "..\\evil.jpg"]
)
@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_prepare_refuses_paths_outside_the_folder(write, name: str, tmp_path: Path) -> None:
    archive = write(tmp_path / "a", pacs("PACS") | {name: b"evil"})
    with pytest.raises(UserError, match="leads out"):
        prepare(image_sets()["pacs"], [archive], tmp_path / "deep" / "root")
    assert not list(tmp_path.rglob("evil*")) and not list((tmp_path / "deep" / "root").iterdir())


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_prepare_refuses_links_and_devices_in_tars(kind: bytes, tmp_path: Path) -> None:
    member = tarfile.TarInfo("PACS/photo/dog/link.jpg")
    member.type, member.linkname = kind, "/etc/passwd"
    archive = write_tar(tmp_path / "a", pacs("PACS"), member)
    with pytest.raises(UserError, match="is a link or a device"):
        prepare(image_sets()["pacs"], [archive], tmp_path / "root")


def test_prepare_refuses_links_in_zips(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", pacs("PACS"))
    with zipfile.ZipFile(archive, "a") as opened:
        info = zipfile.ZipInfo("PACS/link.jpg")
        info.external_attr = 0o120777 << 16
        opened.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match="is a link"):
        prepare(image_sets()["pacs"], [archive], tmp_path / "root")


def test_prepare_refuses_damaged_and_unrelated_archives(tmp_path: Path) -> None:
    whole = write_zip(tmp_path / "a.zip", pacs("PACS")).read_bytes()
    (tmp_path / "b.zip").write_bytes(whole[:300] + b"\0" * 40 + whole[340:])
    with pytest.raises(UserError, match=r"b\.zip cannot be unpacked"):
        prepare(image_sets()["pacs"], [tmp_path / "b.zip"], tmp_path / "root")
    cut = write_tar(tmp_path / "c.tgz", {f"PACS/photo/dog/{i}.jpg": bytes(range(256)) * 99 for i in range(9)})
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    with pytest.raises(UserError, match=r"c\.tgz cannot be unpacked"):
        prepare(image_sets()["pacs"], [cut], tmp_path / "root")
    other = write_zip(tmp_path / "d.zip", {"cats/1.jpg": picture()})
    with pytest.raises(UserError, match="has no art_painting or cartoon"):
        prepare(image_sets()["pacs"], [other], tmp_path / "root")
    with pytest.raises(UserError, match="no file"):
        prepare(image_sets()["pacs"], [tmp_path / "nowhere.zip"], tmp_path / "root")


def test_prepare_refuses_archives_larger_than_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match="exceeds the free disk space"):
        prepare(image_sets()["pacs"], [write_zip(tmp_path / "a.zip", pacs("PACS"))], tmp_path / "root")


def test_data_prepare_command_checks_counts_and_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_zip(tmp_path / "a.zip", pacs("kfold"))
    tokens = ["data", "prepare", "PACS", "--archive", str(archive), "--root", str(tmp_path / "root")]
    assert main(tokens) == 2  # seven images per domain instead of PACS's counts
    assert "will not compare" in capsys.readouterr().err
    monkeypatch.setattr("clipalign.data.published.archives.count_differences", lambda *_: [])
    assert main([*tokens[:-1], str(tmp_path / "other")]) == 0
    assert "data check pacs --data-root" in capsys.readouterr().out
    assert main(["data", "prepare", "pics", "--archive", str(archive)]) == 2
    assert main(["data", "prepare", "pacs"]) == 2
    capsys.readouterr()
    assert main(["data", "list"]) == 2 and "`clipalign list data`" in capsys.readouterr().err
    assert main(["list", "data"]) == 0
    text = capsys.readouterr().out
    assert "office-home" in text and "licence" in text


def tar_bytes(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@pytest.mark.parametrize("listed", ["valprep.sh", "LOC_val_solution.csv"])
def test_prepare_sorts_imagenet_by_wordnet_id(listed: str, tmp_path: Path) -> None:
    wnids = ("n01440764", "n01443537")
    inner = {f"{w}.tar": tar_bytes({f"{w}_{i}.JPEG": picture() for i in range(2)}) for w in wnids}
    train = write_tar(tmp_path / "ILSVRC2012_img_train.tar", inner)
    unsorted = {f"ILSVRC2012_val_0000000{i}.JPEG": picture() for i in (1, 2, 3)}
    val = write_tar(tmp_path / "ILSVRC2012_img_val.tar", unsorted)
    line = "mv {}.JPEG {}/\n" if listed == "valprep.sh" else "{},{} 85 1 499 272 \n"
    mapping = tmp_path / listed
    of = {"ILSVRC2012_val_00000001": wnids[1], "ILSVRC2012_val_00000002": wnids[0]}
    mapping.write_text("".join(line.format(*pair) for pair in of.items()))
    names = tmp_path / "classnames.txt"
    names.write_text("n01440764 tench\nn01443537 goldfish\n")
    root, facts = tmp_path / "root", image_sets()["imagenet"]
    with pytest.raises(UserError, match="the class of ILSVRC2012_val_00000003"):
        prepare(facts, [train, val, mapping, names], root)
    mapping.write_text(mapping.read_text() + line.format("ILSVRC2012_val_00000003", wnids[0]))
    root = tmp_path / "second"
    problems = prepare(facts, [train, val, mapping, names], root)
    assert any("4/0/3 images" in problem for problem in problems)
    base = root / "imagenet" / "images"
    assert sorted(p.name for p in (base / "val" / wnids[0]).iterdir()) == [
        "ILSVRC2012_val_00000002.JPEG",
        "ILSVRC2012_val_00000003.JPEG",
    ]
    assert len(list((base / "train" / wnids[1]).iterdir())) == 2


def test_prepare_refuses_paths_outside_the_folder_in_inner_archives(tmp_path: Path) -> None:
    train = write_tar(tmp_path / "t.tar", {"n01440764.tar": tar_bytes({"../../../../../out.JPEG": b"x"})})
    with pytest.raises(UserError, match="leads out"):
        prepare(image_sets()["imagenet"], [train], tmp_path / "root")
    assert not list(tmp_path.rglob("out.JPEG"))


def test_prepare_selects_terra_incognita_by_its_annotations(tmp_path: Path) -> None:
    images = [
        {"id": "a", "file_name": "a.jpg", "location": 38},
        {"id": "b", "file_name": "b.jpg", "location": "46"},
        {"id": "c", "file_name": "c.jpg", "location": "43"},
        {"id": "d", "file_name": "d.jpg", "location": "100"},
        {"id": "e", "file_name": "e.jpg", "location": "7"},
    ]
    categories = [{"id": 1, "name": "bird"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "car"}]
    pairs = [("a", 1), ("b", 2), ("c", 1), ("c", 2), ("d", 2), ("d", 3), ("e", 1)]
    annotations = [{"image_id": image, "category_id": category} for image, category in pairs]
    annotation_file = tmp_path / "caltech_images_20210113.json"
    annotation_file.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    archive = write_tar(
        tmp_path / "sm.tar.gz", {f"eccv_18_all_images_sm/{name}.jpg": picture() for name in "abcde"}
    )
    root, facts = tmp_path / "root", image_sets()["terra-incognita"]
    with pytest.raises(UserError, match="add the annotations"):
        prepare(facts, [archive], root)
    prepare(facts, [archive, annotation_file], root)
    base = root / facts.folder
    assert sorted(p.relative_to(base).as_posix() for p in base.rglob("*.jpg")) == [
        "location_100/dog/d.jpg",
        "location_38/bird/a.jpg",
        "location_43/bird/c.jpg",
        "location_43/dog/c.jpg",
        "location_46/dog/b.jpg",
    ]
