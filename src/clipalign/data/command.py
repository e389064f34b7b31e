"""`clipalign data check | prepare | list`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from ..config import at_least
from ..errors import UserError
from ..options import parse_config

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


def run_data(arguments: Sequence[str], prog: str = "clipalign data") -> None:
    """Run a sub-command."""
    what = arguments[0] if arguments else "--help"
    if what in ("-h", "--help"):
        print(USAGE)
    elif what == "check":
        run_check(arguments[1:], f"{prog} check")
    else:
        raise UserError(f'data: unknown command "{what}"; choose one of: check, prepare, list')


def run_check(arguments: Sequence[str], prog: str = "clipalign data check") -> list[str]:
    """Check a data set; returns the problems found."""
    from . import source_from
    from .check import report

    config = parse_config(CheckConfig, arguments, prog)
    return report(source_from(vars(config)), vars(config), config.sheet, config.seed)
