"""Hostile input: each row ends with exit code 2 and one line, executes nothing, and writes nothing outside of --out.

A row is the function that writes the input and returns the command, by the name of what is wrong.
"""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from clipalign.commands.cli import main

DEEP = 20_000  # levels of nesting


class Place(NamedTuple):
    """Where a row writes.

    Attributes:
        folder: empty folder for the input.
        run: copy of a finished run, which the row may damage.
        data: folder of images.
        backbone: --backbone of a tiny model.
    """

    folder: Path
    run: Path
    data: Path
    backbone: str

    def file(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def train(self, **options: object) -> list[str]:
        given = {"method": "erm", "backbone": self.backbone, "data": self.data, "target": "grey", "steps": 1}
        given |= {"batch_size": 4, "out": self.folder / "out", **options}
        return ["train", *(t for k, v in given.items() for t in ("--" + k.replace("_", "-"), str(v)))]

    def evaluate(self) -> list[str]:
        return ["eval", str(self.run), "--data", str(self.data), "--out", str(self.folder / "out")]

    def predict(self) -> list[str]:
        return ["predict", str(self.run), str(next(self.data.rglob("*.png")))]

    def report(self) -> list[str]:
        return ["report", str(self.run), "--out", str(self.folder / "out")]

    def config(self) -> dict[str, object]:
        return yaml.safe_load((self.run / "config.yaml").read_text())

    def sweep(self, **study: object) -> list[str]:
        given = {"methods": ["zeroshot"], "data": str(self.data), "targets": ["grey"], **study}
        path = self.file("study.yaml", yaml.safe_dump(given))
        return ["sweep", "--config", str(path), "--out", str(self.folder / "out")]


Row = Callable[[Place], list[str]]
ROWS: dict[str, tuple[Row, str]] = {}


def row(name: str, message: str, command: Row) -> None:
    """Add a row; `message` is part of the error line."""
    assert name not in ROWS
    ROWS[name] = (command, message)


# A run's own files.
def damaged(command: Callable[[Place], list[str]], change: Callable[[Place], object]) -> Row:
    def act(place: Place) -> list[str]:
        change(place)
        return command(place)

    return act


def write_config(place: Place, text: str) -> None:
    (place.run / "config.yaml").write_text(text)


def with_record(place: Place, **values: object) -> None:
    config = place.config()
    config["record"] = {**config["record"], **values}  # type: ignore[dict-item]
    write_config(place, yaml.safe_dump(config))


CHANGES: dict[str, tuple[Callable[[Place], object], str]] = {
    "empty": (lambda p: write_config(p, ""), "config.yaml"),
    "truncated": (
        lambda p: write_config(p, (p.run / "config.yaml").read_text()[:300] + "\nname: [a"),
        "config.yaml",
    ),
    "list": (lambda p: write_config(p, "- a\n- b\n"), "config.yaml"),
    "record-text": (lambda p: write_config(p, yaml.safe_dump({**p.config(), "record": "x"})), "config.yaml"),
    "record-list": (lambda p: write_config(p, yaml.safe_dump({**p.config(), "record": [1]})), "config.yaml"),
    "record-none": (lambda p: write_config(p, yaml.safe_dump({**p.config(), "record": None})), "config.yaml"),
    "binary": (lambda p: (p.run / "config.yaml").write_bytes(os.urandom(64) + b"\xff"), "config.yaml"),
    "deep": (lambda p: write_config(p, "a: " + "[" * DEEP), "nests too deeply"),
    "python-tag": (
        lambda p: write_config(p, f"a: !!python/object/apply:os.mkdir [{p.folder}/x]"),
        "config.yaml",
    ),
    "class-names": (lambda p: with_record(p, class_names="abc"), "class_names in its record"),
    "class-numbers": (lambda p: with_record(p, class_names=[1, 2]), "class_names in its record"),
    "templates": (lambda p: with_record(p, templates={"a": 1}), "templates in its record"),
    "resolved": (lambda p: with_record(p, resolved=[1]), "resolved in its record"),
    "newer": (lambda p: with_record(p, format=99), "newer version"),
}
for name, (change, message) in CHANGES.items():
    for command in (Place.evaluate, Place.predict, Place.report):
        row(f"config-{name}-{command.__name__}", message, damaged(command, change))


def nan_weights(place: Place) -> None:
    tensors = load_file(place.run / "model.safetensors")
    first = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    save_file({**tensors, first: torch.full_like(tensors[first], torch.nan)}, place.run / "model.safetensors")


class Mkdir:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.path,)


def pickled_weights(place: Place) -> None:
    (place.run / "model.safetensors").write_bytes(pickle.dumps(Mkdir(place.folder / "x")))


def cut_weights(place: Place) -> None:
    path = place.run / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


for command in (Place.evaluate, Place.predict):
    row(f"weights-nan-{command.__name__}", "hold NaN", damaged(command, nan_weights))
    row(f"weights-pickle-{command.__name__}", "model.safetensors", damaged(command, pickled_weights))
    row(f"weights-cut-{command.__name__}", "model.safetensors", damaged(command, cut_weights))
for name, text in {"deep": "[" * DEEP, "list": "[]", "binary": b"\xff\x00", "text": "x"}.items():
    content = text.encode() if isinstance(text, str) else text
    row(
        f"results-{name}",
        "results.jsonl",
        damaged(
            Place.report, lambda p, content=content: (p.run / "results.jsonl").write_bytes(content + b"\n")
        ),
    )

# Files that options name.
BAD = {
    "deep": ("[" * DEEP, "nests too deeply"),
    "deep-objects": ('{"a":' * DEEP, "nests too deeply"),
    "binary": (b"\xff\xfe\x00", ""),
    "empty": ("", ""),
    "number": ("1", ""),
}
for name, (content, message) in BAD.items():
    row(f"split-{name}", message, lambda p, c=content: p.train(split_file=p.file("split.json", c)))
    row(f"names-{name}", message, lambda p, c=content: p.train(class_names=p.file("names.json", c)))
for name, (content, message) in BAD.items():
    if name != "empty":  # an empty file holds no options
        row(f"options-{name}", message, lambda p, c=content: p.train(config=p.file("o.yaml", c)))
row(
    "options-tag", "not valid YAML", lambda p: p.train(config=p.file("o.yaml", "lr: !!python/name:os.system"))
)
row("options-infinity", "--lr must be finite", lambda p: p.train(config=p.file("o.yaml", "lr: .inf")))
row("options-nan", "--lr", lambda p: p.train(config=p.file("o.yaml", "lr: .nan")))
row("options-huge", "--lr", lambda p: p.train(config=p.file("o.yaml", "lr: [1e-3, 1]")))
row("options-date", "not valid YAML", lambda p: p.train(config=p.file("o.yaml", "lr: 2020-13-45")))
row("infinity", "--weight-decay must be finite", lambda p: p.train(weight_decay="inf"))
row("max-broken", "--max-broken must be in [0, 1]", lambda p: p.train(max_broken=2))
row("seed", "--seed", lambda p: p.train(seed="many"))
row("seed-negative", "--seed", lambda p: p.train(seed=-1))

# What is no regular file, and names that no file can have.
for option in ("config", "split_file", "class_names"):
    row(f"device-{option}", "device or pipe", lambda p, o=option: p.train(**{o: "/dev/zero"}))
    row(f"folder-{option}", "it is a folder", lambda p, o=option: p.train(**{o: p.folder}))
    row(f"long-{option}", "cannot read", lambda p, o=option: p.train(**{o: "a" * 5000}))


def linked(place: Place, name: str) -> Path:
    (place.folder / name).symlink_to("/dev/zero")
    return place.folder / name


for suffix in ("csv", "tsv", "parquet", "json"):
    row(f"device-{suffix}", "--data: ", lambda p, s=suffix: p.train(data=linked(p, f"t.{s}")))


def piped(place: Place) -> list[str]:
    os.mkfifo(place.folder / "t.csv")
    return place.train(data=place.folder / "t.csv")


def sparse(place: Place) -> list[str]:
    path = place.file("t.csv", "path,label\n")
    os.truncate(path, 2 << 30)
    return place.train(data=path)


row("pipe-csv", "--data: ", piped)
row("large-csv", "the limit is", sparse)
row("deep-captions", "nests too deeply", lambda p: p.train(data=p.file("c.json", "[" + "[" * DEEP)))

# Studies.
for name, seeds in {
    "text": "many",
    "list": ["a"],
    "negative": [-1],
    "zero": 0,
    "true": True,
    "huge": 10**12,
}.items():
    row(f"study-seeds-{name}", "seeds: must be", lambda p, s=seeds: p.sweep(seeds=s))
row("study-methods", "methods", lambda p: p.sweep(methods={"erm": [1]}))
row("study-options", "options", lambda p: p.sweep(options=[1]))
row("study-infinity", "--lr must be finite", lambda p: p.sweep(methods=["erm"], options={"lr": float("inf")}))
row("study-max-broken", "--max-broken", lambda p: p.sweep(options={"max_broken": 2}))


@pytest.fixture(scope="module")
def finished(tiny_spec: str, squares_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run of one step."""
    out = tmp_path_factory.mktemp("finished") / "run"
    place = Place(out.parent, out, squares_folder, tiny_spec)
    assert main(place.train(out=out)) == 0
    return out


def files(root: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mtime_ns for path in root.rglob("*")}


@pytest.mark.parametrize("name", ROWS)
def test_hostile_input_is_refused_in_one_line(
    name: str,
    finished: Path,
    tiny_spec: str,
    squares_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    build, message = ROWS[name]
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    place = Place(tmp_path / "input", tmp_path / "run", squares_folder, tiny_spec)
    place.folder.mkdir()
    shutil.copytree(finished, place.run)
    arguments = build(place)
    before = files(tmp_path), files(squares_folder)
    capsys.readouterr()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error and error.count("error: ") == 1, error
    last = error.strip().splitlines()[-1]
    assert last.startswith("error: ") and message in last and len(last) < 2000, last
    assert (files(tmp_path), files(squares_folder)) == before
