"""Help texts: grouped by topic, complete, and short enough to read."""

from __future__ import annotations

import re

import pytest

from clipalign.commands.cli import COMMANDS, Command, find, main
from clipalign.core.config import TrainConfig
from clipalign.core.fields import options_of
from clipalign.methods import get_method, list_methods

COMMANDS_WITH_OPTIONS = {
    **{name: command for name, command in COMMANDS.items() if command.options},
    **{
        f"{name} {member}": inner
        for name, command in COMMANDS.items()
        for member, inner in command.members.items()
    },
}


def help_text(capsys: pytest.CaptureFixture[str], *tokens: str) -> str:
    """Return what a command prints before it exits with status 0."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(tokens)
    assert stop.value.code == 0
    return capsys.readouterr().out


def flags(text: str) -> set[str]:
    """Return the flags that entries of a help text begin with, both flags of a switch."""
    heads = re.findall(r"^  (--\S+|-h, --help)", text, re.MULTILINE)
    return {flag.replace("[no-]", no) for flag in heads for no in ("", "no-")}


@pytest.mark.parametrize("method", list_methods())
def test_help_of_train_is_short_and_lists_every_option(
    method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_text(capsys, "train", "--method", method, "--help")
    lines = text.splitlines()
    assert len(lines) < 120 and max(map(len, lines)) <= 80
    topics = re.findall(r"^(\S[^:\n]*):$", text, re.MULTILINE)
    wanted = [
        "Method and model",
        "Recipe",
        "Data",
        "Split",
        "Optimiser",
        "Schedule",
        "Weight averaging",
        "Evaluation",
        "Run",
    ]
    assert topics[:9] == wanted and topics[-1] == "General"
    own = options_of(get_method(method).Config)
    assert (f"Method {method}" in topics) == bool(own)
    assert {f"--{name.replace('_', '-')}" for name in [*options_of(TrainConfig), *own]} <= flags(text)


@pytest.mark.parametrize("name", COMMANDS_WITH_OPTIONS)
def test_help_of_every_command_lists_its_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command: Command = COMMANDS_WITH_OPTIONS[name]
    text = help_text(capsys, *name.split(), "--help")
    assert text.startswith(f"usage: clipalign {name}") and max(map(len, text.splitlines())) <= 80
    for option in options_of(find(command.options)).values():
        shown = option.name.upper() if option.facts.positional else f"--{option.name.replace('_', '-')}"
        assert re.search(rf"^  {shown.replace('--', '--(?:.no-.)?')}\b", text, re.MULTILINE), shown
        assert option.summary, f"{shown} has no docstring"


def test_help_shows_the_defaults_of_the_method_and_the_backbone(capsys: pytest.CaptureFixture[str]) -> None:
    measured = help_text(capsys, "train", "--method", "alignclip", "--help")
    published = help_text(capsys, "train", "--method", "alignclip", "--backbone", "ViT-B-16:openai", "--help")
    assert "Optimiser steps [5000]" in published and "Optimiser steps [5000]" not in measured
    assert "[5e-06]" in published


def test_help_all_prints_details_reasons_and_effects(capsys: pytest.CaptureFixture[str]) -> None:
    short = help_text(capsys, "train", "--help")
    text = " ".join(help_text(capsys, "train", "--help-all").split())
    assert "Source of the default: CLIPood, AlignCLIP." in text and "CLIPood, AlignCLIP" not in short
    assert "Does not affect the result." in text and "Choices: cosine, constant." in text
    assert "a finished run is left unchanged" in text and "a finished run" not in short


def test_overview_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^  {name} +\S", text, re.MULTILINE) for name in COMMANDS)
    assert main([]) == 2
    assert capsys.readouterr().out == text
