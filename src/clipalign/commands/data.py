"""`clipalign data check | prepare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ..core.errors import UserError
from ..core.parsing import make_config, parse_config
from ..data.check import report
from ..data.published.archives import prepare
from ..data.published.declarations import find_image_set, image_sets
from ..data.registry import source_from
from .options import CheckConfig, PrepareConfig

USAGE = """usage: clipalign data check DATA [OPTIONS]     check a data set before training
       clipalign data prepare NAME [OPTIONS]   lay out a published set from its archives

`clipalign list data` lists the data sets, their licences and sources."""


def run_data(tokens: Sequence[str], prog: str = "clipalign data") -> None:
    """Run one of the commands of this group."""
    commands = {"check": run_check, "prepare": run_prepare}
    name = tokens[0] if tokens else "--help"
    if name in ("-h", "--help"):
        print(USAGE)
    elif name in commands:
        commands[name](tokens[1:], f"{prog} {name}")
    elif name == "list":
        raise UserError("data list: the command is `clipalign list data`")
    else:
        raise UserError(f'data: unknown command "{name}"; choose one of: {", ".join(commands)}')


def check_data(
    data: str | Path,
    *,
    data_root: str | Path | None = None,
    data_options: Sequence[str] = (),
    layout: Literal["auto", "class", "domain", "split"] = "auto",
    class_names: str | Path | None = None,
    group_column: str | None = None,
    sheet: str | Path | None = None,
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
