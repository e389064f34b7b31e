"""Folders of images: `class/image`, `domain/class/image`, or `train/class/image` beside `test/class/image`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from ...core.errors import UserError
from ..decode import EXTENSIONS
from .table import PARTS, FilesUnder, ImageRecord, ImageTable

Layout = Literal["auto", "class", "domain", "split"]


class ImageFolder(ImageTable):
    """A folder as a table; rows are ordered by domain, class, folder and file name, as DomainBed counts them.

    Args:
        root: the folder.
        layout: what its first level is: classes, domains (with classes inside), or train, validation and test
            (with classes inside). "auto" looks: images right under a first-level folder make it a class.
        names, max_broken: see `ImageTable`.

    Raises:
        UserError: no folder, no images, or class names that collide.
    """

    def __init__(
        self,
        root: Path,
        layout: Layout = "auto",
        names: Mapping[str, str] | None = None,
        max_broken: float = 0.01,
    ) -> None:
        if not root.is_dir():
            raise UserError(f"--data: {root} is not a folder")
        self.root = root
        found = sorted_files(root)
        self.layout = detect(found) if layout == "auto" else layout
        first = {"class": 0, "domain": 1, "split": 1}[self.layout]
        rows = []
        for folder, name, size in found:
            levels = folder.split("/") if folder else []
            if len(levels) <= first:
                continue  # too high up to have a class
            outer, label = (levels[0] if first else ""), levels[first]
            if self.layout == "split" and outer.lower() not in PARTS:
                continue
            part = PARTS[outer.lower()] if self.layout == "split" else ""
            rows.append(ImageRecord(f"{folder}/{name}", label, "" if part else outer, part, "", size))
        rows.sort(key=lambda row: (row.domain, row.label))  # stable: files keep their order
        if not rows:
            raise UserError(f"--data: no images in {root}; it needs class/image or domain/class/image files")
        super().__init__(
            root.resolve().name,
            rows,
            FilesUnder(root, tuple(row.key for row in rows)),
            names=names,
            max_broken=max_broken,
        )

    @property
    def paths(self) -> tuple[Path, ...]:
        """Files of all rows."""
        return tuple(self.root / key for key in self.keys)


def detect(found: list[tuple[str, str, int]]) -> Literal["class", "domain", "split"]:
    """The layout that files look like."""
    levels = [folder.split("/") for folder, _, _ in found if folder]
    if any(len(level) == 1 for level in levels):
        return "class"
    first = {level[0].lower() for level in levels}
    return "split" if first <= set(PARTS) and "train" in {PARTS[name] for name in first} else "domain"


def sorted_files(root: Path) -> list[tuple[str, str, int]]:
    """(folder relative to the root, file name, bytes) of all image files, by folder and then by name.

    This is the order in which torchvision, and so DomainBed, lists the files of a class.
    """
    return sorted(walk(root))


def walk(root: Path) -> Iterator[tuple[str, str, int]]:
    """Image files at any depth, through links too; hidden ones are left out, as is what macOS adds to zips."""
    seen = {os.path.realpath(root)}
    for folder, folders, names in os.walk(root, followlinks=True):
        kept = []
        for name in folders:
            # A link back up would be walked for ever.
            if name.startswith(".") or name == "__MACOSX":
                continue
            path = os.path.join(folder, name)
            if os.path.islink(path):
                if (real := os.path.realpath(path)) in seen:
                    continue
                seen.add(real)
            kept.append(name)
        folders[:] = kept
        relative = os.path.relpath(folder, root).replace(os.sep, "/")
        for name in names:
            if name.startswith(".") or os.path.splitext(name)[1].lower() not in EXTENSIONS:
                continue
            path = os.path.join(folder, name)
            # Of a link that leads nowhere the row stays, to be reported as broken.
            size = os.path.getsize(path) if os.path.exists(path) else 0
            yield ("" if relative == "." else relative, name, size)


def images_in(folder: Path) -> list[Path]:
    """Image files at any depth, sorted."""
    return [folder / inner / name for inner, name, _ in sorted_files(folder)]
