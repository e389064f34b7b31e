"""`clipalign embed`: features of images in a folder, for `clipalign search`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ..core.errors import UserError
from ..core.parsing import make_config, parse_config
from ..core.version import __version__
from ..data.inputs import gather_images
from ..runs.folder import is_run
from ..runs.model import Model, load_model
from ..runs.vectors import (
    INDEX,
    PARTS,
    Entries,
    Vectors,
    clear,
    read_entries,
    read_vectors,
    stamp_of,
    write_part,
    write_vectors,
)
from .options import EmbedConfig

PART_BATCHES = 32  # batches whose features are written together while images are encoded
LISTED = 10  # skipped files that are named


def embed_images(
    images: Sequence[str | Path],
    model: str | Path,
    out: str | Path,
    *,
    weights: Literal["model", "last"] = "model",
    batch_size: int = 64,
    resume: bool = False,
    overwrite: bool = False,
    cache_dir: str | Path | None = None,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
) -> Vectors:
    """Encode images into a folder of features, as `clipalign embed` does.

    Args:
        images: files and folders.
        model: run folder or backbone.
        out: folder to write.

    The keywords are the options of the command line; see `EmbedConfig`.

    Raises:
        UserError: invalid input, or vectors of another model in `out`.
    """
    return _embed(make_config(EmbedConfig, locals()))[0]


def run_embed(tokens: Sequence[str], prog: str = "clipalign embed") -> Vectors:
    """Encode images as a command line says, and print what was written."""
    config = parse_config(EmbedConfig, tokens, prog)
    vectors, skipped, reused = _embed(config)
    for error in list(skipped.values())[:LISTED]:
        print(f"skipped {error}", file=sys.stderr)
    if len(skipped) > LISTED:
        print(f"... and {len(skipped) - LISTED} more files that are not images", file=sys.stderr)
    count, width = vectors.features.shape
    again = f", {reused} of them from before" if reused else ""
    print(f"{count} images in {width} dimensions{again}, {len(skipped)} skipped: {config.out}")
    print(f'clipalign search "a red bicycle" --in {config.out}')
    return vectors


def _embed(config: EmbedConfig) -> tuple[Vectors, dict[str, str], int]:
    """Encode images; return the vectors, the skipped files with their errors, and the number of reused features."""
    out = config.out
    check_place(out, resume=config.resume, overwrite=config.overwrite)
    paths, inside = gather_images(config.images)
    found = dict.fromkeys(Path(str(path)) for path in paths)
    files = {str(path.absolute()): path for path in found}
    model = load_model(
        config.model,
        weights=config.weights,
        device=config.device,
        precision=config.precision,
        cache_dir=config.cache_dir,
    )
    digest = model.digest()
    entries = read_entries(out, digest) if config.resume else Entries()
    known = [file for file in files if file in entries.stamps and entries.stamps[file] == stamp_of(file)]
    missing = [file for file in files if file not in set(known)]
    if config.overwrite:
        clear(out)
    out.mkdir(parents=True, exist_ok=True)
    skipped = encode(model, missing, frozenset(str(p.absolute()) for p in inside), entries, config, digest)
    kept = [file for file in files if file not in skipped]
    if not kept:
        raise UserError(
            f"embed: none of {len(files)} files is an image; the first: {next(iter(skipped.values()))}"
        )
    facts = {
        "model": str(Path(config.model).absolute()) if is_run(config.model) else config.model,
        "weights": config.weights,
        "method": model.method.name,
        "backbone": model.backbone.spec,
        "digest": digest,
        "clipalign": __version__,
    }
    write_vectors(out, facts, kept, entries, skipped)
    return read_vectors(out), skipped, len(known)


@torch.no_grad()
def encode(
    model: Model,
    files: Sequence[str],
    tolerated: Iterable[str],
    entries: Entries,
    config: EmbedConfig,
    digest: str,
) -> dict[str, str]:
    """Add the features of files to `entries`, and write them in parts; return file -> error of skipped files."""
    paths = [Path(file) for file in files]
    groups = np.split(np.arange(len(files)), range(config.batch_size, len(files), config.batch_size))
    errors: dict[int, str] = {}
    waiting: list[str] = []
    batches = model.inputs(paths, groups, frozenset(map(Path, tolerated)), errors)
    for number, (positions, views) in enumerate(batches, 1):
        batch = [files[i] for i in positions]
        entries.add(batch, map(stamp_of, batch), model.features(views))
        waiting += batch
        if number % PART_BATCHES == 0:
            write_part(config.out, digest, waiting, entries)
            waiting = []
    if waiting:
        write_part(config.out, digest, waiting, entries)
    return {files[i]: error for i, error in errors.items()}


def check_place(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Check that a folder is new or empty, or holds vectors to continue or to replace.

    Raises:
        UserError: it is neither.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out: {out} is a file, not a folder")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / INDEX).is_file() and not (out / PARTS).is_dir():
        raise UserError(f"--out: {out} holds something other than vectors; choose another folder")
    if not (resume or overwrite):
        raise UserError(
            f"--out: {out} holds vectors; give --resume to add images, --overwrite to replace them, or another folder"
        )
