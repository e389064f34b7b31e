"""Completion scripts: of bash by completing with it, of other shells by their text."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from clipalign.commands.cli import COMMANDS, main

# Completes "$1", a command line, as bash does when TAB is pressed at its end.
COMPLETE = """
source "$SCRIPT"
words=($1); [[ "$1" == *" " ]] && words+=("")
COMP_WORDS=("${words[@]}"); COMP_CWORD=$((${#words[@]} - 1)); COMP_LINE="$1"; COMP_POINT=${#1}
_shtab_clipalign clipalign "${words[-1]}" "${words[-2]}" 2>/dev/null
echo "${COMPREPLY[*]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The completion script of bash."""
    path = tmp_path_factory.mktemp("completion") / "clipalign.bash"
    with path.open("w", encoding="utf-8") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", file)
        assert main(["completion", "bash"]) == 0
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("clipalign ", set(COMMANDS)),
        ("clipalign tr", {"train"}),
        ("clipalign train --optimi", {"--optimizer"}),
        ("clipalign train --optimizer ", {"adamw", "adam", "sgd"}),
        ("clipalign train --steps 3 --schedule co", {"cosine", "constant"}),
        ("clipalign train --no-keep", {"--no-keep-mlp"}),
        ("clipalign list ", {"methods", "data", "backbones", "protocols", "metrics", "exports", "trackers"}),
        ("clipalign data ", {"check", "prepare"}),
        ("clipalign data prepare --arch", {"--archive"}),
    ],
)
def test_bash_completes_commands_options_and_choices(line: str, wanted: set[str], script: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", line],
        env={"SCRIPT": str(script)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) == wanted


@pytest.mark.parametrize(("shell", "flag"), [("zsh", "--optimizer"), ("fish", "-l optimizer")])
def test_other_shells_get_every_command_and_choice(
    shell: str, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)
    assert flag in text and "adamw adam sgd" in text and "Peak learning rate" in text


def test_unknown_shell_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "elvish"]) == 2
    assert "one of bash, zsh, fish, not elvish" in capsys.readouterr().err
