"""`clipalign data check`: report the contents and the problems of a data set before training."""

from __future__ import annotations

import hashlib
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table as RichTable

from ..backbone.text.features import ambiguous_names, prompt_name
from ..core.config import DataOptions
from ..core.errors import UserError
from ..core.types import Source
from .captions.sentences import captions_only
from .contact_sheet import draw_sheet
from .decode import HEIC_HINT, printable, read_image
from .sources.class_names import looks_like_id
from .sources.folder import ImageFolder, empty_classes, heic_files
from .sources.table import ImageTable

LISTED = 20  # names printed of a longer list
TABLE_ROWS = 100  # classes printed in the table of counts
TINY = 32  # pixels; a shorter side below it is mostly interpolation at 224 pixels
ELONGATED = 3  # ratio of the sides; the centre crop of evaluation shows less than a third of such an image
HUGE = 50e6  # pixels; decoding takes about a second


@dataclass(frozen=True)
class Findings:
    """Results of decoding all images of a table.

    Attributes:
        counts: (domain, class) -> number of images.
        sizes: (width, height) -> number of images, of the files that decode.
        unusual: kind of unusual size -> (row, width, height) of its images.
        broken: row -> reason why it does not decode.
        duplicates: groups of rows with identical files.
        ids: class names that look like identifiers.
        ambiguous: groups of class names that are the same to a model.
        unusable: class names that are empty in a prompt, or not UTF-8.
    """

    counts: Counter[tuple[str, str]]
    sizes: Counter[tuple[int, int]]
    unusual: dict[str, list[tuple[int, int, int]]]
    broken: dict[int, str]
    duplicates: list[list[int]]
    ids: list[str]
    ambiguous: list[list[str]]
    unusable: list[str]

    @property
    def blocks_training(self) -> bool:
        """Whether training rejects the class names."""
        return bool(self.ambiguous or self.unusable)


def examine(source: ImageTable) -> Findings:
    """Decode every image, compare all files, and inspect the class names."""
    sizes: Counter[tuple[int, int]] = Counter()
    unusual: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    broken: dict[int, str] = {}
    rows_of: dict[bytes, list[int]] = defaultdict(list)
    for row in range(len(source)):
        file = source.file(row)
        try:
            content = file if isinstance(file, bytes) else file.read_bytes()
            rows_of[hashlib.sha256(content).digest()].append(row)
            width, height = read_image(content, source.keys[row]).size
            sizes[width, height] += 1
            if kind := unusual_size(width, height):
                unusual[kind].append((row, width, height))
        except (UserError, OSError) as error:
            reason = str(error).rpartition("as an image: ")[2]
            broken[row] = reason if isinstance(error, UserError) else "no such file"
    pairs = zip(source.domains.tolist(), source.labels.tolist(), strict=True)
    return Findings(
        counts=Counter((source.domain_names[d], source.class_names[c]) for d, c in pairs),
        sizes=sizes,
        unusual=unusual,
        broken=broken,
        duplicates=[rows for rows in rows_of.values() if len(rows) > 1 and rows[0] not in broken],
        ids=[name for name in source.class_names if looks_like_id(name)],
        ambiguous=ambiguous_names(source.class_names),
        unusable=[name for name in source.class_names if printable(name) != name or not prompt_name(name)],
    )


def unusual_size(width: int, height: int) -> str | None:
    """Return why an image size is doubtful, or None."""
    if min(width, height) < TINY:
        return f"smaller than {TINY} pixels, so that models see mostly interpolation"
    if max(width, height) > ELONGATED * min(width, height):
        return f"longer than {ELONGATED} times their width, of which models see only the centre"
    return f"above {HUGE / 1e6:g} megapixels, which are slow to decode" if width * height > HUGE else None


def report(source: Source, options: DataOptions, sheet: Path | None, seed: int = 0) -> list[str]:
    """Print the contents and the problems of a data set.

    Args:
        source: the data set.
        options: describe the data set; repeated in the training command that is printed.
        sheet: file to write a contact sheet by class to, or None.
        seed: of their draw.

    Returns:
        The problems, as printed.

    Raises:
        UserError: after the whole report, if training would reject the class names.
    """
    console = Console(highlight=False, soft_wrap=True)

    def out(line: str, style: str | None = None) -> None:
        console.print(line, markup=False, style=style)

    images, domains, classes = len(source), len(source.domain_names), len(source.class_names)
    out(f"{printable(source.name)}: {images} images, {domains} domain(s), {classes} class(es)")
    problems: list[str] = []
    blocked = False
    if isinstance(source, ImageTable):
        findings = examine(source)
        for line in summary_lines(source, findings):
            out(line)
        table = count_table(source, findings)
        if not console.is_terminal:
            table.box = None
        console.print(table)
        problems, blocked = list(problem_lines(source, findings)), findings.blocks_training
        for problem in problems:
            out(problem, style="yellow")
        if not problems:
            out("No broken files, no duplicates, no unusual sizes, no class names that look like ids.")
    if sheet is not None:
        drawn = draw_sheet(source, sheet, seed)
        out(f"Contact sheet of {drawn} of {classes} class(es): {sheet}")
    out(f"To train{', after fixing the class names' if blocked else ''}:")
    out(f"  {printable(shlex.join(training_command(source, options)))}")
    if blocked:
        raise UserError(
            f"--data {printable(source.name)}: the class names listed above cannot be trained on; rename the classes, "
            "or map them with --class-names FILE"
        )
    return problems


def summary_lines(source: ImageTable, findings: Findings) -> Iterator[str]:
    """Yield lines on layout, split and image sizes."""
    if isinstance(source, ImageFolder):
        yield f"First level of folders: {source.layout} (--layout)"
    if source.parts is not None:
        yield "Split: " + ", ".join(f"{part} {len(rows)}" for part, rows in source.parts.items())
    else:
        yield "Split: none in the data; the protocol makes one"
    if source.groups is not None:
        yield f"Groups: {len(set(source.groups))}, none of which a split divides"
    if findings.sizes:
        sides = np.array(list(findings.sizes.elements()))  # [images, 2]
        low, middle, high = (np.quantile(sides, q, axis=0, method="nearest") for q in (0, 0.5, 1))
        width, height = findings.sizes.most_common(1)[0][0]
        yield (
            f"Sizes: width {low[0]} to {high[0]} (median {middle[0]}), height {low[1]} to {high[1]} "
            f"(median {middle[1]}); most common {width} x {height}"
        )


def count_table(source: ImageTable, findings: Findings) -> RichTable:
    """Return the number of images per class, by domain and by part."""
    columns: dict[str, Counter[str]] = {}
    for domain in source.domain_names:
        columns[domain] = Counter({c: n for (d, c), n in findings.counts.items() if d == domain})
    for part, rows in (source.parts or {}).items():
        columns[part] = Counter(source.class_names[label] for label in source.labels[rows])
    table = RichTable("class", *map(printable, columns))
    for name in source.class_names[:TABLE_ROWS]:
        table.add_row(printable(name), *(str(count[name]) for count in columns.values()))
    if len(source.class_names) > TABLE_ROWS:
        table.add_row(f"... {len(source.class_names) - TABLE_ROWS} more")
    table.add_section()
    table.add_row("all", *(str(sum(count.values())) for count in columns.values()))
    return table


def problem_lines(source: ImageTable, findings: Findings) -> Iterator[str]:
    """Yield the problems, most serious first."""

    def key(row: int) -> str:
        return printable(source.keys[row])

    def equal_files(groups: Sequence[Sequence[int]]) -> str:
        return _indented([" = ".join(map(key, rows)) for rows in groups])

    if broken := findings.broken:
        share = 100 * len(broken) / len(source)
        yield f"{len(broken)} broken files ({share:.1f} %), which training skips:" + _indented(
            [f"{key(row)}: {reason}" for row, reason in broken.items()]
        )
    if isinstance(source, ImageFolder):
        if heic := heic_files(source.root):
            yield f"{len(heic)} HEIC files are ignored; {HEIC_HINT}:" + _indented([*map(printable, heic)])
        if empty := empty_classes(source.root, source.layout):
            yield f"{len(empty)} class folders have no images:" + _indented([*map(printable, empty)])
    for kind, images_of in findings.unusual.items():
        yield f"{len(images_of)} images are {kind}:" + _indented(
            [f"{key(row)}: {width} x {height}" for row, width, height in images_of]
        )
    if findings.duplicates:
        yield f"{len(findings.duplicates)} groups of identical files:" + equal_files(findings.duplicates)
    mixed = [rows for rows in findings.duplicates if len({int(source.labels[row]) for row in rows}) > 1]
    if mixed:
        yield f"{len(mixed)} of them in different classes:" + equal_files(mixed)
    if findings.ambiguous:
        groups = [" = ".join(f'"{name}"' for name in group) for group in findings.ambiguous]
        yield f"{len(groups)} groups of class names are the same to a model:" + _indented(groups)
    if findings.unusable:
        names = [f'"{printable(name)}"' for name in findings.unusable]
        yield f"{len(names)} class names are empty to a model or not UTF-8: {', '.join(names[:LISTED])}"
    if findings.ids:
        yield (
            f"{len(findings.ids)} class names look like ids, which mean nothing to a text encoder; "
            f"map them to names with --class-names FILE: {', '.join(findings.ids[:LISTED])}"
        )
    images = Counter(source.labels.tolist())
    if none := [name for c, name in enumerate(source.class_names) if not images[c]]:
        yield f"{len(none)} classes have no images: {', '.join(none[:LISTED])}"
    few = [f"{name} ({images[c]})" for c, name in enumerate(source.class_names) if 0 < images[c] < 5]
    if few:
        yield f"{len(few)} classes have fewer than 5 images, too few for some splits: {', '.join(few[:LISTED])}"
    for d, domain in enumerate(source.domain_names):
        present = set(source.labels[source.domains == d].tolist())
        absent = [name for c, name in enumerate(source.class_names) if c not in present]
        if absent:
            yield f"{domain} has no images of {len(absent)} classes: {', '.join(absent[:LISTED])}"


def _indented(lines: list[str]) -> str:
    more = [f"... and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
    return "".join(f"\n  {line}" for line in [*lines[:LISTED], *more])


def training_command(source: Source, options: DataOptions) -> list[str]:
    """Return the tokens of a training command for a data set.

    Data without classes train on captions; with several domains, the last one is left out.
    """
    tokens = ["clipalign", "train", "--data", options.data]
    for flag, value in (
        ("--data-root", options.data_root),
        ("--layout", options.layout),
        ("--class-names", options.class_names),
        ("--group-column", options.group_column),
    ):
        if value not in (None, "auto"):
            tokens += [flag, str(value)]
    if options.data_options:
        tokens += ["--data-options", *options.data_options]
    method = "alignclip"
    if captions_only(source):
        method = "smartclip"
    elif len(source.domain_names) > 1:
        tokens += ["--protocol", "domain-shift", "--target", source.domain_names[-1]]
    else:
        tokens += ["--protocol", "holdout"]
    return [*tokens, "--method", method, "--backbone", "ViT-B-16:openai", "--out", "runs/first"]
