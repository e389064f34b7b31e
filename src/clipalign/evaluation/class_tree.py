"""Hierarchies of classes, from a data set or a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..core.errors import UserError
from ..core.reading import read_text
from ..core.types import Source

ROOT = ""  # above the tops of all paths


@dataclass(frozen=True)
class ClassTree:
    """A tree whose leaves are the C classes of a data set.

    Attributes:
        paths: nodes above each class, from its parent to the root, which all classes share.
    """

    paths: tuple[tuple[str, ...], ...]

    @cached_property
    def heights(self) -> np.ndarray:
        """[C, C] int64, height of the lowest common ancestor of two classes; 0 of a class with itself.

        The height of a node is the length of the longest path from it down to a class.
        """
        node_height: dict[str, int] = {}
        below: dict[str, list[int]] = {}  # node -> classes
        for c, path in enumerate(self.paths):
            for height, node in enumerate(path, 1):
                node_height[node] = max(height, node_height.get(node, 0))
                below.setdefault(node, []).append(c)
        heights = np.zeros((len(self.paths), len(self.paths)), np.int64)  # [C, C]
        # From the root down: a lower ancestor overwrites a higher one.
        for node in sorted(below, key=lambda node: -node_height[node]):
            heights[np.ix_(below[node], below[node])] = node_height[node]
        np.fill_diagonal(heights, 0)
        return heights

    @property
    def siblings(self) -> np.ndarray:
        """[C, C] bool, whether two classes have the same parent."""
        parents = np.array([path[0] for path in self.paths])  # [C]
        return parents[:, None] == parents

    @property
    def top_groups(self) -> tuple[str, ...]:
        """The highest group of each class, just below the root; the class's parent if that is the root."""
        return tuple((path[-2] if len(path) > 1 else path[-1]).split("\t")[-1] for path in self.paths)


def class_tree(source: Source, file: Path | None) -> ClassTree | None:
    """Return the tree of --class-tree, else that of the data set; None if it has none.

    Raises:
        UserError: the file is invalid, or lacks a class.
    """
    if file is not None:
        return read_tree(file, source.class_names)
    if source.class_groups is None:
        return None
    # Equal names in different groups are different nodes.
    return ClassTree(
        tuple(
            (*("\t".join(reversed(path[i:])) for i in range(len(path))), ROOT) for path in source.class_groups
        )
    )


def read_tree(file: Path, class_names: Sequence[str]) -> ClassTree:
    """Read a tree from lines of a name, a tab and the name of its parent.

    Empty lines and lines that start with # are ignored. Names without a parent are below one root.

    Raises:
        UserError: an unreadable file, a line without a tab, a name with two parents, a cycle, or a class that no line
            names.
    """
    label = f"--class-tree: {file}"
    try:
        lines = read_text(file, "--class-tree: ", "utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{label}: cannot read it ({error})") from None
    parents: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        names = [name.strip() for name in line.split("\t")]
        if len(names) != 2 or not all(names):
            raise UserError(f"{label}, line {number}: write a name, a tab and the name of its parent")
        child, parent = names
        if parents.setdefault(child, parent) != parent:
            raise UserError(
                f'{label}, line {number}: "{child}" has two parents, "{parents[child]}" and "{parent}"; a tree has one'
            )
    missing = [name for name in class_names if name not in parents]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f'{label} has no line for the class "{missing[0]}"{more}')
    inner = set(parents.values()) & set(class_names)
    if inner:
        raise UserError(
            f'{label}: the class "{min(inner)}" is the parent of another name; classes must be leaves'
        )
    return ClassTree(tuple(_path(name, parents, label) for name in class_names))


def _path(name: str, parents: Mapping[str, str], label: str) -> tuple[str, ...]:
    """Return the names above a class, from its parent to the root."""
    path: list[str] = []
    node = name
    while node in parents:
        node = parents[node]
        if node in path:
            raise UserError(f'{label}: "{node}" is above itself')
        path.append(node)
    return (*path, ROOT)
