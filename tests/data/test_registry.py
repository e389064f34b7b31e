"""Named data sets, file formats, and their registration by other packages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, zeros

from clipalign.commands.cli import main
from clipalign.core.errors import UserError
from clipalign.core.types import Preprocess, Source, Stage
from clipalign.data.registry import READERS, SOURCES, key_values, list_data, load_source, name_of, opened
from clipalign.data.request import NamedSource, Reader, SourceRequest
from clipalign.data.sources.folder import ImageFolder


class Digits(Source):
    """A source that defines only what the contract requires."""

    class_names = ("zero", "one")
    domain_names = ("paper",)
    templates = ("the digit {}.",)

    def __init__(self, name: str = "digits", rows: int = 4) -> None:
        self.name = name
        self.labels = np.arange(rows) % 2
        self.domains = np.zeros(rows, np.int64)

    def images(
        self, rows: np.ndarray, stage: Stage, draws: np.ndarray, seed: int, preprocess: Preprocess
    ) -> Tensor:
        return zeros(len(rows), 3, *preprocess.size)

    def fingerprint(self) -> str:
        return f"digits {len(self)}"


@pytest.fixture
def registries() -> Iterator[None]:
    """Undo registrations after the test."""
    with SOURCES.isolated(), READERS.isolated():
        yield


def test_source_defaults_need_no_definition() -> None:
    source = Digits()
    assert len(source) == 4 and source.views("test") == 1 and source.broken(np.arange(4)) == {}
    optional = (source.keys, source.parts, source.splits, source.captions, source.interpolation)
    assert optional == (None,) * 5 and source.paper_templates is None


def test_source_without_required_methods_cannot_be_built() -> None:
    with pytest.raises(TypeError, match="abstract"):
        type("Incomplete", (Source,), {})()


def test_registered_source_opens_by_name_with_its_settings(
    registries: None, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = NamedSource(
        "handwritten digits",
        lambda request: Digits(rows=request.settings.get("rows", 4)),
        title="Digits",
        licence="CC0",
        settings=("rows",),
    )
    SOURCES.add("digits", entry)
    assert len(load_source("digits", ["rows=6"])) == 6
    with pytest.raises(UserError, match="no setting lines; this kind of data set has rows"):
        load_source("digits", ["lines=6"])
    assert main(["list", "data"]) == 0
    assert "digits" in list_data() and "handwritten digits" in capsys.readouterr().out


def test_registered_reader_opens_its_files_and_folders(registries: None, tmp_path: Path) -> None:
    requests: list[SourceRequest] = []

    def read(request: SourceRequest) -> Source:
        requests.append(request)
        return Digits(request.path.name)

    READERS.add("lmdb", Reader(lambda data: data.endswith(".lmdb"), read))
    (tmp_path / "a.lmdb" / "cat").mkdir(parents=True)  # also a folder, which any other reader comes before
    assert load_source(str(tmp_path / "a.lmdb"), max_broken=0.5).name == "a.lmdb"
    assert requests[0].table.max_broken == 0.5


def test_path_is_preferred_to_a_published_set_without_data_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pacs" / "cat").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "pacs" / "cat" / "a.png")
    monkeypatch.chdir(tmp_path)
    assert isinstance(load_source("pacs"), ImageFolder)
    with pytest.raises(UserError, match=r"no folder .*PACS"):
        load_source("pacs", root=tmp_path)
    with pytest.raises(UserError, match="OfficeHome needs --data-root"):
        load_source("OfficeHome")  # a title stands for the name


def test_every_named_source_has_a_summary_and_a_licence() -> None:
    for name, entry in SOURCES.all().items():
        assert entry.summary and entry.title and entry.licence, name


def test_open_source_is_used_as_it_is() -> None:
    source = Digits()
    assert opened(source) is source and name_of(source) == "digits"
    assert opened("pacs") is None and name_of(Path("a/b")) == "a/b"


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.integers() | st.floats(0, 1)))
def test_key_values_inverts_formatting(settings: dict[str, float]) -> None:
    assert key_values([f"{key}={value!r}" for key, value in settings.items()]) == settings


@pytest.mark.parametrize("option", ["rows", "=3", ""])
def test_key_values_refuses_other_options(option: str) -> None:
    with pytest.raises(UserError, match="KEY=VALUE"):
        key_values([option])
