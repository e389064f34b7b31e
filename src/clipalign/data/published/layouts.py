"""Published image sets as their makers lay them out: the rows of each, the order of its labels, their names."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...backbone.text.features import clean_class_names
from ...core.errors import UserError
from ..decode import file_size
from ..sources.folder import sorted_files
from ..sources.table import ImageRecord, read_names
from .declarations import SHIFT_MEMBERS, Declaration, declarations

logger = logging.getLogger(__name__)

CLASS_NAMES = "classnames.txt"

Read = tuple[list[ImageRecord], list[str], dict[str, str]]  # rows, labels in order, label -> class name


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
        rows.append(ImageRecord(key, str(label), "", part, "", file_size(base / key)))
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
            rows.append(ImageRecord(key, variant, "", part, "", file_size(base / key)))
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


def class_rows(base: Path, folder: str) -> list[ImageRecord]:
    """Rows of `base/folder/CLASS/image`, by class and file name; keys start at `base`."""
    found = [
        (levels.split("/")[0], f"{folder}/{levels}/{name}", size)
        for levels, name, size in sorted_files(base / folder)
        if levels
    ]
    found.sort(key=lambda item: item[0])  # stable: files keep their order
    return [
        ImageRecord(os.path.normpath(key).replace(os.sep, "/"), label, size=size)
        for label, key, size in found
    ]


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
