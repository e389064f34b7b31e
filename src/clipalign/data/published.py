"""Published image sets, read from where users have them; `published.yaml` declares each."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..errors import UserError
from ..text import DEFAULT_TEMPLATES, clean_class_names
from .folder import sorted_files
from .table import FilesUnder, Row, Table, read_names

logger = logging.getLogger(__name__)

SHIFT = "imagenet-shift"  # ImageNet and its variants as domains of one data set
SHIFT_MEMBERS = ("imagenet", "imagenet-v2", "imagenet-sketch", "imagenet-a", "imagenet-r")
CLASS_NAMES = "classnames.txt"


@dataclass(frozen=True)
class Declaration:
    """What is known of a published set; the head of published.yaml says what each field means."""

    name: str
    title: str
    layout: str
    folder: str
    classes: int
    counts: list[list[int]]
    licence: str
    obtain: str
    images: str = "."
    domains: list[str] = field(default_factory=list)
    split: str | None = None
    split_needed: bool = False
    drop: list[str] = field(default_factory=list)
    rename: dict[str, str] = field(default_factory=dict)
    template: str = DEFAULT_TEMPLATES[0]
    paper_template: str | None = None
    unpacked: str | None = None

    def fail(self, what: str) -> UserError:
        """An error that says where the set comes from."""
        return UserError(
            f"--data {self.name}: {what}. Get it from: {self.obtain} (licence: {self.licence}); then "
            f"`clipalign data prepare {self.name} --archive FILE --root DIR`"
        )


@lru_cache
def declarations() -> dict[str, Declaration]:
    """All published sets by name."""
    content = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))
    return {name: Declaration(name, **facts) for name, facts in content.items()}


def declared(name: str) -> Declaration | None:
    """A set by its name, title or folder, however it is written: OfficeHome, office_home, office-home."""

    def squashed(text: str) -> str:
        return re.sub(r"[^a-z0-9]", "", text.lower())

    for declaration in declarations().values():
        if squashed(name) in map(squashed, (declaration.name, declaration.title, declaration.folder)):
            return declaration
    return None


def open_published(declaration: Declaration, root: Path, **settings: Any) -> Table:
    """A published set below `root`; `settings` are those of `Table`.

    Raises:
        UserError: it is not there, or not laid out as its makers do.
    """
    base = root / declaration.folder
    if not base.is_dir():
        raise declaration.fail(f"no folder {base}")
    rows, labels, names = READERS[declaration.layout](declaration, base)
    if not rows:
        raise declaration.fail(f"no images in {base}")
    names |= settings.pop("names", None) or {}
    table = Table(
        declaration.name,
        rows,
        FilesUnder(base, tuple(row.key for row in rows)),
        labels=labels,
        domains=declaration.domains or None,
        names=names,
        templates=(declaration.template,),
        **settings,
    )
    table.paper_templates = (declaration.paper_template or declaration.template,)
    for line in differences(declaration, table):
        logger.warning("%s; its numbers do not compare with published ones", line)
    return table


def open_shift(root: Path, **settings: Any) -> Table:
    """ImageNet with those of its variants that are below `root`, each a domain, in one list of classes.

    Raises:
        UserError: no ImageNet, or none of the variants.
    """
    members = [declarations()[name] for name in SHIFT_MEMBERS]
    present = [member for member in members if (root / member.folder).is_dir()]
    if members[0] not in present:
        raise members[0].fail(f"no folder {root / members[0].folder}")
    if len(present) < 2:
        raise members[1].fail(f"no variant of ImageNet in {root}")
    _, labels, names = read_imagenet(members[0], root / members[0].folder)
    rows: list[Row] = []
    for member in present:
        found, _, _ = READERS[member.layout](member, root / member.folder)
        for row in found:
            label = labels[int(row.label)] if member.layout == "numbers" else row.label
            if label not in names:
                raise member.fail(f"{label} is no class of the ImageNet in {root / members[0].folder}")
            rows.append(row._replace(key=f"{member.folder}/{row.key}", label=label, domain=member.name))
    names = names | (settings.pop("names", None) or {})
    keys = FilesUnder(root, tuple(row.key for row in rows))
    domains = [member.name for member in present]
    return Table(SHIFT, rows, keys, labels=labels, domains=domains, names=names, **settings)


def differences(declaration: Declaration, table: Table) -> Iterator[str]:
    """Where a set differs from what is published of it, one line each."""
    if declaration.domains:
        found = np.bincount(table.domains, minlength=len(declaration.domains)).tolist()
    else:
        sizes = {part: len(rows) for part, rows in (table.parts or {}).items()}
        found = [sizes.get(part, 0) for part in ("train", "validation", "test")]
    if len(table.class_names) != declaration.classes:
        yield f"{declaration.title}: {len(table.class_names)} classes, {declaration.classes} published"
    if found not in declaration.counts:
        published = " or ".join("/".join(map(str, counts)) for counts in declaration.counts)
        of = "/".join(declaration.domains or ("train", "validation", "test"))
        yield f"{declaration.title} ({of}): {'/'.join(map(str, found))} images, {published} published"


Read = tuple[list[Row], list[str], dict[str, str]]  # rows, labels in order, label -> class name


def read_domains(declaration: Declaration, base: Path) -> Read:
    """DomainBed: FOLDER/DOMAIN/CLASS/image; rows by domain, class and file name."""
    rows = []
    for domain in declaration.domains:
        if not (base / domain).is_dir():
            raise declaration.fail(f"no folder {base / domain}")
        rows += [row._replace(domain=domain) for row in class_rows(base, domain)]
    return rows, sorted({row.label for row in rows}), {}


def read_split(declaration: Declaration, base: Path) -> Read:
    """CoOp: rows in the order of the split file, which also gives labels their names."""
    path = base / str(declaration.split)
    if not path.is_file():
        if declaration.split_needed:
            raise declaration.fail(f"no {path}, the split file that gives classes and parts")
        logger.warning(
            "no %s: the protocol cuts %s, which is not the published split", path, declaration.title
        )
        rows = [row for row in class_rows(base, declaration.images) if row.label not in declaration.drop]
        return rows, sorted({row.label for row in rows}), dict(declaration.rename)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        listed = [
            (part, str(image), int(label), str(name))
            for key, part in (("train", "train"), ("val", "validation"), ("test", "test"))
            for image, label, name in content[key]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a split file of train, val and test ({error!r})") from None
    names = {label: name for _, _, label, name in reversed(listed)}  # the first name given counts
    rows = []
    for part, image, label, _ in listed:
        if image.startswith("/") or ".." in image.split("/"):
            raise UserError(f"{path}: {image} leads out of the folder of images")
        key = os.path.normpath(f"{declaration.images}/{image}").replace(os.sep, "/")
        rows.append(Row(key, str(label), "", part, "", file_size(base / key)))
    shown = {str(label): declaration.rename.get(name, name) for label, name in names.items()}
    return rows, [str(label) for label in sorted(names)], shown


def read_lists(declaration: Declaration, base: Path) -> Read:
    """FGVC Aircraft: lists of `ID VARIANT`; the order of variants.txt is that of the classes."""

    def lines(name: str) -> list[str]:
        try:
            return (base / name).read_text(encoding="utf-8").splitlines()
        except OSError:
            raise declaration.fail(f"no {base / name}") from None

    rows = []
    for part, suffix in (("train", "train"), ("validation", "val"), ("test", "test")):
        for line in lines(f"images_variant_{suffix}.txt"):
            number, _, variant = line.strip().partition(" ")
            key = f"{declaration.images}/{number}.jpg"
            rows.append(Row(key, variant, "", part, "", file_size(base / key)))
    labels = [line.strip() for line in lines("variants.txt") if line.strip()]
    if unknown := {row.label for row in rows} - set(labels):
        raise UserError(f"{base}: {sorted(unknown)[0]} is not in variants.txt")
    return rows, labels, {}


def read_imagenet(declaration: Declaration, base: Path) -> Read:
    """ImageNet: training images, and the validation images as test; classes by WordNet id."""
    rows = []
    for folder, part in (("train", "train"), ("val", "test")):
        rows += [row._replace(part=part) for row in class_rows(base, f"{declaration.images}/{folder}")]
    labels = sorted({row.label for row in rows})
    return rows, labels, wordnet_names(declaration, base, labels)


def read_wnids(declaration: Declaration, base: Path) -> Read:
    """A variant of ImageNet: test images by WordNet id."""
    rows = [row._replace(part="test") for row in class_rows(base, declaration.images)]
    labels = sorted({row.label for row in rows})
    return rows, labels, wordnet_names(declaration, base, labels)


def read_numbers(declaration: Declaration, base: Path) -> Read:
    """ImageNet-V2: folders are numbers, which are the labels; as text, "10" would come before "2"."""
    rows = [row._replace(part="test") for row in class_rows(base, declaration.images)]
    if odd := [
        row.label for row in rows if not row.label.isdecimal() or int(row.label) >= declaration.classes
    ]:
        raise declaration.fail(f"a folder {odd[0]}, where numbers from 0 to {declaration.classes - 1} belong")
    rows.sort(key=lambda row: int(row.label))
    labels = [str(number) for number in range(declaration.classes)]
    path = class_name_file(base)
    listed = sorted(read_names(path).items()) if path is not None else []
    named = [name for _, name in listed] or imagenet_names()
    return rows, labels, distinct(dict(zip(labels, named, strict=False)))


READERS = {
    "domains": read_domains,
    "split": read_split,
    "lists": read_lists,
    "imagenet": read_imagenet,
    "wnids": read_wnids,
    "numbers": read_numbers,
}


def class_rows(base: Path, folder: str) -> list[Row]:
    """Rows of `base/folder/CLASS/image`, by class and file name; keys start at `base`."""
    found = [
        (levels.split("/")[0], f"{folder}/{levels}/{name}", size)
        for levels, name, size in sorted_files(base / folder)
        if levels
    ]
    found.sort(key=lambda item: item[0])  # stable: files keep their order
    return [Row(os.path.normpath(key).replace(os.sep, "/"), label, size=size) for label, key, size in found]


def file_size(path: Path) -> int:
    """Bytes; 0 where there is no such file, which is then reported as broken."""
    return path.stat().st_size if path.is_file() else 0


def class_name_file(base: Path) -> Path | None:
    """classnames.txt of a set, or of another of its family beside it."""
    folders = [base, *(base.parent / declarations()[name].folder for name in SHIFT_MEMBERS)]
    return next((path for folder in folders if (path := folder / CLASS_NAMES).is_file()), None)


def wordnet_names(declaration: Declaration, base: Path, wnids: Sequence[str]) -> dict[str, str]:
    """WordNet id -> class name: from classnames.txt, else CLIP's own names if all 1000 ids are there.

    The k-th id in sorted order is class k, so that no list of ids is needed.
    """
    path = class_name_file(base)
    if path is not None:
        names = distinct(dict(sorted(read_names(path).items())))
        if unnamed := [wnid for wnid in wnids if wnid not in names]:
            raise UserError(f"{path} has no line for {unnamed[0]}, a class of {declaration.title}")
        return names
    siblings = wnids
    if len(wnids) != 1000:
        train = base.parent / declarations()["imagenet"].folder / "images" / "train"
        siblings = sorted(entry.name for entry in train.iterdir()) if train.is_dir() else []
    if len(siblings) != 1000:
        raise declaration.fail(f"class names need {base / CLASS_NAMES} (or that of ImageNet beside it)")
    return distinct(dict(zip(siblings, imagenet_names(), strict=True)))


def imagenet_names() -> list[str]:
    """CLIP's names of ImageNet's 1000 classes, in the order of their WordNet ids."""
    from open_clip import IMAGENET_CLASSNAMES

    return list(IMAGENET_CLASSNAMES)


def distinct(names: Mapping[str, str]) -> dict[str, str]:
    """Names that a model can tell apart: ImageNet has two pairs of equal ones; the second gets a "2".

    The published evaluations keep them equal, so that one of each pair is never predicted.
    """
    seen: set[str] = set()
    found = {}
    for label, name in names.items():
        plain = clean_class_names([name])[0].lower()
        found[label] = f"{name} 2" if plain in seen else name
        seen.add(plain)
    return found
