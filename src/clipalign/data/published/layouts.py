"""Layouts of published image sets: each reader returns the records, the ordered labels and the class names."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...backbone.text.features import clean_class_names
from ...core.errors import UserError
from ...core.reading import read_json
from ..decode import file_size
from ..sources.class_names import read_class_names
from ..sources.folder import sorted_files
from ..sources.table import ImageRecord
from .declarations import SHIFT_MEMBERS, ImageSet, image_sets

logger = logging.getLogger(__name__)

CLASS_NAMES = "classnames.txt"

Contents = tuple[list[ImageRecord], list[str], dict[str, str]]  # records, ordered labels, label -> class name


def read_domains(declared: ImageSet, base: Path) -> Contents:
    """DomainBed: FOLDER/DOMAIN/CLASS/image, ordered by domain, class and file name."""
    records = []
    for domain in declared.domains:
        if not (base / domain).is_dir():
            raise declared.error(f"no folder {base / domain}")
        records += [record._replace(domain=domain) for record in class_records(base, domain)]
    return records, sorted({record.label for record in records}), {}


def read_split(declared: ImageSet, base: Path) -> Contents:
    """CoOp: records in the order of the split file, which also names the classes."""
    path = base / str(declared.split)
    if not path.is_file():
        if declared.split_needed:
            raise declared.error(f"no {path}, the split file that defines classes and parts")
        logger.warning(
            "no %s: the protocol cuts %s itself, which is not the published split", path, declared.title
        )
        found = class_records(base, declared.images)
        records = [record for record in found if record.label not in declared.drop]
        return records, sorted({record.label for record in records}), dict(declared.rename)
    try:
        content = read_json(path)
        listed = [
            (part, str(image), int(label), str(name))
            for key, part in (("train", "train"), ("val", "validation"), ("test", "test"))
            for image, label, name in content[key]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a split file of train, val and test ({error!r})") from None
    # Reversed, since the first name of a label counts.
    names = {label: name for _, _, label, name in reversed(listed)}
    records = []
    for part, image, label, _ in listed:
        if image.startswith("/") or ".." in image.split("/"):
            raise UserError(f"{path}: {image} leads out of the folder of images")
        key = os.path.normpath(f"{declared.images}/{image}").replace(os.sep, "/")
        records.append(ImageRecord(key, str(label), part=part, size=file_size(base / key)))
    renamed = {str(label): declared.rename.get(name, name) for label, name in names.items()}
    return records, [str(label) for label in sorted(names)], renamed


def read_lists(declared: ImageSet, base: Path) -> Contents:
    """FGVC Aircraft: lists of `ID VARIANT`; variants.txt defines the order of the classes."""

    def lines(name: str) -> list[str]:
        try:
            return (base / name).read_text(encoding="utf-8").splitlines()
        except OSError:
            raise declared.error(f"no {base / name}") from None

    records = []
    for part, suffix in (("train", "train"), ("validation", "val"), ("test", "test")):
        for line in lines(f"images_variant_{suffix}.txt"):
            number, _, variant = line.strip().partition(" ")
            key = f"{declared.images}/{number}.jpg"
            records.append(ImageRecord(key, variant, part=part, size=file_size(base / key)))
    labels = [line.strip() for line in lines("variants.txt") if line.strip()]
    if unknown := {record.label for record in records} - set(labels):
        raise UserError(f"{base}: {sorted(unknown)[0]} is not in variants.txt")
    return records, labels, {}


def read_imagenet(declared: ImageSet, base: Path) -> Contents:
    """ImageNet: training images, and validation images as the test part; classes by WordNet id."""
    records = []
    for folder, part in (("train", "train"), ("val", "test")):
        found = class_records(base, f"{declared.images}/{folder}")
        records += [record._replace(part=part) for record in found]
    labels = sorted({record.label for record in records})
    return records, labels, wordnet_names(declared, base, labels)


def read_wnids(declared: ImageSet, base: Path) -> Contents:
    """Variants of ImageNet: test images in folders named by WordNet id."""
    records = [record._replace(part="test") for record in class_records(base, declared.images)]
    labels = sorted({record.label for record in records})
    return records, labels, wordnet_names(declared, base, labels)


def read_numbers(declared: ImageSet, base: Path) -> Contents:
    """ImageNet-V2: test images in folders named by class number, ordered as numbers ("2" before "10")."""
    records = [record._replace(part="test") for record in class_records(base, declared.images)]
    for label in (record.label for record in records):
        if not label.isdecimal() or int(label) >= declared.classes:
            raise declared.error(
                f"its folders should be the numbers 0 to {declared.classes - 1}, but one is {label}"
            )
    records.sort(key=lambda record: int(record.label))
    labels = [str(number) for number in range(declared.classes)]
    path = class_name_file(base)
    # In the order of WordNet ids, the k-th name is that of class k.
    names = [name for _, name in sorted(read_class_names(path).items())] if path is not None else []
    return records, labels, distinct_names(dict(zip(labels, names or imagenet_names(), strict=False)))


READERS = {
    "domains": read_domains,
    "split": read_split,
    "lists": read_lists,
    "imagenet": read_imagenet,
    "wnids": read_wnids,
    "numbers": read_numbers,
}


def class_records(base: Path, folder: str) -> list[ImageRecord]:
    """Return the records of `base/folder/CLASS/image` by class and file name, with keys relative to `base`."""
    records = [
        ImageRecord(
            key=os.path.normpath(f"{folder}/{inner}/{name}").replace(os.sep, "/"),
            label=inner.split("/")[0],
            size=size,
        )
        for inner, name, size in sorted_files(base / folder)
        if inner
    ]
    return sorted(records, key=lambda record: record.label)  # stable: files stay in order


def class_name_file(base: Path) -> Path | None:
    """Return the classnames.txt of a set, or of another member of ImageNet's family next to it."""
    folders = [base, *(base.parent / image_sets()[name].folder for name in SHIFT_MEMBERS)]
    return next((path for folder in folders if (path := folder / CLASS_NAMES).is_file()), None)


def wordnet_names(declared: ImageSet, base: Path, wnids: Sequence[str]) -> dict[str, str]:
    """Return WordNet id -> class name, from classnames.txt, or CLIP's names if all 1000 ids are present.

    The k-th id in sorted order is class k, so no list of ids is needed.

    Raises:
        UserError: classnames.txt lacks a class, or is missing and the ids are incomplete.
    """
    path = class_name_file(base)
    if path is not None:
        names = distinct_names(dict(sorted(read_class_names(path).items())))
        if unnamed := [wnid for wnid in wnids if wnid not in names]:
            raise UserError(f"{path} has no line for {unnamed[0]}, a class of {declared.title}")
        return names
    all_wnids = wnids
    if len(wnids) != 1000:
        train = base.parent / image_sets()["imagenet"].folder / "images" / "train"
        all_wnids = sorted(entry.name for entry in train.iterdir()) if train.is_dir() else []
    if len(all_wnids) != 1000:
        raise declared.error(f"class names need {base / CLASS_NAMES}, or the one of ImageNet next to it")
    return distinct_names(dict(zip(all_wnids, imagenet_names(), strict=True)))


def imagenet_names() -> list[str]:
    """Return CLIP's names of ImageNet's 1000 classes, in the order of their WordNet ids."""
    from open_clip import IMAGENET_CLASSNAMES

    return list(IMAGENET_CLASSNAMES)


def distinct_names(names: Mapping[str, str]) -> dict[str, str]:
    """Append " 2" to the second of two equal names, of which ImageNet has two pairs.

    Published evaluations keep both equal, so one class of each pair is never predicted.
    """
    seen: set[str] = set()
    distinct = {}
    for label, name in names.items():
        cleaned = clean_class_names([name])[0].lower()
        distinct[label] = f"{name} 2" if cleaned in seen else name
        seen.add(cleaned)
    return distinct
