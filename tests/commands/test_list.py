from __future__ import annotations

import json

import pytest

from clipalign.commands.cli import main
from clipalign.data.registry import list_data
from clipalign.protocols import list_protocols


@pytest.mark.parametrize(
    "what", ["methods", "data", "backbones", "protocols", "metrics", "exports", "trackers"]
)
def test_list_prints_the_same_names_as_json_and_as_text(
    what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", what]) == 0
    text = capsys.readouterr().out
    assert main(["list", what, "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    names = [line.split()[0] for line in text.splitlines() if not line.startswith(" ")]
    assert names == [entry["name"] for entry in entries]
    expected = {"data": list_data, "protocols": list_protocols}.get(what, lambda: names)()
    assert names == list(expected)


def test_published_sets_are_listed_with_licence_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", "data", "--json"])
    (pacs,) = [entry for entry in json.loads(capsys.readouterr().out) if entry["name"] == "pacs"]
    assert pacs["folder"] == "PACS" and "DomainBed" in pacs["from"] and pacs["licence"]
    assert "art_painting" in pacs["images"]
