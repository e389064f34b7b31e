"""`clipalign data check | prepare | list`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from ..core.config import at_least
from ..core.errors import UserError
from ..data.check import report
from ..data.published.archives import prepare
from ..data.published.declarations import find_image_set, image_sets
from ..data.registry import source_from
from ..runs.options import parse_config, to_arguments

USAGE = """usage: clipalign data check DATA [OPTIONS]     what a data set holds, before training
       clipalign data prepare NAME [OPTIONS]   lay out a published set from its archives
       clipalign data list                     published sets, their licences and where to get them"""


@dataclass(frozen=True)
class CheckConfig:
    """Print totals, counts, sizes, broken and duplicate files, doubtful class names, and how to train."""

    data: Positional[str]
    """As `clipalign train --data` takes it."""
    data_root: Path | None = None
    """Folder that holds published sets, or that a table's relative paths start from."""
    data_options: tuple[str, ...] = ()
    """KEY=VALUE settings of the data set."""
    layout: Literal["auto", "class", "domain", "split"] = "auto"
    """What the first level of a folder is: classes, domains, or train, validation and test."""
    class_names: Path | None = None
    """File that gives classes other names."""
    sheet: Path | None = Path("data-check.png")
    """Picture of three random rows to write; None for no picture."""
    seed: int = 0
    """Seed of the draw of these rows."""

    def check(self) -> None:
        """Raise UserError for the first value out of range."""
        at_least(self, 0, "seed")


@dataclass(frozen=True)
class PrepareConfig:
    """Unpack the archives of a published set, lay it out as its makers do, and verify the counts."""

    name: Positional[str]
    """A name of `clipalign data list`."""
    archive: tuple[Path, ...] = ()
    """Archives (tar, zip) as downloaded; other files, such as CoOp's split file, are copied beside the images."""
    root: Path = Path("data")
    """Folder of published sets, the later --data-root."""
    exclude: Path | None = None
    """Text file of images to leave out, such as DomainBed's list of duplicates in DomainNet."""

    def check(self) -> None:
        """Raise UserError without archives."""
        if not self.archive:
            raise UserError("data prepare needs --archive FILE [FILE ...]")


def run_data(arguments: Sequence[str], prog: str = "clipalign data") -> None:
    """Run a sub-command."""
    what = arguments[0] if arguments else "--help"
    if what in ("-h", "--help"):
        print(USAGE)
    elif what == "check":
        run_check(arguments[1:], f"{prog} check")
    elif what == "prepare":
        run_prepare(arguments[1:], f"{prog} prepare")
    elif what == "list":
        list_published()
    else:
        raise UserError(f'data: unknown command "{what}"; choose one of: check, prepare, list')


def check_data(data: str | Path, **options: Any) -> list[str]:
    """Print what a data set holds, as `clipalign data check` does.

    Args:
        data: as `clipalign train --data` takes it.
        options: those of the command line with underscores.

    Returns:
        The problems found, as printed.

    Raises:
        UserError: as `run_check`.
    """
    return run_check(to_arguments(CheckConfig, {"data": data, **options}))


def run_check(arguments: Sequence[str], prog: str = "clipalign data check") -> list[str]:
    """Check a data set; returns the problems found.

    Raises:
        UserError: data that cannot be opened; or, after the whole report, class names that training refuses.
    """
    config = parse_config(CheckConfig, arguments, prog)
    source = source_from(vars(config), check_names=False)
    return report(source, vars(config), config.sheet, config.seed)


def run_prepare(arguments: Sequence[str], prog: str = "clipalign data prepare") -> None:
    """Lay out a published set.

    Raises:
        UserError: bad input, or counts that are not the published ones; the files are kept then.
    """
    config = parse_config(PrepareConfig, arguments, prog)
    declaration = find_image_set(config.name)
    if declaration is None:
        raise UserError(
            f'data prepare: unknown set "{config.name}"; choose one of: {", ".join(image_sets())}'
        )
    problems = prepare(declaration, config.archive, config.root, config.exclude)
    where = f"{declaration.title} is laid out in {config.root / declaration.folder}"
    if problems:
        raise UserError(
            f"{where}, but its numbers will not compare with published ones: {'; '.join(problems)}"
        )
    print(f"{where}; its counts are the published ones")
    print(f"Licence: {declaration.licence}")
    print(f"To check:\n  clipalign data check {declaration.name} --data-root {config.root}")


def list_published() -> None:
    """Print what published.yaml declares."""
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console(highlight=False)
    if console.is_terminal:
        lines = RichTable(
            "name", "folder", "classes", "images", "template", "licence", "get it from", show_lines=True
        )
        for d in image_sets().values():
            images = " or ".join(str(sum(counts)) for counts in d.counts)
            lines.add_row(d.name, d.folder, str(d.classes), images, d.template, d.licence, d.obtain)
        console.print(lines)
        return
    for d in image_sets().values():
        images = " or ".join("/".join(map(str, counts)) for counts in d.counts)
        parts = ", ".join(d.domains) or "train, validation, test"
        print(f"{d.name}: {d.title}, {d.classes} classes; {parts}: {images} images")
        print(f"  folder {d.folder}; template {d.template}")
        print(f"  licence: {d.licence}\n  from: {d.obtain}")
