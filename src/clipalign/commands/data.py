"""`clipalign data check | prepare | list`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..core.config import DataOptions, Options, facts
from ..core.errors import UserError
from ..core.parsing import make_config, parse_config
from ..data.check import report
from ..data.published.archives import prepare
from ..data.published.declarations import find_image_set, image_sets
from ..data.registry import source_from

USAGE = """usage: clipalign data check DATA [OPTIONS]     check a data set before training
       clipalign data prepare NAME [OPTIONS]   lay out a published set from its archives
       clipalign data list                     list published sets, their licences and sources"""


@dataclass(frozen=True)
class CheckConfig(Options):
    """Print totals, counts, sizes, broken and duplicate files and doubtful class names, and how to train."""

    data: str = field(metadata=facts(positional=True))
    """Data set, as in `clipalign train --data`."""
    data_root: Path | None = field(default=None, metadata=facts(unit="DIR"))
    """Folder of published sets, or of a table's images."""
    data_options: tuple[str, ...] = field(default=(), metadata=facts(unit="K=V"))
    """Settings of the data set."""
    layout: Literal["auto", "class", "domain", "split"] = "auto"
    """First folder level: auto, class, domain or split."""
    class_names: Path | None = field(default=None, metadata=facts(unit="FILE"))
    """Display names of classes."""
    sheet: Path | None = field(default=Path("data-check.png"), metadata=facts(unit="FILE"))
    """Picture of three random rows; None: no picture."""
    seed: int = field(default=0, metadata=facts(unit="SEED", at_least=0))
    """Seed of these rows."""

    def source_options(self) -> DataOptions:
        """Return the options that name the data set."""
        return DataOptions(
            data=self.data,
            data_root=self.data_root,
            data_options=self.data_options,
            layout=self.layout,
            class_names=self.class_names,
        )


@dataclass(frozen=True)
class PrepareConfig:
    """Unpack the archives of a published set in the layout of its authors, and verify the counts."""

    name: str = field(metadata=facts(positional=True))
    """Name in `clipalign data list`."""
    archive: tuple[Path, ...] = field(default=(), metadata=facts(unit="FILE"))
    """Archives as downloaded (tar, zip). Other files, such as CoOp's split file, are copied next to the images."""
    root: Path = field(default=Path("data"), metadata=facts(unit="DIR"))
    """Folder of published sets, the later --data-root."""
    exclude: Path | None = field(default=None, metadata=facts(unit="FILE"))
    """Text file of images to leave out. For example DomainBed's list of duplicates in DomainNet."""

    def __post_init__(self) -> None:
        if not self.archive:
            raise UserError("data prepare needs --archive FILE [FILE ...]")


@dataclass(frozen=True)
class ListConfig:
    """Print the published sets, their licences and where to get them."""


def run_data(tokens: Sequence[str], prog: str = "clipalign data") -> None:
    """Run one of the commands of this group."""
    commands = {"check": run_check, "prepare": run_prepare, "list": run_list}
    name = tokens[0] if tokens else "--help"
    if name in ("-h", "--help"):
        print(USAGE)
    elif name in commands:
        commands[name](tokens[1:], f"{prog} {name}")
    else:
        raise UserError(f'data: unknown command "{name}"; choose one of: {", ".join(commands)}')


def check_data(
    data: str | Path,
    *,
    data_root: str | Path | None = None,
    data_options: Sequence[str] = (),
    layout: Literal["auto", "class", "domain", "split"] = "auto",
    class_names: str | Path | None = None,
    sheet: str | Path | None = "data-check.png",
    seed: int = 0,
) -> list[str]:
    """Print what a data set holds, as `clipalign data check` does.

    Args:
        data: as --data of `clipalign train`.

    The keywords are the options of the command line; see `CheckConfig`.

    Returns:
        The problems, as printed.

    Raises:
        UserError: data that cannot be opened; or, after the whole report, class names that training refuses.
    """
    return check(make_config(CheckConfig, locals()))


def run_check(tokens: Sequence[str], prog: str = "clipalign data check") -> list[str]:
    """Check a data set as a command line says; returns the problems."""
    return check(parse_config(CheckConfig, tokens, prog))


def check(config: CheckConfig) -> list[str]:
    """Check a data set; see `check_data`."""
    options = config.source_options()
    source = source_from(options, check_names=False)
    return report(source, options, config.sheet, config.seed)


def run_prepare(tokens: Sequence[str], prog: str = "clipalign data prepare") -> None:
    """Lay out a published set.

    Raises:
        UserError: invalid input, or counts that differ from the published ones; the files are kept then.
    """
    config = parse_config(PrepareConfig, tokens, prog)
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


def run_list(tokens: Sequence[str], prog: str = "clipalign data list") -> None:
    """Print the published sets, their licences and where to get them."""
    parse_config(ListConfig, tokens, prog)
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
