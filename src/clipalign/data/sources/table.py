"""One table of rows behind every input of image files: folders, CSV, published sets, hubs, shards."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ...backbone.text.features import DEFAULT_TEMPLATES, clean_class_names
from ...core.errors import UserError
from ...core.types import Interpolation, Preprocess, Source, Stage
from ..decode import File, evaluation_view, fault, printable, read_image, said, stack, training_view

# What a split is called in folders and columns -> the part it stands for.
PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


_any_names: ContextVar[bool] = ContextVar("any_names", default=False)


@contextmanager
def any_names() -> Iterator[None]:
    """Inside, tables take class names that no model can tell apart: for `data check`, which reports them all."""
    token = _any_names.set(True)
    try:
        yield
    finally:
        _any_names.reset(token)


class ImageRecord(NamedTuple):
    """One image.

    Attributes:
        key: its name in the data set (a path relative to the root), by which split files and errors name it.
        label: the class as the data write it; `names` may give it another name.
        domain: "" where the data have no domains.
        part: "train", "validation" or "test" where the data come with a split, else "".
        caption: "" for none.
        size: bytes, which enter the fingerprint.
    """

    key: str
    label: str
    domain: str = ""
    part: str = ""
    caption: str = ""
    size: int = 0


@dataclass(frozen=True)
class FilesUnder:
    """Row number -> file: names below a folder."""

    root: Path
    keys: tuple[str, ...]

    def __call__(self, row: int) -> Path:
        return self.root / self.keys[row]


class ImageTable(Source):
    """A `Source` over rows of image files.

    Training views are random crops of 70-100 % of the area, flipped half of the time; at evaluation the
    shorter side is resized and the centre cropped (the transforms of CLIPood and AlignCLIP, and by default
    their bilinear interpolation). A view depends on (seed, draw, row) alone.

    Args:
        name: of the data set.
        rows: in the order that splits count them by.
        file: row number -> its file.
        labels: classes in order, where sorting is not it; may name classes without rows.
        domains: the same for domains.
        names: label -> the class name in prompts; labels that are not in it stay as they are.
        templates: prompt templates of the data set.
        max_broken: largest share of files, of those an episode uses, that may fail to decode and be skipped.

        identity: what else tells these data from others, for the fingerprint.

    Attributes:
        keys: of the rows.
        paper_templates: those of the AlignCLIP paper, where they differ from `templates`.
        parts: "train", "validation", "test" -> rows, where the data come with a split.
        captions: of the rows, where the data have them.

    Raises:
        UserError: no rows, a row without a label, class names that are the same to a model.
    """

    interpolation: Interpolation | None = "bilinear"

    def __init__(
        self,
        name: str,
        rows: Sequence[ImageRecord],
        file: Callable[[int], File],
        *,
        labels: Sequence[str] | None = None,
        domains: Sequence[str] | None = None,
        names: Mapping[str, str] | None = None,
        templates: Sequence[str] = DEFAULT_TEMPLATES,
        max_broken: float = 0.01,
        identity: str = "",
    ) -> None:
        self.name, self.file, self.max_broken = name, file, max_broken
        self.templates = tuple(templates)
        if not rows:
            raise UserError(f"--data: no images in {printable(name)}")
        columns = list(zip(*rows, strict=True))
        self.keys: tuple[str, ...] = columns[0]
        self.sizes: tuple[int, ...] = columns[5]
        known = sorted(set(columns[1])) if labels is None else list(labels)
        self.labels = positions(columns[1], known)
        self.class_names = self.named(known, names)
        given = [domain or name for domain in columns[2]]
        self.domain_names = tuple(sorted(set(given)) if domains is None else domains)
        self.domains = positions(given, self.domain_names)
        if any(columns[3]):
            self.parts = {
                part: np.flatnonzero(np.asarray(columns[3]) == part)
                for part in ("train", "validation", "test")
            }
        if any(columns[4]):
            self.captions = columns[4]
        self.identity = identity
        self._faults: dict[int, str | None] = {}

    def named(self, labels: Sequence[str], names: Mapping[str, str] | None) -> tuple[str, ...]:
        """Class names of labels, checked."""
        if names and not any(label in names for label in labels):
            raise UserError(
                f'--class-names: none of the classes of {self.name} is in it (such as "{labels[0]}")'
            )
        found = tuple((names or {}).get(label, label) for label in labels)
        if _any_names.get():
            return found
        for name in found:
            if printable(name) != name:
                raise UserError(
                    f'--data {self.name}: the class name "{printable(name)}" is not UTF-8; rename it'
                )
        try:
            clean_class_names(found)
        except UserError as error:
            raise UserError(f"--data {self.name}: {error}, or map them with --class-names") from None
        return found

    def images(
        self, rows: np.ndarray, stage: Stage, draws: np.ndarray, seed: int, preprocess: Preprocess
    ) -> Tensor:
        """See `Source.images`.

        Raises:
            UserError: a file that does not decode.
        """
        shown = []
        for row, draw in zip(rows.tolist(), draws.tolist(), strict=True):
            image = read_image(self.file(row), self.keys[row])
            if stage == "train":
                shown.append(training_view(image, np.random.default_rng([seed, draw, row]), preprocess))
            else:
                shown.append(evaluation_view(image, preprocess))
        return stack(shown, preprocess)

    def broken(self, rows: np.ndarray) -> dict[int, str]:
        """Rows whose files are no images -> why; see `decode.fault` for what is found.

        Raises:
            UserError: a larger share than `max_broken`.
        """
        missing = [row for row in rows.tolist() if row not in self._faults]
        with ThreadPoolExecutor(8) as pool:  # most of the time goes into waiting for the disk
            found = pool.map(lambda row: fault(self.file(row)), missing)
            self._faults |= dict(zip(missing, found, strict=True))
        broken = {row: why for row in rows.tolist() if (why := self._faults[row]) is not None}
        if len(broken) > self.max_broken * len(rows):
            shown = "; ".join(f"{printable(self.keys[row])} ({why})" for row, why in list(broken.items())[:3])
            raise UserError(
                f"--data {self.name}: {len(broken)} of {len(rows)} images do not decode, more than --max-broken "
                f"{self.max_broken:g} allows: {shown}{' ...' if len(broken) > 3 else ''}; "
                "`clipalign data check` lists them all"
            )
        return broken

    def fingerprint(self) -> str:
        """SHA-256 of every row's name, size, class, domain, part and caption."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        part_of = {int(row): part for part, rows in (self.parts or {}).items() for row in rows}
        digest = hashlib.sha256(self.identity.encode())
        for row, (key, size) in enumerate(zip(self.keys, self.sizes, strict=True)):
            facts = (
                key,
                str(size),
                self.class_names[self.labels[row]],
                self.domain_names[self.domains[row]],
                part_of.get(row, ""),
                self.captions[row] if self.captions else "",
            )
            digest.update("\0".join(facts).encode("utf-8", "surrogateescape") + b"\n")
        return digest.hexdigest()


def positions(values: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """Index of each value in `known`: [n] int64."""
    index = {value: i for i, value in enumerate(known)}
    return np.fromiter((index[value] for value in values), dtype=np.int64, count=len(values))


def part_named(name: str, where: str) -> str:
    """The part that a split's name stands for.

    Raises:
        UserError: none; `where` says in which file and line.
    """
    if name.lower() not in PARTS:
        raise UserError(f'--data: {where}: split is "{name}", not one of train, validation, test')
    return PARTS[name.lower()]


def looks_like_id(name: str) -> bool:
    """Whether a class name says nothing to a text encoder: a number, a WordNet id, a code."""
    return re.fullmatch(r"[a-z]{0,3}[-_]?\d+|class[-_ ]?\d+|[0-9a-f]{8,}", name, re.IGNORECASE) is not None


def read_names(path: Path) -> dict[str, str]:
    """A class-name file: JSON {label: name}; or lines of label and name, with a comma between in a .csv, else
    with a tab or the line's first blank.

    ImageNet's `classnames.txt` (`n01440764 tench`) is of the last form.

    Raises:
        UserError: unreadable, or a line without a name.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            return {str(label): str(name) for label, name in json.loads(text).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"--class-names: cannot read {path} ({said(error)})") from None
    names = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        label, between, name = line.partition(
            "," if path.suffix.lower() == ".csv" else "\t" if "\t" in line else " "
        )
        if not (between and label.strip() and name.strip()):
            raise UserError(f'--class-names: {path}, line {number}: "{line}" is not a label and a name')
        names[label.strip()] = name.strip()
    return names
