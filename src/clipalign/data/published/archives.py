"""`clipalign data prepare`: archives that users hold, unpacked safely into the layout of a published set."""

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
from .arrange import arrange
from .tables import Declaration, differences, open_published

IGNORED = {"__MACOSX", ".DS_Store"}
DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    ValueError,
)


def prepare(
    declaration: Declaration, archives: Sequence[Path], root: Path, exclude: Path | None = None
) -> list[str]:
    """Unpack archives into `root`, in the layout that the set's makers use, and count what is there.

    Args:
        declaration: the set.
        archives: tar and zip files in any number (DomainNet comes in six); other files, such as split files and
            classnames.txt, are copied beside the images.
        root: folder of published sets.
        exclude: text file of image paths, one a line, relative to the set's folder, to leave out.

    Returns:
        One line for each way in which the set differs from what is published of it.

    Raises:
        UserError: an archive that is damaged or whose names lead out of it, files that are there already, or
            an archive of something else.
    """
    target = root / declaration.folder
    for archive in archives:
        if not archive.is_file():
            raise UserError(f"--archive: no file {archive}")
    root.mkdir(parents=True, exist_ok=True)
    for archive in archives:
        with tempfile.TemporaryDirectory(prefix=f".{declaration.name}-", dir=root) as name:
            folder = Path(name)
            if not is_archive(archive):
                shutil.copyfile(archive, folder / archive.name)
                merge(folder, target)
                continue
            unpack(archive, folder)
            arrange(declaration.name, folder, [path for path in archives if not is_archive(path)], unpack)
            top = find_top(folder, declaration)
            if top is None:  # Caltech101's zip holds a tar
                for inner in [
                    path for path in sorted(folder.rglob("*")) if path.is_file() and is_archive(path)
                ]:
                    unpack(inner, inner.parent)
                    inner.unlink()
                top = find_top(folder, declaration)
            if top is None:
                raise UserError(
                    f"--archive: {archive} holds no {' or '.join(marks(declaration))}, so it is not "
                    f"{declaration.title} as its makers lay it out"
                )
            merge(top, target)
    if exclude is not None:
        leave_out(exclude, target)
    return list(differences(declaration, open_published(declaration, root)))


def is_archive(path: Path) -> bool:
    """Whether a file is one that `unpack` knows, by its content."""
    return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)


def unpack(archive: Path, folder: Path) -> None:
    """Write the plain files of an archive below `folder`.

    Permissions and owners are not taken over. Links and devices are refused, as are names that lead out.

    Raises:
        UserError: such a name, a damaged or encrypted archive, or one larger than the disk's free space.
    """
    room = shutil.disk_usage(folder).free
    try:
        for name, size, stream in members(archive):
            path = folder / inside(name, archive)
            room -= size
            if room < 0:
                raise UserError(
                    f"--archive: {archive} holds more than the disk below {folder.parent} has room for"
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                shutil.copyfileobj(stream, file)
    except DAMAGED as error:
        raise UserError(f"--archive: {archive} cannot be unpacked ({' '.join(str(error).split())})") from None
    except OSError as error:
        raise UserError(f"--archive: {archive} cannot be unpacked ({error})") from None


def members(archive: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """(name, bytes, content) of the files in an archive."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                if info.is_dir():
                    continue
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise refused(archive, info.filename, "is a link")
                with opened.open(info) as stream:
                    yield info.filename, info.file_size, stream
        return
    with tarfile.open(archive, "r:*") as tar:
        for member in tar:
            if member.isdir():
                continue
            if not member.isfile():
                raise refused(archive, member.name, "is a link or a device")
            yield member.name, member.size, tar.extractfile(member) or io.BytesIO()


def inside(name: str, archive: Path) -> Path:
    """A member's name as a relative path.

    Raises:
        UserError: it would lead out of the folder.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name) or "\0" in name:
        raise refused(archive, name, "leads out of the archive")
    return Path(*path.parts)


def refused(archive: Path, name: str, why: str) -> UserError:
    """The error of an archive that may be meant to do harm."""
    return UserError(f'--archive: {archive}: "{name}" {why}; nothing of it was kept')


def marks(declaration: Declaration) -> list[str]:
    """Names that stand at the top of the set's folder."""
    if declaration.domains:
        return declaration.domains
    return [declaration.unpacked or declaration.images.split("/")[0]]


def find_top(folder: Path, declaration: Declaration) -> Path | None:
    """The highest folder, of those unpacked, that holds a mark of the set."""
    level = [folder]
    while level:
        for path in level:
            if any((path / mark).exists() for mark in marks(declaration)):
                return path
        level = [inner for path in level for inner in sorted(path.iterdir()) if inner.is_dir()]
    return None


def merge(source: Path, target: Path) -> None:
    """Move a tree into another; files of other archives may be there, the same ones may not."""
    moves = []
    for folder, folders, names in os.walk(source):
        folders[:] = [name for name in folders if name not in IGNORED]
        for name in names:
            if name in IGNORED:
                continue
            path = Path(folder, name)
            goal = target / path.relative_to(source)
            if goal.exists():
                raise UserError(f"data prepare: {goal} exists already; move {target} away to begin anew")
            moves.append((path, goal))
    for path, goal in moves:
        goal.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, goal)


def leave_out(listed: Path, target: Path) -> None:
    """Delete listed images; lines that name none are passed over."""
    try:
        lines = listed.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--exclude: cannot read {listed} ({error})") from None
    for line in filter(None, map(str.strip, lines)):
        path = target / inside(line, listed)
        if path.is_file() and not path.is_symlink():
            path.unlink()
