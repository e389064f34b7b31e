"""--template is the user's choice: a method either uses it or refuses it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clipalign.commands.cli import main
from clipalign.core.errors import UserError
from clipalign.methods import Method, all_methods, get_method
from clipalign.protocols.names_only import NamesOnly, names_episode
from tests.helpers.prompts import NAMES, backbone, batch_of

TEMPLATES = ("a photo of a {}.", "something else about the {}")


@pytest.mark.parametrize("cls", all_methods(), ids=lambda cls: cls.name)
def test_the_flag_says_what_predictions_do(cls: type[Method]) -> None:
    """Other templates in `setup` change predictions of those that use templates, and of no others.

    Linear heads on the trained classes are made without text by some options and with it by others.
    """
    logits = []
    for template in TEMPLATES:
        method = cls()
        torch.manual_seed(0)
        method.setup(backbone(), names_episode(NamesOnly("", NAMES, ("a",), (template,))), (template,))
        with torch.no_grad():
            logits.append(method.classifier(NAMES, (template,))(batch_of().images))
    if cls.name in ("lp-ft", "erm-linear-head", "miro", "coral", "swad"):
        assert cls.uses_templates
        return
    assert torch.equal(*logits) is not cls.uses_templates


@pytest.mark.parametrize("name", ["coop", "cocoop", "maple", "promptsrc", "dpl", "linear-probe"])
def test_a_template_that_would_be_ignored_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"--template does not apply to --method {name}"):
        get_method(name).check_template(("a {}.",))
    get_method(name).check_template(())


def test_train_refuses_before_anything_is_written(
    tiny_spec: str, squares_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--method", "coop", "--data", str(squares_folder), "--target", "grey"]
    arguments += ["--protocol", "domain-shift"]
    arguments += [
        "--backbone",
        tiny_spec,
        "--steps",
        "2",
        "--batch-size",
        "4",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main([*arguments, "--template", "a {}."]) == 2
    assert "--template does not apply to --method coop" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main(arguments) == 0  # the templates of the data are nobody's mistake
    evaluate = ["eval", str(tmp_path / "run"), "--data", str(squares_folder), "--template", "a {}."]
    assert main([*evaluate, "--out", str(tmp_path / "scores")]) == 2
