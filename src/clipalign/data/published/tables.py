"""Published image sets, read from where users have them and compared with what is published of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..sources.table import FilesUnder, ImageRecord, ImageTable
from .declarations import SHIFT, SHIFT_MEMBERS, Declaration, declarations, declared
from .layouts import READERS, read_imagenet

__all__ = ["SHIFT", "Declaration", "declarations", "declared", "differences", "open_published", "open_shift"]

logger = logging.getLogger(__name__)


def open_published(declaration: Declaration, root: Path, **settings: Any) -> ImageTable:
    """A published set below `root`; `settings` are those of `ImageTable`.

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
    table = ImageTable(
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


def open_shift(root: Path, **settings: Any) -> ImageTable:
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
    rows: list[ImageRecord] = []
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
    return ImageTable(SHIFT, rows, keys, labels=labels, domains=domains, names=names, **settings)


def differences(declaration: Declaration, table: ImageTable) -> Iterator[str]:
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
