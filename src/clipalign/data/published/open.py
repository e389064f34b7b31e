"""Open a published set below --data-root, and compare it with its published counts."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from ..captions.table import CaptionTable
from ..decode import file_size
from ..sources.table import DEFAULTS, FilesBelow, ImageRecord, ImageTable, TableOptions
from .caption_readers import find_images, read_annotations
from .declarations import SHIFT, SHIFT_MEMBERS, CaptionSet, ImageSet, image_sets
from .layouts import READERS, read_imagenet

logger = logging.getLogger(__name__)


def open_image_set(declared: ImageSet, root: Path, options: TableOptions = DEFAULTS) -> ImageTable:
    """Open a published image set below `root`; differences from the published counts are logged.

    Raises:
        UserError: it is missing, or not laid out as published.
    """
    base = root / declared.folder
    if not base.is_dir():
        raise declared.error(f"no folder {base}")
    records, labels, names = READERS[declared.layout](declared, base)
    if not records:
        raise declared.error(f"no images in {base}")
    table = ImageTable(
        declared.name,
        records,
        FilesBelow(base, tuple(record.key for record in records)),
        replace(options, class_names=names | dict(options.class_names or {})),
        labels=labels,
        domains=declared.domains or None,
        templates=(declared.template,),
    )
    if declared.paper_template is not None:
        table.paper_templates = (declared.paper_template,)
    for line in count_differences(declared, table):
        logger.warning("%s; results do not compare with published ones", line)
    return table


def open_imagenet_shift(root: Path, options: TableOptions = DEFAULTS) -> ImageTable:
    """Open ImageNet and its variants below `root` as one data set: each is a domain, classes are ImageNet's.

    Raises:
        UserError: ImageNet or all variants are missing.
    """
    members = [image_sets()[name] for name in SHIFT_MEMBERS]
    imagenet, *variants = members
    present = [member for member in members if (root / member.folder).is_dir()]
    if imagenet not in present:
        raise imagenet.error(f"no folder {root / imagenet.folder}")
    if len(present) < 2:
        raise variants[0].error(f"no variant of ImageNet in {root}")
    _, labels, names = read_imagenet(imagenet, root / imagenet.folder)
    records: list[ImageRecord] = []
    for member in present:
        found, _, _ = READERS[member.layout](member, root / member.folder)
        for record in found:
            label = labels[int(record.label)] if member.layout == "numbers" else record.label
            if label not in names:
                raise member.error(f"{label} is not a class of the ImageNet in {root / imagenet.folder}")
            key = f"{member.folder}/{record.key}"
            records.append(record._replace(key=key, label=label, domain=member.name))
    return ImageTable(
        SHIFT,
        records,
        FilesBelow(root, tuple(record.key for record in records)),
        replace(options, class_names=names | dict(options.class_names or {})),
        labels=labels,
        domains=[member.name for member in present],
    )


def count_differences(declared: ImageSet, table: ImageTable) -> Iterator[str]:
    """Yield one line for each difference between a set and its published counts."""
    if declared.domains:
        counts = np.bincount(table.domains, minlength=len(declared.domains)).tolist()  # [domains]
    else:
        sizes = {part: len(rows) for part, rows in (table.parts or {}).items()}
        counts = [sizes.get(part, 0) for part in ("train", "validation", "test")]
    if len(table.class_names) != declared.classes:
        yield f"{declared.title}: {len(table.class_names)} classes, {declared.classes} published"
    if counts not in declared.counts:
        published = " or ".join("/".join(map(str, numbers)) for numbers in declared.counts)
        parts = "/".join(declared.domains or ("train", "validation", "test"))
        yield f"{declared.title} ({parts}): {'/'.join(map(str, counts))} images, {published} published"


def open_caption_set(declared: CaptionSet, root: Path, options: TableOptions = DEFAULTS) -> CaptionTable:
    """Open a published caption set below `root`; differences from the published counts are logged.

    Raises:
        UserError: a file is missing, or not in its published form.
    """
    base = root / declared.folder
    if not (base / declared.annotations).exists() and (root / declared.annotations).exists():
        base = root
    annotations = base / declared.annotations
    if not annotations.exists():
        raise declared.error(f"no {annotations}")
    records = read_annotations(declared, annotations)
    first = next(records, None)
    if first is None:
        raise declared.error(f"no images in {annotations}")
    images = find_images(declared, base, first.key)
    # Keys are relative to the folder of images, which only the first record reveals, so sizes are added here.
    sized = (
        record._replace(size=record.size or file_size(images / record.key))
        for record in chain([first], records)
    )
    table = CaptionTable(
        declared.name, sized, lambda keys: FilesBelow(images, keys), options, test=declared.test
    )
    test = table.caption_tests("test")[0]
    counts = [len(test.rows), len(test.texts)]
    if declared.counts and counts != declared.counts:
        logger.warning(
            "%s: the test has %d images and %d captions, %d and %d published; results do not compare with published "
            "ones",
            *(declared.title, *counts, *declared.counts),
        )
    return table
