"""`clipalign data check`: what a data set holds, before any time is spent on training."""

from __future__ import annotations

import hashlib
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table as RichTable

from ..backbone.text.features import ambiguous_names, prompt_name
from ..core.config import DataOptions
from ..core.errors import UserError
from ..core.types import Preprocess, Source
from .captions.sentences import captions_only
from .decode import printable, read_image, said
from .sources.folder import ImageFolder
from .sources.table import ImageTable, looks_like_id

SHOWN = 20  # names printed of a long list


@dataclass(frozen=True)
class Findings:
    """What was found in a table.

    Attributes:
        counts: (domain, class) -> images.
        sizes: (width, height) -> images, of the files that decode.
        broken: row -> why it does not decode.
        duplicates: groups of rows with the same bytes.
        ids: class names that say nothing to a text encoder.
        same: groups of class names that are the same to a model.
        unusable: class names that cannot stand in a prompt.
    """

    counts: Counter[tuple[str, str]]
    sizes: Counter[tuple[int, int]]
    broken: dict[int, str]
    duplicates: list[list[int]]
    ids: list[str]
    same: list[list[str]]
    unusable: list[str]

    @property
    def refused(self) -> bool:
        """Whether training refuses the class names."""
        return bool(self.same or self.unusable)


def examine(source: ImageTable) -> Findings:
    """Decode every image of a table, and compare their bytes."""
    sizes: Counter[tuple[int, int]] = Counter()
    broken: dict[int, str] = {}
    by_content: dict[bytes, list[int]] = defaultdict(list)
    for row in range(len(source)):
        try:
            file = source.file(row)
            content = file if isinstance(file, bytes) else file.read_bytes()
            by_content[hashlib.sha256(content).digest()].append(row)
            sizes[read_image(content, source.keys[row]).size] += 1
        except (UserError, OSError) as error:
            broken[row] = (
                said(error).rpartition("as an image: ")[2] if isinstance(error, UserError) else "no such file"
            )
    pairs = zip(source.domains.tolist(), source.labels.tolist(), strict=True)
    return Findings(
        Counter((source.domain_names[d], source.class_names[c]) for d, c in pairs),
        sizes,
        broken,
        [rows for rows in by_content.values() if len(rows) > 1 and rows[0] not in broken],
        [name for name in source.class_names if looks_like_id(name)],
        ambiguous_names(source.class_names),
        [name for name in source.class_names if printable(name) != name or not prompt_name(name)],
    )


def report(source: Source, options: DataOptions, sheet: Path | None, seed: int = 0) -> list[str]:
    """Print what a data set holds.

    Args:
        source: the data set.
        options: those that name the data set, for the training command printed.
        sheet: PNG file for three random rows, or None.
        seed: of their draw.

    Returns:
        The problems found, one line each, as printed.

    Raises:
        UserError: after all is printed, if training would refuse the class names.
    """
    console = Console(highlight=False, soft_wrap=True)
    say = lambda line: console.print(line, markup=False)  # noqa: E731
    images, classes, domains = len(source.labels), len(source.class_names), len(source.domain_names)
    say(f"{printable(source.name)}: {images} images, {domains} domain(s), {classes} class(es)")
    problems: list[str] = []
    refused = False
    if isinstance(source, ImageTable):
        found = examine(source)
        for line in facts(source, found):
            say(line)
        lines = count_lines(source, found)
        if not console.is_terminal:
            lines.box = None
        console.print(lines)
        problems, refused = list(problem_lines(source, found)), found.refused
        for problem in problems:
            console.print(problem, markup=False, style="yellow")
        if not problems:
            say("No broken files, no duplicates, no class names that look like ids.")
    if sheet is not None:
        draw_sheet(source, sheet, seed)
        say(f"Three random rows: {sheet}")
    say(f"To train{', once the class names are mended' if refused else ''}:")
    say(f"  {printable(shlex.join(training_command(source, options)))}")
    if refused:
        raise UserError(
            f"--data {printable(source.name)}: the class names listed above cannot be trained on; rename the classes, "
            "or map them with --class-names FILE"
        )
    return problems


def facts(source: ImageTable, found: Findings) -> Iterator[str]:
    """Layout, split and sizes."""
    if isinstance(source, ImageFolder):
        yield f"First level of folders: {source.layout} (--layout)"
    if source.parts is not None:
        yield "Split: " + ", ".join(f"{part} {len(rows)}" for part, rows in source.parts.items())
    else:
        yield "Split: none in the data; the protocol cuts it"
    if found.sizes:
        sides = np.array(list(found.sizes.elements()))
        low, middle, high = (np.quantile(sides, q, axis=0, method="nearest") for q in (0, 0.5, 1))
        width, height = found.sizes.most_common(1)[0][0]
        yield (
            f"Sizes: width {low[0]} to {high[0]} (median {middle[0]}), height {low[1]} to {high[1]} "
            f"(median {middle[1]}); most often {width} x {height}"
        )


def count_lines(source: ImageTable, found: Findings) -> RichTable:
    """Images of each class, by domain or by part."""
    columns: dict[str, Counter[str]] = {}
    for domain in source.domain_names:
        columns[domain] = Counter({c: n for (d, c), n in found.counts.items() if d == domain})
    for part, rows in (source.parts or {}).items():
        columns[part] = Counter(source.class_names[label] for label in source.labels[rows])
    lines = RichTable("class", *map(printable, columns))
    for name in source.class_names[: 5 * SHOWN]:
        lines.add_row(printable(name), *(str(count[name]) for count in columns.values()))
    if len(source.class_names) > 5 * SHOWN:
        lines.add_row(f"... {len(source.class_names) - 5 * SHOWN} more")
    lines.add_section()
    lines.add_row("all", *(str(sum(count.values())) for count in columns.values()))
    return lines


def problem_lines(source: ImageTable, found: Findings) -> Iterator[str]:
    """What to mend or to know of."""

    def key(row: int) -> str:
        return printable(source.keys[row])

    def some(lines: list[str]) -> str:
        more = [f"... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        return "".join(f"\n  {line}" for line in [*lines[:SHOWN], *more])

    if found.broken:
        share = 100 * len(found.broken) / len(source)
        yield f"{len(found.broken)} broken files ({share:.1f} %), which training skips:" + some(
            [f"{key(row)}: {why}" for row, why in found.broken.items()]
        )
    if found.duplicates:
        lines = [" = ".join(key(row) for row in rows) for rows in found.duplicates]
        yield f"{len(found.duplicates)} groups of files with the same content:" + some(lines)
    mixed = [rows for rows in found.duplicates if len({int(source.labels[row]) for row in rows}) > 1]
    if mixed:
        yield f"{len(mixed)} of them in different classes:" + some(
            [" = ".join(map(key, rows)) for rows in mixed]
        )
    if found.same:
        lines = [" = ".join(f'"{name}"' for name in group) for group in found.same]
        yield f"{len(found.same)} groups of class names are the same to a model:" + some(lines)
    if found.unusable:
        names = [f'"{printable(name)}"' for name in found.unusable]
        yield f"{len(names)} class names are empty to a model or not UTF-8: {', '.join(names[:SHOWN])}"
    if found.ids:
        yield (
            f"{len(found.ids)} class names look like ids, which say nothing to a text encoder; "
            f"name them with --class-names FILE: {', '.join(found.ids[:SHOWN])}"
        )
    present = Counter(source.labels.tolist())
    few = [f"{name} ({present[c]})" for c, name in enumerate(source.class_names) if present[c] < 5]
    if few:
        yield f"{len(few)} classes have fewer than 5 images, too few for some splits: {', '.join(few[:SHOWN])}"
    for d, domain in enumerate(source.domain_names):
        have = set(source.labels[source.domains == d].tolist())
        lack = [name for c, name in enumerate(source.class_names) if c not in have]
        if lack:
            yield f"{domain} has no images of {len(lack)} classes: {', '.join(lack[:SHOWN])}"


def training_command(source: Source, options: DataOptions) -> list[str]:
    """The command that trains on a data set: leave one domain out where there are several, learn from captions
    where there are no classes."""
    tokens = ["clipalign", "train", "--data", options.data]
    for name, value in (
        ("--data-root", options.data_root),
        ("--layout", options.layout),
        ("--class-names", options.class_names),
    ):
        if value not in (None, "auto"):
            tokens += [name, str(value)]
    if options.data_options:
        tokens += ["--data-options", *options.data_options]
    if captions_only(source):
        return [*tokens, "--method", "smartclip", "--backbone", "ViT-B-16:openai", "--out", "runs/first"]
    if len(source.domain_names) > 1:
        tokens += ["--protocol", "domain-shift", "--target", source.domain_names[-1]]
    elif source.parts is not None or len(source.class_names) < 4:
        tokens += ["--protocol", "few-shot"]
    else:
        tokens += ["--protocol", "base-to-new"]
    return [*tokens, "--method", "alignclip", "--backbone", "ViT-B-16:openai", "--out", "runs/first"]


def draw_sheet(source: Source, path: Path, seed: int) -> None:
    """Three random rows with their names, cropped as a model sees them."""
    side, margin = 224, 8
    preprocess = Preprocess((side, side), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")
    rows = np.random.default_rng(seed).permutation(len(source.labels))
    drawn: list[tuple[int, Image.Image]] = []
    for row in rows.tolist():
        if len(drawn) == 3:
            break
        try:
            view = source.images(np.array([row]), "test", np.zeros(1, np.int64), 0, preprocess)[0]
        except UserError:
            continue
        pixels = (view.clamp(0, 1).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        drawn.append((row, Image.fromarray(pixels)))
    sheet = Image.new("RGB", (margin + len(drawn) * (side + margin), side + 60), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (row, picture) in enumerate(drawn):
        left = margin + i * (side + margin)
        sheet.paste(picture, (left, margin))
        name, domain = source.class_names[source.labels[row]], source.domain_names[source.domains[row]]
        pen.text(
            (left, side + margin + 6), f"{printable(name)}\n{printable(domain)}\nrow {row}", fill="black"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
