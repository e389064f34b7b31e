from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipalign.core.errors import UserError
from clipalign.core.types import Preprocess
from clipalign.data.batches import TrainBatches
from clipalign.data.registry import load_source
from clipalign.data.sources.table import ImageTable
from clipalign.protocols import build_episode

PREPROCESS = Preprocess((16, 16), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), "bilinear")


def picture(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (9, 8), (value, 40, 90)).save(stream, "PNG")
    return stream.getvalue()


def write(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as shard:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two training shards and a test shard with classes 0 and 10 and captions."""
    for number, name in enumerate(("train-000000", "train-000001", "test-000000")):
        files: dict[str, bytes] = {}
        for i in range(4):
            files[f"{i:04d}.png"] = picture(50 * number + 10 * i)
            files[f"{i:04d}.cls"] = b"10" if i % 2 else b"0"
            files[f"{i:04d}.txt"] = f"picture {i}".encode()
        write(tmp_path / "shards" / f"{name}.tar", files)
    (tmp_path / "shards" / "classes.txt").write_text(
        "\n".join(["cat", *[f"c{k}" for k in range(1, 10)], "dog"])
    )
    return tmp_path / "shards"


def test_shards_give_classes_parts_captions_and_pixels(shards: Path) -> None:
    source = load_source(str(shards))
    assert isinstance(source, ImageTable)
    assert source.class_names == ("cat", "dog") and len(source) == 12
    assert source.parts is not None and len(source.parts["train"]) == 8
    assert source.captions is not None and source.captions[3] == "picture 3"
    assert not source.broken(np.arange(12))
    assert source.keys[4] == "train-000000.tar/0000"  # shards are read in the order of their names
    for row in (0, 7, 11):
        image = Image.open(io.BytesIO(source.file(row)))  # type: ignore[arg-type]
        number = ["train-000000", "train-000001", "test-000000"].index(source.keys[row].split(".")[0])
        assert image.getpixel((0, 0))[0] == 50 * number + 10 * int(source.keys[row][-4:])  # type: ignore[index]


def test_batches_of_shards_have_captions_and_ignore_workers(shards: Path) -> None:
    episode = build_episode("few-shot", load_source(str(shards)), None)
    batches = TrainBatches(episode, 4, 0, PREPROCESS)
    alone, helped = list(batches.iterate(0, 2)), list(batches.iterate(0, 2, workers=1))
    assert all(torch.equal(a.images, b.images) for a, b in zip(alone, helped, strict=True))
    assert alone[0].captions is not None and alone[0].captions[0].startswith("picture")


def test_patterns_select_shards(shards: Path) -> None:
    assert len(load_source(f"{shards}/train-{{000000..000001}}.tar").labels) == 8
    assert len(load_source(f"{shards}/test-*.tar").labels) == 4
    assert load_source(f"{shards}/train-000000.tar").parts is None  # type: ignore[attr-defined]


def test_json_members_give_label_domain_and_split(tmp_path: Path) -> None:
    files: dict[str, bytes] = {}
    for i in range(4):
        facts = {"label": ["cat", "dog"][i % 2], "domain": ["ink", "oil"][i // 2], "split": "train"}
        files |= {f"a/{i}.jpg": picture(i), f"a/{i}.json": json.dumps(facts).encode()}
    source = load_source(str(write(tmp_path / "x.tar", files)))
    assert source.domain_names == ("ink", "oil") and source.class_names == ("cat", "dog")


def test_shards_written_by_webdataset_are_read(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "x.tar")) as writer:
        for i in range(3):
            writer.write({"__key__": f"s{i}", "jpg": picture(i), "cls": i % 2})
    source = load_source(str(tmp_path / "x.tar"))
    assert source.class_names == ("0", "1") and len(source.labels) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.tar", "no shard"),
        ("https://example.org/a.tar", "download them first"),
        ("pipe:curl a.tar", "download them first"),
        ("packed.tar", "uncompressed"),
        ("text.tar", "not a plain tar file"),
        ("nolabel.tar", r"a has no \.cls file"),
        ("badjson.tar", "not a plain tar file"),
    ],
)
def test_invalid_shards_raise_an_error(name: str, message: str, tmp_path: Path) -> None:
    write(tmp_path / "packed.tar", {"a.jpg": picture(0)}, "w:gz")
    (tmp_path / "text.tar").write_text("no tar" * 200)
    write(tmp_path / "nolabel.tar", {"a.jpg": picture(0)})
    write(tmp_path / "badjson.tar", {"a.jpg": picture(0), "a.json": b"[1]"})
    with pytest.raises(UserError, match=message):
        load_source(name if ":" in name else str(tmp_path / name))
