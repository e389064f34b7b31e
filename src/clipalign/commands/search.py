"""`clipalign search`: images of a folder of vectors that are nearest to texts or other images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import Console
from rich.table import Column
from rich.table import Table as RichTable
from torch import Tensor

from ..core.errors import UserError
from ..core.parsing import make_config, parse_config
from ..data.decode import printable
from ..explain.figures import save
from ..methods import SupportsMasks
from ..report.contact_sheet import SheetRow, contact_sheet
from ..runs.folder import is_run
from ..runs.model import load_model
from ..runs.vectors import read_vectors
from .options import SearchConfig

CHUNK = 65536  # images whose scores are computed at once


@dataclass(frozen=True)
class Hit:
    """One image that was found.

    Attributes:
        file: the image.
        score: cosine with the query; under the mask of the query for methods with masks.
    """

    file: Path
    score: float


@dataclass(frozen=True)
class SearchResult:
    """The images nearest to one query.

    Attributes:
        query: the text, or the file of the image.
        kind: "text" or "image".
        hits: best first.
    """

    query: str
    kind: Literal["text", "image"]
    hits: tuple[Hit, ...]


def search_images(
    vectors: str | Path,
    text: Sequence[str] = (),
    *,
    image: Sequence[str | Path] = (),
    top: int = 10,
    sheet: str | Path | None = None,
    model: str | None = None,
    index: Literal["auto", "numpy", "faiss"] = "auto",
    cache_dir: str | Path | None = None,
    device: str = "auto",
) -> list[SearchResult]:
    """Return the images of a folder of vectors that are nearest to texts and images, as `clipalign search` does.

    Args:
        vectors: folder written by `clipalign embed`.
        text: texts, each a query.

    The keywords are the options of the command line; see `SearchConfig`.

    Raises:
        UserError: no vectors there, or vectors of a model that has changed.
    """
    return _search(make_config(SearchConfig, locals()))


def run_search(tokens: Sequence[str], prog: str = "clipalign search") -> list[SearchResult]:
    """Search as a command line says, and print a table or JSON."""
    config = parse_config(SearchConfig, tokens, prog)
    results = _search(config)
    if config.json:
        print(as_json(results))
    else:
        print_table(results)
        if config.sheet is not None:
            print(f"contact sheet: {config.sheet}")
    return results


def _search(config: SearchConfig) -> list[SearchResult]:
    vectors = read_vectors(config.vectors)
    weights = vectors.weights if is_run(config.model or vectors.model) else "model"
    model = load_model(
        config.model or vectors.model, weights=weights, device=config.device, cache_dir=config.cache_dir
    )
    if model.digest() != vectors.digest:
        reason = "is not the model that wrote" if config.model else "has changed since it wrote"
        raise UserError(
            f"{model.name} {reason} {vectors.folder}, so their features cannot be compared; run `clipalign embed` "
            f"again, or give --model with the model that wrote it (it was {vectors.model})"
        )
    queries: list[tuple[Literal["text", "image"], str]] = [("text", text) for text in config.text]
    queries += [("image", str(path)) for path in config.image]
    results = []
    for kind, query in queries:
        if kind == "text" and isinstance(model.method, SupportsMasks):
            scores, rows = best(model.similarity(vectors.features, query)[:, 0].numpy(), config.top)
        else:
            feature = model.encode_text(query) if kind == "text" else model.encode_image(query)  # [1, d]
            scores, rows = nearest(vectors.features, feature[0], config.top, config.index)
        hits = tuple(Hit(Path(vectors.files[i]), float(score)) for score, i in zip(scores, rows, strict=True))
        results.append(SearchResult(query, kind, hits))
    if config.sheet is not None:
        rows_of = [SheetRow(r.query, [h.file for h in r.hits], [h.score for h in r.hits]) for r in results]
        save(contact_sheet(rows_of), config.sheet)
    return results


def nearest(
    features: Tensor, query: Tensor, top: int, index: Literal["auto", "numpy", "faiss"] = "auto"
) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores and the rows of the features with the highest inner products, best first.

    Args:
        features: [N, d] float32.
        query: [d] float32.
        top: number of rows, at most N.
        index: "faiss" for an exact index of faiss, "numpy", or "auto" for faiss if it is installed.

    Raises:
        UserError: faiss is not installed.

    Example:
        >>> nearest(torch.eye(3), torch.tensor([0.1, 0.9, 0.5]), 2, "numpy")[1].tolist()
        [1, 2]
    """
    installed = find_spec("faiss") is not None
    if index == "faiss" and not installed:
        raise UserError('--index faiss needs faiss: pip install "clipalign[search]"; or use --index numpy')
    if index == "numpy" or not installed:
        parts = [chunk @ query for chunk in features.split(CHUNK)]  # each [n]
        return best(torch.cat(parts).numpy(), top)
    import faiss

    flat = faiss.IndexFlatIP(features.shape[1])
    flat.add(features.numpy())
    scores, rows = flat.search(query[None].numpy(), min(top, len(features)))  # 2 x [1, k]
    return scores[0], rows[0]


def best(scores: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the highest of N scores and their positions, best first; equal scores in order."""
    some = np.arange(len(scores))
    if top < len(scores):
        threshold = np.partition(scores, len(scores) - top)[len(scores) - top]
        some = np.flatnonzero(scores >= threshold)  # more than `top` if scores tie
    order = some[np.argsort(-scores[some], kind="stable")][:top]
    return scores[order], order


def print_table(results: Sequence[SearchResult]) -> None:
    """Print one table per query."""
    console = Console()
    if not console.is_terminal:  # names in a file must not be cut to a terminal's width
        console.width = 40 + max(len(str(hit.file)) for result in results for hit in result.hits)
    for result in results:
        table = RichTable("rank", "cosine", Column("image", overflow="fold"))
        for rank, hit in enumerate(result.hits, 1):
            table.add_row(str(rank), f"{hit.score:.3f}", printable(hit.file))
        console.print(f"{result.kind}: {result.query}", markup=False, highlight=False)
        console.print(table)


def as_json(results: Sequence[SearchResult]) -> str:
    """Return a list of objects with query, kind and hits."""
    content = [
        {
            "query": result.query,
            "kind": result.kind,
            "hits": [{"file": printable(hit.file), "score": hit.score} for hit in result.hits],
        }
        for result in results
    ]
    return json.dumps(content, indent=1, ensure_ascii=False)
