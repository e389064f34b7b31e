"""`clipalign reproduce` on generated trees in the published layouts, and on Pictograms; the numbers mean nothing."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipalign.commands.cli import main
from clipalign.data.published.declarations import image_sets

CLASSES = ("bird", "car", "chair", "dog", "person")


def draw(path: Path, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(path)


@pytest.fixture(scope="module")
def published_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write VLCS with five images per domain and class, and DTD with its split file."""
    root, rng = tmp_path_factory.mktemp("published"), np.random.default_rng(0)
    for domain in image_sets()["vlcs"].domains:
        for name in CLASSES:
            for i in range(5):
                draw(root / "VLCS" / domain / name / f"{i}.jpg", rng)
    split: dict[str, list[tuple[str, int, str]]] = {"train": [], "val": [], "test": []}
    for part, entries in split.items():
        for label, name in enumerate(CLASSES):
            for i in range(2):
                draw(root / "dtd" / "images" / name / f"{part}{i}.jpg", rng)
                entries.append((f"{name}/{part}{i}.jpg", label, name))
    (root / "dtd" / "split_zhou_DescribableTextures.json").write_text(json.dumps(split))
    return root


def cells(out: Path) -> list[dict[str, str]]:
    with (out / "cells.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_table_is_run_and_compared_cell_by_cell(
    published_root: Path, tiny_spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["reproduce", "alignclip-table-10", "--data-root", str(published_root), "--out", str(out)]
    command += [
        "--seeds",
        "1",
        "--set",
        f"backbone={tiny_spec}",
        "steps=1",
        "batch_size=6",
        "validate_every=0",
    ]
    assert main(command) == 0
    text = capsys.readouterr().out
    found = cells(out)
    assert [(c["target"], c["options"]) for c in found][:2] == [
        ("Caltech101", "guide=vvv"),
        ("LabelMe", "guide=vvv"),
    ]
    assert len(found) == 10 and all(c["measured"] and c["verdict"] == "not comparable" for c in found)
    for cell in found:
        assert f"backbone {tiny_spec} instead of ViT-B-16:openai; steps is 1" in cell["reasons"]
        assert "has 5 test images instead of" in cell["reasons"]
    by_target = {c["target"]: float(c["measured"]) for c in found if c["options"] == "guide=dv"}
    mean = by_target.pop("mean")
    assert len(by_target) == 4 and mean == pytest.approx(sum(by_target.values()) / 4, abs=1e-3)
    report = (out / "report.md").read_text()
    assert "## AlignCLIP, table 10" in report and "10 published cells: 10 not comparable" in report
    assert (out / "report.html").is_file() and "table 10, vlcs, mean" in text
    written = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("results.jsonl")}
    assert len(written) == 8 and main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_class_token_and_patches_are_lines_of_their_own(
    published_root: Path, tiny_spec: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ["reproduce", "alignclip-table-9", "--data-root", str(published_root), "--out", str(out)]
    options = [f"backbone={tiny_spec}", "steps=1", "batch_size=6", "validate_every=0"]
    assert main([*command, "--targets", "SUN09", "--seeds", "1", "--set", *options]) == 0
    measured = {(c["target"], c["options"]): c for c in cells(out) if c["measured"]}
    assert measured.keys() == {("SUN09", ""), ("SUN09", "pooling=patches")}
    assert {c["published"] for c in measured.values()} == {"80.3", "77.3"}
    assert all("recipe published except batch_size, steps" in c["reasons"] for c in measured.values())
    runs = sorted(path.parent for path in (out / "runs").rglob("model.safetensors"))
    assert [path.parent.name for path in runs] == ["class-token", "patches"]
    assert (runs[0] / "model.safetensors").read_bytes() != (runs[1] / "model.safetensors").read_bytes()


def test_missing_data_sets_fail_alone_and_their_cells_are_not_measured(
    published_root: Path, tiny_spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["reproduce", "coop-base-to-new", "--data-root", str(published_root), "--out", str(out)]
    command += ["--methods", "zeroshot", "--set", f"backbone={tiny_spec}"]
    with pytest.raises(SystemExit):
        main(command)
    assert "failed: ucf101/" in capsys.readouterr().out
    measured = {(c["data"], c["method"], c["metric"], c["test"]) for c in cells(out) if c["measured"]}
    expected = {("accuracy", "base"), ("accuracy", "new"), ("h", "")}
    assert measured == {("dtd", "zeroshot", *one) for one in expected}
    assert {c["verdict"] for c in cells(out) if not c["measured"]} == {"not measured"}


def test_table_on_other_data_compares_means(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [
        "reproduce",
        "alignclip-table-4",
        "--data",
        "pictograms",
        "--targets",
        "twemoji",
        "--out",
        str(out),
    ]
    command += ["--methods", "zeroshot", "--set", "backbone=pocket"]
    assert main(command) == 0
    (cell,) = (c for c in cells(out) if c["measured"])
    # The mean of zero-shot CLIP's ten targets in table 4.
    assert (cell["data"], cell["method"], cell["published"]) == ("pictograms", "zeroshot", "67.3")
    assert cell["verdict"] == "not comparable"
    assert "data pictograms instead of office-home, domain-net" in cell["reasons"]


def write_captions(root: Path) -> None:
    """Write ShareGPT4V with 1,000 test and 12 training entries, Urban1k with three images, and no COCO or Flickr30k."""
    rng, entries = np.random.default_rng(1), []
    draw(root / "sharegpt4v" / "data" / "sam" / "images" / "sa.jpg", rng)
    for i in range(1012):
        text = f"Scene {i} is here.\nIt is calm. A tree stands."
        turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": text}]
        # One file serves all entries, so that the tree stays small.
        image = "sam/images/sa.jpg" if i < 1000 else f"sam/images/sa_{i}.jpg"
        entries.append({"id": f"sa_{i}", "image": image, "conversations": turns})
        if i >= 1000:
            draw(root / "sharegpt4v" / "data" / image, rng)
    name = "share-captioner_coco_lcs_sam_1246k_1107.json"
    (root / "sharegpt4v" / "data" / name).write_text(json.dumps(entries))
    for i in range(3):
        draw(root / "Urban1k" / "image" / f"{i}.jpg", rng)
        captions = root / "Urban1k" / "caption"
        captions.mkdir(exist_ok=True)
        (captions / f"{i}.txt").write_text(f"Street {i}. It is long.\n")


def test_retrieval_runs_are_scored_on_further_data_sets(
    tiny_spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, root = tmp_path / "out", tmp_path / "root"
    write_captions(root)
    command = ["reproduce", "smartclip-retrieval", "--data-root", str(root), "--out", str(out)]
    options = ["steps=1", "batch_size=4", "validate_every=0", "context_length=77"]
    command += ["--methods", "smartclip", "--set", f"backbone={tiny_spec}", *options]
    with pytest.raises(SystemExit):
        main(command)
    assert "on flickr30k-full" in capsys.readouterr().out
    measured = {(c["data"], c["metric"]): c for c in cells(out) if c["measured"]}
    recalls = ("text_to_image_recall@1", "image_to_text_recall@1")
    assert measured.keys() == {(data, recall) for data in ("sharegpt4v-1k", "urban1k") for recall in recalls}
    assert "urban1k long has 3 test images instead of 1000" in measured["urban1k", recalls[0]]["reasons"]
