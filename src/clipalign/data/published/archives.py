"""`clipalign data prepare`: unpack the archives of a published set into the layout that its makers use."""

from __future__ import annotations

import io
import lzma
import os
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from ...core.errors import UserError
from ..decode import one_line
from .arrange import arrange
from .declarations import ImageSet
from .open import count_differences, open_image_set

IGNORED = {"__MACOSX", ".DS_Store"}
DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(EOFError, RuntimeError, ValueError, OSError),
)


def prepare(
    declared: ImageSet, archives: Sequence[Path], root: Path, exclude: Path | None = None
) -> list[str]:
    """Unpack archives below `root`, and compare the result with the published counts.

    Args:
        declared: the set.
        archives: tar and zip files, any number (DomainNet has six). Other files, such as split files and
            classnames.txt, are copied next to the images.
        root: folder of published sets.
        exclude: text file of images to delete, one path relative to the set's folder per line.

    Returns:
        One line for each difference from the published counts.

    Raises:
        UserError: an archive is damaged, unsafe, or of another set, or a file exists already.
    """
    target = root / declared.folder
    for archive in archives:
        if not archive.is_file():
            raise UserError(f"--archive: no file {archive}")
    root.mkdir(parents=True, exist_ok=True)
    others = [path for path in archives if not is_archive(path)]
    for archive in archives:
        with tempfile.TemporaryDirectory(prefix=f".{declared.name}-", dir=root) as name:
            folder = Path(name)
            if archive in others:
                shutil.copyfile(archive, folder / archive.name)
                merge(folder, target)
                continue
            unpack(archive, folder)
            arrange(declared.name, folder, others, unpack)
            merge(find_top(archive, folder, declared), target)
    if exclude is not None:
        delete_listed(exclude, target)
    return list(count_differences(declared, open_image_set(declared, root)))


def is_archive(path: Path) -> bool:
    """Return whether the content of a file is one that `unpack` reads."""
    return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)


def unpack(archive: Path, folder: Path) -> None:
    """Write the plain files of an archive below `folder`, without their permissions and owners.

    Raises:
        UserError: a link, a device or a name outside `folder`; a damaged or encrypted archive; or one that exceeds the
            free disk space.
    """
    space = shutil.disk_usage(folder).free
    try:
        for name, size, stream in members(archive):
            path = folder / safe_path(name, archive)
            space -= size
            if space < 0:
                raise UserError(f"--archive: {archive} exceeds the free disk space below {folder.parent}")
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                shutil.copyfileobj(stream, file)
    except DAMAGED as error:
        raise UserError(f"--archive: {archive} cannot be unpacked ({one_line(error)})") from None


def members(archive: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Yield (name, bytes, content) of the files in an archive.

    Raises:
        UserError: a link or a device.
    """
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                if info.is_dir():
                    continue
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise unsafe(archive, info.filename, "is a link")
                with opened.open(info) as stream:
                    yield info.filename, info.file_size, stream
        return
    with tarfile.open(archive, "r:*") as tar:
        for member in tar:
            if member.isdir():
                continue
            if not member.isfile():
                raise unsafe(archive, member.name, "is a link or a device")
            yield member.name, member.size, tar.extractfile(member) or io.BytesIO()


def safe_path(name: str, listed_in: Path) -> Path:
    """Return a member's name as a relative path.

    Raises:
        UserError: the path leaves the folder.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name) or "\0" in name:
        raise unsafe(listed_in, name, "leads out of the folder")
    return Path(*path.parts)


def unsafe(archive: Path, name: str, reason: str) -> UserError:
    """Return the error for an archive that may be malicious."""
    return UserError(f'--archive: {archive}: "{name}" {reason}; nothing was kept')


def find_top(archive: Path, folder: Path, declared: ImageSet) -> Path:
    """Return the folder of an unpacked archive that corresponds to the set's folder.

    Archives inside are unpacked if the set is not found without them (Caltech101's zip holds a tar).

    Raises:
        UserError: there is none.
    """
    top = highest_marked(folder, declared)
    if top is None:
        for inner in [path for path in sorted(folder.rglob("*")) if path.is_file() and is_archive(path)]:
            unpack(inner, inner.parent)
            inner.unlink()
        top = highest_marked(folder, declared)
    if top is None:
        raise UserError(
            f"--archive: {archive} has no {' or '.join(marks(declared))}, so it is not {declared.title} in its "
            "published layout"
        )
    return top


def highest_marked(folder: Path, declared: ImageSet) -> Path | None:
    """Return the highest folder that holds a mark of the set."""
    level = [folder]
    while level:
        for path in level:
            if any((path / mark).exists() for mark in marks(declared)):
                return path
        level = [inner for path in level for inner in sorted(path.iterdir()) if inner.is_dir()]
    return None


def marks(declared: ImageSet) -> list[str]:
    """Return names of which one is at the top of the set's folder."""
    if declared.domains:
        return declared.domains
    return [declared.unpacked or declared.images.split("/")[0]]


def merge(source: Path, target: Path) -> None:
    """Move a tree of files into another, which may hold files of other archives.

    Raises:
        UserError: a file exists in both; nothing is moved.
    """
    moves = []
    for folder, folders, names in os.walk(source):
        folders[:] = [name for name in folders if name not in IGNORED]
        for name in names:
            if name in IGNORED:
                continue
            path = Path(folder, name)
            destination = target / path.relative_to(source)
            if destination.exists():
                raise UserError(
                    f"data prepare: {destination} exists already; move {target} away to start again"
                )
            moves.append((path, destination))
    for path, destination in moves:
        destination.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, destination)


def delete_listed(listed: Path, target: Path) -> None:
    """Delete the images that a text file lists; other lines are ignored.

    Raises:
        UserError: the file is unreadable, or a path leaves the folder.
    """
    try:
        lines = listed.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--exclude: cannot read {listed} ({error})") from None
    for line in filter(None, map(str.strip, lines)):
        path = target / safe_path(line, listed)
        if path.is_file() and not path.is_symlink():
            path.unlink()
