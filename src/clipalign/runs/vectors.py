"""The folder of `clipalign embed`: features of images, and an index of their files.

Features are written in parts while images are encoded, so an interrupted command can be resumed. index.json is written
last: a folder that contains it is complete.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..core.checkpoint import load_state, load_weights, replacing, save_state, write_text
from ..core.errors import UserError
from ..core.reading import read_json
from .opening import Weights

FEATURES, INDEX, PARTS = "features.safetensors", "index.json", "parts"
Stamp = tuple[
    int, int
]  # size in bytes and time of the last change in ns, by which a changed file is recognised


@dataclass
class Entries:
    """Features by file, while they are computed.

    Attributes:
        stamps: file -> size and time when it was encoded.
        features: file -> [d] float32, L2-normalised.
    """

    stamps: dict[str, Stamp] = field(default_factory=dict)
    features: dict[str, Tensor] = field(default_factory=dict)

    def add(self, files: Sequence[str], stamps: Iterable[Sequence[int]], features: Tensor) -> None:
        """Add files with their features [n, d]."""
        self.stamps.update({file: (size, time) for file, (size, time) in zip(files, stamps, strict=True)})
        self.features.update(zip(files, features, strict=True))


@dataclass(frozen=True)
class Vectors:
    """A complete folder of features.

    Attributes:
        folder: the folder.
        model: run folder or backbone that encoded the images.
        weights: "model" or "last", of a run.
        digest: SHA-256 of its weights.
        files: N files.
        stamps: their sizes and times.
        features: [N, d] float32, L2-normalised.
    """

    folder: Path
    model: str
    weights: Weights
    digest: str
    files: tuple[str, ...]
    stamps: tuple[Stamp, ...]
    features: Tensor


def stamp_of(file: str) -> Stamp:
    """Return the size and the time of the last change of a file."""
    about = Path(file).stat()
    return about.st_size, about.st_mtime_ns


def read_vectors(folder: Path) -> Vectors:
    """Read a complete folder.

    Raises:
        UserError: the folder holds no vectors, is not complete, or is damaged.
    """
    if not (folder / INDEX).is_file():
        if (folder / PARTS).is_dir():
            raise UserError(f"{folder} is not complete; run `clipalign embed` again with --resume")
        raise UserError(f"{folder} holds no vectors (no {INDEX}); `clipalign embed` writes them")
    try:
        facts = read_json(folder / INDEX)
        files = tuple(image["file"] for image in facts["images"])
        stamps = tuple((image["bytes"], image["mtime_ns"]) for image in facts["images"])
        model, weights, digest = facts["model"], facts["weights"], facts["digest"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / INDEX} is damaged ({error!r}); run `clipalign embed` again") from None
    features = load_weights(folder / FEATURES).get("features")
    if features is None or len(features) != len(files):
        raise UserError(f"{folder / FEATURES} does not fit {INDEX}; run `clipalign embed` again")
    return Vectors(folder, model, weights, digest, files, stamps, features)


def read_entries(folder: Path, digest: str) -> Entries:
    """Return what an earlier command has encoded, complete or not.

    Args:
        folder: of an earlier command.
        digest: of the model that goes on.

    Raises:
        UserError: another model encoded the images.
    """
    entries = Entries()
    other = UserError(
        f"--resume: another model wrote {folder}; choose another --out, or give --overwrite instead"
    )
    if (folder / INDEX).is_file():
        vectors = read_vectors(folder)
        if vectors.digest != digest:
            raise other
        entries.add(vectors.files, vectors.stamps, vectors.features)
    for part in sorted((folder / PARTS).glob("*.safetensors")):
        state = load_state(part)
        if state["digest"] != digest:
            raise other
        entries.add(state["files"], state["stamps"], state["features"])
    return entries


def clear(folder: Path) -> None:
    """Delete the vectors of a folder, complete or not, and no other files."""
    for name in (INDEX, FEATURES):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / PARTS, ignore_errors=True)


def write_part(folder: Path, digest: str, files: Sequence[str], entries: Entries) -> None:
    """Write the features of some files, which `read_entries` returns."""
    parts = folder / PARTS
    parts.mkdir(parents=True, exist_ok=True)
    state = {
        "digest": digest,
        "files": list(files),
        "stamps": [list(entries.stamps[file]) for file in files],
        "features": torch.stack([entries.features[file] for file in files]),  # [n, d]
    }
    save_state(parts / f"{len(list(parts.iterdir())):06d}.safetensors", state)


def write_vectors(
    folder: Path,
    facts: Mapping[str, Any],
    files: Sequence[str],
    entries: Entries,
    skipped: Mapping[str, str],
) -> None:
    """Write the complete folder, and delete its parts.

    Args:
        folder: existing folder.
        facts: fields of index.json about the model; among them "model" and "digest".
        files: files in order.
        entries: their features.
        skipped: file -> why it has none.
    """
    index = folder / INDEX
    index.unlink(missing_ok=True)
    features = torch.stack([entries.features[file] for file in files])  # [N, d]
    with replacing(folder / FEATURES) as temporary:
        save_file({"features": features}, temporary)
    images = [
        {"file": file, "bytes": size, "mtime_ns": time}
        for file, (size, time) in ((file, entries.stamps[file]) for file in files)
    ]
    content = {
        **facts,
        "features": list(features.shape),
        "skipped": [{"file": file, "error": error} for file, error in skipped.items()],
        "images": images,
    }
    write_text(index, json.dumps(content, indent=1) + "\n")
    shutil.rmtree(folder / PARTS, ignore_errors=True)
