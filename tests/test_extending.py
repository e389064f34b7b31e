"""The examples of docs/extending.md, installed as a package of their own."""

from __future__ import annotations

import csv
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch

from clipalign.backbone import Backbone, preprocess_for
from clipalign.core.errors import UserError
from clipalign.core.types import Preprocess
from clipalign.data.batches import TrainBatches
from clipalign.data.registry import READERS, SOURCES, load_source
from clipalign.data.sources.folder import ImageFolder
from clipalign.engine.writers import WRITERS
from clipalign.evaluation.metrics import METRICS
from clipalign.methods import METHODS, get_method, list_methods
from clipalign.protocols import build_episode
from clipalign.protocols.registry import PROTOCOLS
from clipalign.runs.export import EXPORTS
from clipalign.runs.options import train_options
from tests.helpers.packages import pip_install

ROOT = Path(__file__).parents[1]
EXTENSIONS = ROOT / "examples" / "extensions"
# Runs in a new process, which finds the extensions as any installed package.
COMMANDS = """
import sys
from clipalign.commands.cli import main
from tests.helpers.packages import pip_install
for line in sys.stdin.read().splitlines():
    assert main(line.split("\\t")) == 0, line
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the examples."""
    folder = tmp_path_factory.mktemp("site")
    pip_install(folder, EXTENSIONS, "--no-build-isolation", "--no-index")
    return folder


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the examples known in this process, for one test."""
    monkeypatch.syspath_prepend(site)
    with ExitStack() as stack:
        # Each registry reads entry points once, so one that is first used here would keep those of the examples.
        for registry in (METHODS, PROTOCOLS, SOURCES, READERS, METRICS, EXPORTS, WRITERS):
            stack.enter_context(registry.isolated())
        yield


def test_examples_are_short() -> None:
    lengths = {f.stem: len(f.read_text().splitlines()) for f in EXTENSIONS.glob("*/*.py")}
    assert len(lengths) > 5 and lengths["l2_sp"] < 60 and max(lengths.values()) < 70


def run(site: Path, *commands: list[str]) -> str:
    """Run commands in a new process; returns what they print."""
    paths = [str(site), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS],
        input="\n".join("\t".join(command) for command in commands),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def zipped(folder: Path, archive: Path) -> Path:
    """Write the files of a folder to a ZIP archive, with a file that is no image."""
    with ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*.png")):
            file.write(path, path.relative_to(folder))
        file.writestr("notes.txt", "no image")
    return archive


def test_extensions_of_every_kind_work_together(
    site: Path, tiny_spec: str, squares_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "runs" / "l2"
    train = ["train", "--method", "l2-sp", "--data", "digits", "--data-options", "limit=100"]
    train += [
        "--protocol",
        "iid",
        "--log-to",
        "csv",
        "--backbone",
        tiny_spec,
        "--steps",
        "2",
        "--batch-size",
        "8",
    ]
    printed = run(
        site,
        ["list", "protocols"],
        ["list", "metrics"],
        ["list", "exports"],
        ["list", "trackers"],
        [
            "data",
            "check",
            str(zipped(squares_folder, tmp_path / "squares.zip")),
            "--sheet",
            str(tmp_path / "sheet.png"),
        ],
        [*train, "--out", str(out)],
        ["report", str(tmp_path / "runs")],
        ["export", str(out), "--to", "torch-export", "--out", str(tmp_path / "exported")],
    )
    assert {"iid", "calibration-error", "torch-export", "csv"} <= set(printed.split())

    assert "squares: 60 images, 3 domain(s), 4 class(es)" in printed

    row = json.loads((out / "results.jsonl").read_text(encoding="utf-8"))
    error = row["calibration_error"]
    assert 0 < error < 1 and (row["method"], row["data"], row["protocol"]) == ("l2-sp", "digits", "iid")
    shown = f"{100 * error:.1f}"

    card = (out / "README.md").read_text(encoding="utf-8")
    head, line = (
        next(x for x in card.splitlines() if x.startswith(start)) for start in ("| test |", "| all |")
    )
    cells = dict(zip(head.split(" | "), line.split(" | "), strict=True))
    assert cells["ECE"] == shown and "ECE: expected calibration error" in card
    assert "type: calibration-error" in card

    report = (tmp_path / "runs" / "report" / "report.md").read_text(encoding="utf-8")
    assert "## Further metrics" in report and f"| all | l2-sp | {shown} | 1 |" in report
    with (tmp_path / "runs" / "report" / "tables.csv").open(encoding="utf-8") as file:
        means = {line["column"]: (float(line["mean"]), line["unit"]) for line in csv.DictReader(file)}
    assert means["ECE"] == (pytest.approx(100 * error, abs=1e-3), "%")

    with (out / "values.csv").open(encoding="utf-8") as file:
        values = {line["tag"]: float(line["value"]) for line in csv.DictReader(file)}
    assert values["test/all/calibration_error"] == error and "train/loss_pull" in values

    assert (tmp_path / "exported" / "text.pt2").is_file()
    assert json.loads((tmp_path / "exported" / "export.json").read_text())["format"] == "torch-export"


def test_documentation_names_the_entry_points_of_the_examples() -> None:
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    project = (EXTENSIONS / "pyproject.toml").read_text(encoding="utf-8")
    groups = set(re.findall(r'entry-points\."(.+?)"\]', project))
    assert len(groups) == 7 and all(f"`{group}`" in page for group in groups)
    declared = re.findall(r'entry-points\."(.+?)"\]\n(\S+ = "\S+")', page)
    assert len(declared) == 2
    for group, line in declared:
        assert f'[project.entry-points."{group}"]\n{line}\n' in project
    for file in (EXTENSIONS / "clipalign_extensions").glob("[!_]*.py"):
        assert file.name in page
        assert len(file.read_text(encoding="utf-8").splitlines()) < 80


def test_method_of_another_package_has_its_options(installed: None) -> None:
    assert "l2-sp" in list_methods()
    options = train_options(
        ["--method", "l2-sp", "--pull", "0.5", "--out", "x", "--backbone", "ViT-B-16:random"]
    )
    optimiser = options.config.optimiser
    assert options.hyper.pull == 0.5 and optimiser.lr == 5e-6 and optimiser.weight_decay == 0
    with pytest.raises(UserError, match="--pull"):
        train_options(["--method", "l2-sp", "--pull", "-1", "--out", "x"])
    with pytest.raises(UserError, match="--pull is an option of --method l2-sp"):
        train_options(["--method", "erm", "--pull", "1", "--out", "x"])


def test_larger_pull_keeps_weights_closer(installed: None, tiny: Backbone, squares: ImageFolder) -> None:
    cls: Any = get_method("l2-sp")
    episode = build_episode("domain-shift", squares, "grey", 0)
    distances = []
    for pull in (0.0, 50.0):
        method = cls(cls.Config(pull=pull))
        method.setup(tiny, episode, squares.templates)
        before = torch.cat([p.detach().flatten() for p in method.parameters()])
        optimizer = torch.optim.SGD(method.parameters(), lr=1e-3)
        for step in range(3):
            optimizer.zero_grad()
            batch = TrainBatches(episode, 6, 0, preprocess_for(tiny))[step]
            terms = method.loss(batch)
            (terms["loss_ce"] + terms["loss_pull"]).backward()
            optimizer.step()
        after = torch.cat([p.detach().flatten() for p in method.parameters()])
        distances.append(float((after - before).norm()))
        for p, start in zip(method.parameters(), method.start_weights, strict=True):
            p.data.copy_(start)
    assert 0 < distances[1] < distances[0]


def test_zip_archive_gives_the_views_of_its_folder(
    installed: None, squares_folder: Path, tmp_path: Path
) -> None:
    folder = ImageFolder(squares_folder)
    source = load_source(str(zipped(squares_folder, tmp_path / "squares.zip")))
    assert source.class_names == folder.class_names and source.domain_names == folder.domain_names
    assert source.keys is not None and list(source.keys) == list(folder.keys)
    np.testing.assert_array_equal(source.labels, folder.labels)
    np.testing.assert_array_equal(source.domains, folder.domains)
    rows, preprocess = np.array([40, 3, 17]), Preprocess((32, 32), (0.5,) * 3, (0.5,) * 3)
    for stage in ("train", "test"):
        copy = pickle.loads(pickle.dumps(source))  # as worker processes receive it
        for data in (source, copy):
            views = data.images(rows, stage, np.arange(3), 7, preprocess)
            assert torch.equal(views, folder.images(rows, stage, np.arange(3), 7, preprocess))  # type: ignore[arg-type]


def test_invalid_zip_archive_raises(installed: None, tmp_path: Path) -> None:
    broken, flat = tmp_path / "broken.zip", tmp_path / "flat.zip"
    broken.write_bytes(b"no archive")
    with ZipFile(flat, "w") as file:
        file.writestr("image.png", b"")
    with pytest.raises(UserError, match=r"broken\.zip: File is not a zip file"):
        load_source(str(broken))
    with pytest.raises(UserError, match=r"flat\.zip: image\.png is not in the folder of a class"):
        load_source(str(flat))


def test_zip_archive_is_unknown_without_its_entry_point(squares_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"squares\.zip"):
        load_source(str(zipped(squares_folder, tmp_path / "squares.zip")))


def test_method_is_unknown_without_its_entry_point() -> None:
    assert "l2-sp" not in list_methods()
