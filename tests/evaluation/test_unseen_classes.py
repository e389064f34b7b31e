"""Models that cannot score a label space get a row with the reason and without accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clipalign.core.errors import UnseenClasses
from clipalign.core.types import Preprocess
from clipalign.data.sources.folder import ImageFolder
from clipalign.evaluation import EvalLoader
from clipalign.evaluation.outputs import Classifier
from clipalign.evaluation.results import read_results, write_results
from clipalign.evaluation.scoring import result_rows, score, write_predictions
from clipalign.protocols import build_episode
from clipalign.report.accuracy import accuracy_tables
from clipalign.report.forgetting import forgetting
from clipalign.report.rows import ReportRow

FACTS = {
    "method": "head",
    "backbone": "tiny",
    "data": "squares",
    "protocol": "base-to-new",
    "target": None,
    "seed": 0,
    "steps": 1,
}


def test_unseen_label_space_gives_a_row_with_its_reason(squares: ImageFolder, tmp_path: Path) -> None:
    episode = build_episode("base-to-new", squares, None, 0)

    def classifier(names: Sequence[str]) -> Classifier:
        if tuple(names) != episode.class_names:
            raise UnseenClasses("a head knows its classes")

        def logits(images: Tensor) -> Tensor:
            return torch.eye(len(names))[:1].expand(len(images), -1)

        return logits

    loader = EvalLoader(squares, Preprocess((32, 32), (0.5,) * 3, (0.5,) * 3))
    scores = score(loader, classifier, episode.tests)
    write_results(tmp_path, result_rows(scores, squares, FACTS, {"new": 0.5}))
    rows = {row.test: row for row in read_results(tmp_path)}
    new, base = rows["new"], rows["base"]
    assert base.accuracy == 0.5 and base.reason is None
    assert new.accuracy is None and new.reason == "a head knows its classes"
    assert new.n == len(next(test.rows for test in episode.tests if test.name == "new"))
    assert base.h is new.h is None

    write_predictions(tmp_path / "predictions.npz", scores)
    with np.load(tmp_path / "predictions.npz") as stored:
        assert {name.split("/")[0] for name in stored} == {"base"}

    lines = list(map(ReportRow, rows.values()))
    assert forgetting(lines) == []
    (table,) = accuracy_tables(lines)
    cells = dict(zip(table.columns, table.lines[0].cells, strict=True))
    assert cells["new"] is None and cells["base"] is not None
    assert any("a head knows its classes" in note for note in table.notes)
