"""Readers of the user's files and folders, in the order in which `registry.READERS` tries them."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import UserError
from ..core.types import Source
from .captions.files import (
    read_caption_json,
    read_caption_shards,
    read_caption_table,
    shards_have_only_captions,
    table_has_only_captions,
)
from .request import Reader, SourceRequest
from .sources.folder import ImageFolder
from .sources.hub import PREFIX, SETTINGS, is_saved, read_hub
from .sources.shards import is_shards, read_shards
from .sources.tabular import COLUMNS, GROUP, SUFFIXES, read_table


def _open_table(request: SourceRequest) -> Source:
    columns = {field: str(column) for field, column in request.settings.items()}
    captions = request.captions or table_has_only_captions(request.path, columns)
    if captions:
        if request.group_column is not None:
            raise UserError(f"--group-column is for data with classes; {request.path} has captions only")
        return read_caption_table(request.path, root=request.root, columns=columns, options=request.table)
    if request.group_column is not None:
        columns[GROUP] = request.group_column
    return read_table(request.path, root=request.root, columns=columns, options=request.table)


def _open_json(request: SourceRequest) -> Source:
    return read_caption_json(request.path, root=request.root, options=request.table)


def _open_hub(request: SourceRequest) -> Source:
    groups = {} if request.group_column is None else {GROUP: request.group_column}
    return read_hub(request.data, settings={**request.settings, **groups}, options=request.table)


def _open_shards(request: SourceRequest) -> Source:
    captions = request.captions or shards_have_only_captions(request.data)
    read = read_caption_shards if captions else read_shards
    return read(request.data, request.table)


def _open_folder(request: SourceRequest) -> Source:
    return ImageFolder(request.path, request.layout, request.table)


def _has_suffix(data: str, suffixes: frozenset[str]) -> bool:
    path = Path(data)
    return path.suffix.lower() in suffixes and path.is_file()


TABLE = Reader(lambda data: _has_suffix(data, SUFFIXES), _open_table, tuple(COLUMNS), grouped=True)
JSON = Reader(lambda data: _has_suffix(data, frozenset({".json"})), _open_json)
HUB = Reader(lambda data: data.startswith(PREFIX) or is_saved(Path(data)), _open_hub, SETTINGS, grouped=True)
SHARDS = Reader(is_shards, _open_shards)
FOLDER = Reader(lambda data: Path(data).is_dir(), _open_folder)
