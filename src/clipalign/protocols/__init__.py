"""Which rows train, which rows test, under which class names."""

from __future__ import annotations

from ..core.types import Episode, TestSet
from .registry import build_episode, episode_from, list_protocols, usual_protocol
from .retrieval import RETRIEVAL
from .split_file import read_split, write_skipped, write_split

__all__ = [
    "RETRIEVAL",
    "Episode",
    "TestSet",
    "build_episode",
    "episode_from",
    "list_protocols",
    "read_split",
    "usual_protocol",
    "write_skipped",
    "write_split",
]
