"""The commands and the Python code shown in the documentation are valid."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from clipalign.commands.cli import main
from clipalign.methods import list_methods
from clipalign.protocols import list_protocols

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "configs" / "README.md", *(ROOT / "docs").rglob("*.md")])
STUDIES = sorted((ROOT / "configs" / "studies").glob("*.yaml"))
SUBCOMMANDS = {"data": ("check", "list", "prepare"), "bench": ("methods",)}


def shell_lines(text: str) -> Iterator[str]:
    """Yield the lines of shell code blocks (fenced as sh or indented), with continuation lines joined."""
    for block in re.findall(r"^```sh\n(.*?)^```|((?:^    [^\n]*\n)+)", text, re.M | re.S):
        yield from re.sub(r"\\\n\s*", "", "".join(block)).splitlines()


def commands(text: str) -> list[list[str]]:
    """Return the arguments of every clipalign command in shell blocks and `inline code`."""
    lines = [line.strip() for line in shell_lines(text)]
    lines += [" ".join(code.split()) for code in re.findall(r"(?<!`)`(clipalign [^`;]+)`", text)]
    found = [line for line in lines if line.startswith("clipalign ")]
    return [shlex.split(line, comments=True)[1:] for line in found if not re.search(r"\b[A-Z]{3,}\b", line)]


def helped(arguments: list[str]) -> list[str]:
    """Return the tokens that print the help for a command: its name, subcommand and method."""
    name, *rest = arguments
    tokens = [name, *(token for token in rest[:1] if token in SUBCOMMANDS.get(name, ()))]
    if name == "train" and "--method" in rest:
        tokens += ["--method", rest[rest.index("--method") + 1]]
    return [*tokens, "--help"]


@cache
def help_text(tokens: tuple[str, ...]) -> str:
    """Return the output of a help command."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            status = main(list(tokens))
        except SystemExit as end:
            status = int(end.code or 0)
    assert status == 0, tokens
    return out.getvalue()


def problems(arguments: list[str]) -> Iterator[str]:
    """Yield what is wrong with a command: unknown names, flags, methods, protocols or choices."""
    overview = help_text(("--help",))
    name = arguments[0]
    if name.startswith("-"):
        if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", overview) and name != "--version":
            yield name
        return
    if not re.search(rf"^ +{re.escape(name)} ", overview, re.M):
        yield name
        return
    values = dict(zip(arguments, [*arguments[1:], ""], strict=True))
    for flag, known in (("--method", list_methods()), ("--protocol", list_protocols())):
        if flag in values and values[flag] not in known:
            yield f"{flag} {values[flag]}"
            return
    text = help_text(tuple(helped(arguments)))
    for flag in (token for token in arguments if token.startswith("--") and token != "--help"):
        entries = re.findall(rf"(?<![\w-]){flag}(?![\w-])[ =]*(\{{[^}}\n]*\}}(?!\|))?", text)
        choices = {choice for entry in entries if entry for choice in entry.strip("{}").split(",")}
        if not entries:
            yield flag
        elif choices and values[flag] not in choices:
            yield f"{flag} {values[flag]}"


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
        ("trian --data x", "trian"),
        ("train --dat x", "--dat"),
        ("train --method erm --margin 1", "--margin"),
        ("train --method nope", "--method nope"),
        ("train --protocol nope", "--protocol nope"),
        ("train --schedule linear", "--schedule linear"),
        ("data check x --roots y", "--roots"),
    ],
)
def test_invalid_commands_are_found(command: str, fault: str) -> None:
    assert list(problems(shlex.split(command))) == [fault]


def test_commands_are_read_from_blocks_and_inline_code() -> None:
    text = "Use `clipalign list\nmethods` or\n\n    clipalign eval a \\\n        --out b  # c\n\n"
    text += "```sh\nclipalign demo\n```\n"
    assert commands(text) == [["eval", "a", "--out", "b"], ["demo"], ["list", "methods"]]
