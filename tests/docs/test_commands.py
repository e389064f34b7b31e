"""The commands and the Python code shown in the documentation are valid."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from clipalign.commands.cli import COMMANDS, main
from clipalign.core.errors import UserError
from clipalign.protocols import list_protocols
from clipalign.runs.options import train_options

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "configs" / "README.md", *(ROOT / "docs").rglob("*.md")])
STUDIES = sorted((ROOT / "configs" / "studies").glob("*.yaml"))


def shell_lines(text: str) -> Iterator[str]:
    """Yield the lines of shell code blocks (fenced as sh or indented), with continuation lines joined."""
    for block in re.findall(r"^```sh\n(.*?)^```|((?:^    [^\n]*\n)+)", text, re.M | re.S):
        yield from re.sub(r"\\\n\s*", "", "".join(block)).splitlines()


def commands(text: str) -> list[list[str]]:
    """Return the arguments of every clipalign command in shell blocks, and of those with options in `inline code`.

    Commands with placeholders, such as `clipalign COMMAND --help`, are left out.
    """
    lines = [line.strip() for line in shell_lines(text)]
    inline = re.findall(r"(?<!`)`(clipalign [^`;]+)`", text)
    lines += [" ".join(code.split()) for code in inline if " --" in code or code.split()[1] not in COMMANDS]
    found = [line for line in lines if line.startswith("clipalign ")]
    return [
        shlex.split(line, comments=True)[1:]
        for line in found
        if not re.search(r"(?<![\w./-])[A-Z]{3,}(?![\w./-])", line)
    ]


class Parsed(Exception):
    """Raised in place of running a command whose options were parsed."""


def problem(arguments: list[str]) -> str | None:
    """Parse a command without running it; return the message of the error, or None."""
    name, *rest = arguments
    if name in ("--help", "--version"):
        return None
    if name not in COMMANDS:
        return f"unknown command {name}"
    _, module, function = COMMANDS[name]
    run = getattr(import_module(module), function)
    home = sys.modules[run.__module__]
    try:
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
            if name == "train":
                chosen = train_options(rest).flat()["protocol"]
                return None if chosen in (None, *list_protocols()) else f"unknown protocol {chosen}"
            parse = home.parse_config
            patch.setattr(home, "parse_config", lambda *given: raise_parsed(parse(*given)))
            run(rest, f"clipalign {name}")
    except (Parsed, SystemExit):  # SystemExit: help was printed
        return None
    except UserError as error:
        return str(error)
    return None


def raise_parsed(options: object) -> None:
    """Stop a command after its options were parsed."""
    raise Parsed(options)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_on_page_are_valid(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    elsewhere = set(
        re.findall(r'^([\w-]+) = "[\w:.]+"', text, re.M)
    )  # entry points of other packages shown on the page
    shown = [command for command in commands(text) if not elsewhere & set(command)]
    faults = {shlex.join(command): problem(command) for command in shown}
    assert {command: fault for command, fault in faults.items() if fault} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_on_page_compiles_and_imports(page: Path) -> None:
    for code in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("clipalign"):
                module = import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.stem)
def test_study_is_valid_and_opens_with_its_command(study: Path, tmp_path: Path) -> None:
    first = study.read_text(encoding="utf-8").splitlines()[0]
    arguments = shlex.split(first.removeprefix("# "))[1:]
    assert arguments[arguments.index("--config") + 1] == str(study.relative_to(ROOT))
    assert problem(arguments) is None
    assert main(["sweep", "--config", str(study), "--out", str(tmp_path), "--dry-run"]) == 0


def test_pages_show_commands() -> None:
    shown = {page.stem: len(commands(page.read_text(encoding="utf-8"))) for page in PAGES}
    assert shown["README"] >= 0 and shown["tutorial"] >= 10 and shown["sweeps"] >= 3


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("trian --data x", "trian"),
        ("train --out a --dat x", "--dat"),
        ("train --out a --method erm --margin 1", "--margin"),
        ("train --out a --method nope", "nope"),
        ("train --out a --protocol nope", "nope"),
        ("train --out a --schedule linear", "--schedule"),
        ("train --out a --lr -1", "--lr"),
        ("data check x --roots y", "--roots"),
        ("data chekc x", "chekc"),
        ("explain runs/a photo.jpg --text a --out", "--out"),
    ],
)
def test_invalid_commands_are_found(command: str, fault: str) -> None:
    assert fault in (problem(shlex.split(command)) or "")


def test_commands_are_read_from_blocks_and_inline_code() -> None:
    text = "Use `clipalign list methods`, `clipalign list\n --help` or\n\n"
    text += "    clipalign eval a \\\n        --out b  # c\n\n```sh\nclipalign demo\n```\n"
    assert commands(text) == [["eval", "a", "--out", "b"], ["demo"], ["list", "--help"]]
