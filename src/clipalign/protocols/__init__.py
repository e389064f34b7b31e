"""Protocols: which rows train, which rows test, and under which class names."""

from __future__ import annotations

from .nested import nested_episodes
from .registry import PROTOCOLS, RETRIEVAL, build_episode, default_protocol, episode_from, list_protocols
from .split_file import read_split, write_skipped, write_split

__all__ = [
    "PROTOCOLS",
    "RETRIEVAL",
    "build_episode",
    "default_protocol",
    "episode_from",
    "list_protocols",
    "nested_episodes",
    "read_split",
    "write_skipped",
    "write_split",
]
