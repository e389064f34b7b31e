"""Cached views equal new ones bit by bit, and stay below the limit."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clipalign.backbone import Backbone
from clipalign.commands.train import run_options
from clipalign.core.types import Preprocess
from clipalign.data.builtin.pictograms import Pictograms
from clipalign.data.registry import load_source
from clipalign.data.sources.folder import ImageFolder
from clipalign.data.sources.table import ImageTable
from clipalign.engine.setup import RunCache
from clipalign.evaluation import ViewCache
from clipalign.evaluation.results import read_results
from clipalign.runs.options import train_options

PREPROCESS = Preprocess((32, 32), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
SIZE = 3 * 32 * 32 * 4


class Counting:
    """A source that counts its views."""

    def __init__(self, source: Any) -> None:
        self.source, self.made = source, 0

    def images(self, rows: np.ndarray, *rest: Any) -> Tensor:
        self.made += len(rows)
        return self.source.images(rows, *rest)


@pytest.mark.parametrize("kind", ["squares", "pictograms"])
def test_cached_views_equal_new_views(kind: str, squares: ImageFolder) -> None:
    source = Counting(squares if kind == "squares" else Pictograms())
    kept = ViewCache(1e9)
    rng = np.random.default_rng(0)
    for _ in range(6):  # batches that overlap in part, in any order
        rows = rng.permutation(40)[: int(rng.integers(1, 30))]
        draws = np.zeros_like(rows) if kind == "squares" else rng.integers(0, 4, len(rows))
        for stage in ("test", "validation"):
            found = kept.images(source, rows, stage, draws, PREPROCESS)  # type: ignore[arg-type]
            assert torch.equal(found, source.source.images(rows, stage, draws, 0, PREPROCESS))
            found.zero_()  # returned images may be modified
    made = source.made
    for preprocess in (PREPROCESS, Preprocess((32, 32), (0, 0, 0), (1, 1, 1))):
        kept.images(source, rows, "test", draws, preprocess)  # type: ignore[arg-type]
    assert source.made == made + len(rows)  # another normalisation gives other views


def test_cache_stays_below_its_limit(squares: ImageFolder) -> None:
    source, kept = Counting(squares), ViewCache(10 * SIZE + 1)
    rows, draws = np.arange(16), np.zeros(16, np.int64)
    for _ in range(3):
        found = kept.images(source, rows, "test", draws, PREPROCESS)  # type: ignore[arg-type]
        assert torch.equal(found, squares.images(rows, "test", draws, 0, PREPROCESS))
    assert kept.used == 10 * SIZE and source.made == 16 + 6 + 6
    kept.limit = 0
    kept.images(source, rows, "test", draws, PREPROCESS)  # type: ignore[arg-type]
    assert source.made == 16 + 6 + 6 + 16


def test_cache_keeps_sources_alive_so_that_their_ids_stay_unique(squares: ImageFolder) -> None:
    source, kept = Counting(squares), ViewCache(1e9)
    reference = weakref.ref(source)
    kept.images(source, np.arange(2), "test", np.zeros(2, np.int64), PREPROCESS)  # type: ignore[arg-type]
    del source
    gc.collect()
    assert reference() is not None  # a new object with this id would receive the cached views
    del kept
    gc.collect()
    assert reference() is None


def test_later_runs_of_a_process_reuse_views_and_text_features(
    tiny_spec: str, squares_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[int] = []
    views: list[int] = []
    encode, images = Backbone.encode_text, ImageTable.images

    def counting_texts(self: Backbone, tokens: Tensor) -> Tensor:
        texts.append(len(tokens))
        return encode(self, tokens)

    def counting_views(self: ImageTable, rows: np.ndarray, stage: Any, *rest: Any) -> Tensor:
        if stage != "train":
            views.append(len(rows))
        return images(self, rows, stage, *rest)

    monkeypatch.setattr(Backbone, "encode_text", counting_texts)
    monkeypatch.setattr(ImageTable, "images", counting_views)
    source = load_source(str(squares_folder))

    def run(name: str, method: str, seed: int, shared: RunCache | None, *more: str) -> Path:
        arguments = ["--method", method, "--data", str(squares_folder), "--protocol", "in-the-wild"]
        arguments += ["--target", "grey", "--backbone", tiny_spec, "--steps", "3", "--batch-size", "4"]
        arguments += [
            "--lr",
            "1e-3",
            "--seed",
            str(seed),
            "--validate-every",
            "1",
            "--interpolation",
            "bilinear",
            *more,
        ]
        options = train_options([*arguments, "--out", str(tmp_path / name)], "clipalign train")
        run_options(options, "clipalign train", shared)
        return tmp_path / name

    shared = RunCache()
    run("first", "erm", 0, shared)
    assert sum(views) <= len(source.labels)  # validation three times and three test sets: each view once
    texts.clear()
    views.clear()
    second = run("second", "erm", 1, shared)
    assert texts == [] and views == []
    other = run("other", "alignclip", 0, shared)
    assert texts == [] and views == []
    trained = run("trained", "flyp", 0, shared)  # it trains the text tower: its own features at every step
    assert len(texts) > 3 and views == []
    for name, path, method, seed in (
        ("second", second, "erm", 1),
        ("other", other, "alignclip", 0),
        ("trained", trained, "flyp", 0),
    ):
        alone = run(f"{name}-alone", method, seed, None, "--keep-views", "0")
        for file in ("model.safetensors", "predictions.npz"):
            assert (alone / file).read_bytes() == (path / file).read_bytes(), (name, file)
        shown = [(row.test, row.accuracy, row.zeroshot, row.validation) for row in read_results(path)]
        assert shown == [(r.test, r.accuracy, r.zeroshot, r.validation) for r in read_results(alone)]
