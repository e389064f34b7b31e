from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from clipalign.commands.cli import main
from clipalign.core.checkpoint import save_weights


@pytest.fixture(params=[0o022, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_weights_and_exports_are_written_with_the_umask(umask: int, tiny_spec: str, tmp_path: Path) -> None:
    save_weights(tmp_path / "model.safetensors", {"a": torch.ones(2)})
    assert main(["export", tiny_spec, "--to", "safetensors", "--out", str(tmp_path / "out")]) == 0
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 2
    for path in files:
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask, path
