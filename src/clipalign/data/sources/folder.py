"""Folders of images: `class/image`, `domain/class/image`, or `train/class/image` with `test/class/image`."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

from ...core.errors import UserError
from ..decode import EXTENSIONS, HEIC_HINT, HEIC_SUFFIXES
from .table import DEFAULTS, PARTS, FilesBelow, ImageRecord, ImageTable, TableOptions

Layout = Literal["auto", "class", "domain", "split"]


class ImageFolder(ImageTable):
    """A folder of images, ordered by domain, class, folder and file name, as in torchvision and DomainBed.

    Args:
        root: the folder.
        layout: meaning of its first level: classes; domains, with classes inside; or train, validation and test, with
            classes inside. "auto" detects it: images directly in a first-level folder make it a class.
        options: see `TableOptions`.

    Raises:
        UserError: no such folder, no images, or class names that collide.
    """

    def __init__(self, root: Path, layout: Layout = "auto", options: TableOptions = DEFAULTS) -> None:
        if not root.is_dir():
            raise UserError(f"--data: {root} is not a folder")
        self.root = root
        files = sorted_files(root)
        self.layout = detect_layout(files) if layout == "auto" else layout
        depth = 0 if self.layout == "class" else 1  # level of the class folders
        records = []
        for folder, name, size in files:
            levels = folder.split("/") if folder else []
            if len(levels) <= depth:
                continue  # above the class folders
            outer, label = (levels[0] if depth else ""), levels[depth]
            if self.layout == "split" and outer.lower() not in PARTS:
                continue
            part = PARTS[outer.lower()] if self.layout == "split" else ""
            records.append(ImageRecord(f"{folder}/{name}", label, "" if part else outer, part, "", size))
        records.sort(key=lambda record: (record.domain, record.label))  # stable: files stay in order
        if not records:
            if heic := heic_files(root):
                raise UserError(f"--data: {root} has only HEIC files, such as {heic[0]}; {HEIC_HINT}")
            raise UserError(f"--data: no images in {root}; it needs class/image or domain/class/image files")
        files_below = FilesBelow(root, tuple(record.key for record in records))
        super().__init__(root.resolve().name, records, files_below, options)

    @property
    def paths(self) -> tuple[Path, ...]:
        """Paths of all rows."""
        return tuple(self.root / key for key in self.keys)


def detect_layout(files: list[tuple[str, str, int]]) -> Literal["class", "domain", "split"]:
    """Return the layout of files as listed by `sorted_files`."""
    levels = [folder.split("/") for folder, _, _ in files if folder]
    if any(len(level) == 1 for level in levels):
        return "class"
    first = {level[0].lower() for level in levels}
    return "split" if first <= set(PARTS) and "train" in {PARTS[name] for name in first} else "domain"


def sorted_files(root: Path) -> list[tuple[str, str, int]]:
    """List all image files as (folder relative to `root`, file name, bytes), by folder, then by name.

    torchvision, and so DomainBed, lists the files of a class in this order.
    """
    return sorted(walk_images(root))


def heic_files(root: Path) -> list[str]:
    """List the HEIC files in a folder, relative to it, sorted; they are not read."""
    found = walk_images(root, HEIC_SUFFIXES)
    return sorted(f"{folder}/{name}" if folder else name for folder, name, _ in found)


def empty_classes(root: Path, layout: Literal["class", "domain", "split"]) -> list[str]:
    """List the class folders without images, relative to `root`, sorted."""
    depth = 1 if layout == "class" else 2
    used = {tuple(folder.split("/")[:depth]) for folder, _, _ in walk_images(root)}
    folders = (path.relative_to(root) for path in root.glob("/".join("*" * depth)) if path.is_dir())
    shown = (path for path in folders if not any(part.startswith((".", "__MACOSX")) for part in path.parts))
    return sorted(path.as_posix() for path in shown if path.parts not in used)


def walk_images(root: Path, extensions: Collection[str] = EXTENSIONS) -> Iterator[tuple[str, str, int]]:
    """Yield the image files of `sorted_files`, unsorted; or those with other extensions.

    Links are followed. Hidden files are left out, and so are the folders that macOS adds to zip files.
    """
    visited = {os.path.realpath(root)}
    for folder, folders, names in os.walk(root, followlinks=True):
        kept = []
        for name in folders:
            if name.startswith(".") or name == "__MACOSX":
                continue
            path = os.path.join(folder, name)
            if os.path.islink(path):
                # A link to a parent folder would never end.
                if (real := os.path.realpath(path)) in visited:
                    continue
                visited.add(real)
            kept.append(name)
        folders[:] = kept
        relative = os.path.relpath(folder, root).replace(os.sep, "/")
        for name in names:
            if name.startswith(".") or os.path.splitext(name)[1].lower() not in extensions:
                continue
            path = os.path.join(folder, name)
            # The row of a dangling link stays, to be reported as broken.
            size = os.path.getsize(path) if os.path.exists(path) else 0
            yield ("" if relative == "." else relative, name, size)


def images_in(folder: Path) -> list[Path]:
    """Return all image files below a folder, sorted."""
    return [folder / inner / name for inner, name, _ in sorted_files(folder)]
