"""A file format: a ZIP archive of class/image or domain/class/image, read without unpacking it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile

from clipalign.core.errors import UserError
from clipalign.data.decode import EXTENSIONS
from clipalign.data.request import Reader, SourceRequest
from clipalign.data.sources.table import ImageRecord, ImageTable


@dataclass(frozen=True)
class ZipMembers:
    """Row -> bytes of its image."""

    archive: Path
    names: tuple[str, ...]

    def __call__(self, row: int) -> bytes:
        # An open archive cannot be shared between worker processes, so each call opens it.
        with ZipFile(self.archive) as archive:
            return archive.read(self.names[row])


def accepts(data: str) -> bool:
    """Return whether --data is a ZIP file."""
    return data.lower().endswith(".zip") and Path(data).is_file()


def open_zip(request: SourceRequest) -> ImageTable:
    """Open the images of an archive, in the order of their names.

    Raises:
        UserError: the file is no ZIP archive, or an image is not in the folder of a class.
    """
    try:
        with ZipFile(request.path) as archive:
            members = sorted(archive.infolist(), key=lambda member: member.filename)
    except BadZipFile as error:
        raise UserError(f"--data {request.data}: {error}") from None
    records = []
    for member in members:
        path = PurePosixPath(member.filename)
        if path.suffix.lower() not in EXTENSIONS or path.name.startswith("."):
            continue
        if len(path.parts) < 2:
            raise UserError(f"--data {request.data}: {path} is not in the folder of a class")
        domain = path.parts[-3] if len(path.parts) > 2 else ""
        records.append(ImageRecord(str(path), path.parts[-2], domain, size=member.file_size))
    files = ZipMembers(request.path, tuple(record.key for record in records))
    return ImageTable(request.path.stem, records, files, request.table)


ZIP = Reader(accepts, open_zip)
