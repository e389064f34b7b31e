"""The commands and the Python code shown in the documentation are valid."""

from __future__ import annotations

import ast
import contextlib
import io
import itertools
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from clipalign.commands.cli import COMMANDS, find, main
from clipalign.core.errors import UserError
from clipalign.core.parsing import OptionParser
from clipalign.methods import get_method
from clipalign.protocols import list_protocols
from clipalign.runs.options import train_parser

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
    complete = [line for line in found if not re.search(r"(?<![\w./-])[A-Z]{3,}(?![\w./-])", line)]
    split = [shlex.split(line, comments=True)[1:] for line in complete]
    return [tokens[: tokens.index(">")] if ">" in tokens else tokens for tokens in split]


def parser_of(arguments: list[str]) -> tuple[OptionParser, list[str]]:
    """Return the parser of a command, and the tokens after its name.

    Raises:
        UserError: an unknown command or method.
    """
    name, *rest = arguments
    command = COMMANDS.get(name)
    if command is not None and command.members:
        command, rest = command.members.get(rest[0]), rest[1:]
    if command is None:
        raise UserError(f"unknown command {shlex.join(arguments[:2])}")
    if name == "train":
        values = dict(itertools.pairwise(rest))
        return train_parser(get_method(values.get("--method", "alignclip"))), rest
    return OptionParser(f"clipalign {name}", find(command.options)), rest


def problems(arguments: list[str]) -> Iterator[str]:
    """Yield what is wrong with a command: an unknown name, option, method or protocol, or an invalid value."""
    if arguments in (["--help"], ["--version"]):
        return
    try:
        parser, tokens = parser_of(arguments)
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
            values = parser.parse(tokens)
            if values.get("protocol") not in (None, *list_protocols()):
                yield f"unknown protocol {values['protocol']}"
    except UserError as error:
        yield str(error)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_on_page_are_valid(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    elsewhere = set(
        re.findall(r'^([\w-]+) = "[\w:.]+"', text, re.M)
    )  # entry points of other packages shown on the page
    shown = [command for command in commands(text) if not elsewhere & set(command)]
    wrong = {shlex.join(command): list(problems(command)) for command in shown}
    assert {command: faults for command, faults in wrong.items() if faults} == {}


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
    assert list(problems(arguments)) == []
    assert main(["sweep", "--config", str(study), "--out", str(tmp_path), "--dry-run"]) == 0


def test_pages_show_commands() -> None:
    shown = {page.stem: len(commands(page.read_text(encoding="utf-8"))) for page in PAGES}
    assert shown["README"] >= 0 and shown["tutorial"] >= 10 and shown["sweeps"] >= 3


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("trian --data x", "unknown command trian"),
        ("train --dat x", "unknown option --dat;"),
        ("train --method erm --margin 1", "--margin is an option of --method"),
        ("train --method nope", "--method: unknown"),
        ("train --protocol nope", "unknown protocol nope"),
        ("train --schedule linear", "--schedule must be one of cosine, constant, not linear"),
        ("data check x --roots y", "unknown option --roots"),
        ("data chekc x", "unknown command data chekc"),
        ("explain runs/a photo.jpg --text a --out", "--out"),
    ],
)
def test_invalid_commands_are_found(command: str, fault: str) -> None:
    (problem,) = problems(shlex.split(command))
    assert fault in problem


def test_commands_are_read_from_blocks_and_inline_code() -> None:
    text = "Use `clipalign list methods`, `clipalign list\n --help` or\n\n"
    text += "    clipalign eval a \\\n        --out b  # c\n\n```sh\nclipalign demo\n```\n"
    assert commands(text) == [["eval", "a", "--out", "b"], ["demo"], ["list", "--help"]]
