"""The functions behind the controls, and the server's settings, without a browser."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clipalign.app.examples import write_examples
from clipalign.app.looks import PUBLISHED
from clipalign.app.models import PageModel, open_models
from clipalign.app.serve import free_port
from clipalign.app.session import PHOTO, Session
from clipalign.commands.cli import main
from clipalign.core.errors import UserError
from tests.helpers.families import write_family

NAMES = "red square, green square, blue square"


def test_missing_gradio_is_one_line_with_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "clipalign.app.page", raising=False)
    monkeypatch.delattr("clipalign.app.page", raising=False)
    assert main(["app", "--port", "0"]) == 2
    assert capsys.readouterr().err == 'error: clipalign app needs Gradio: pip install "clipalign[app]"\n'


def test_help_does_not_import_gradio() -> None:
    code = (
        "import contextlib, sys\n"
        "from clipalign.commands.cli import main\n"
        "main(['--help'])\n"
        "with contextlib.suppress(SystemExit):\n"
        "    main(['app', '--help'])\n"
        "print({'gradio', 'torch', 'open_clip'} & set(sys.modules))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "try models on photos in a browser" in result.stdout and "--port" in result.stdout
    assert result.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["--port", "70000"], "--port"),
        (["--share"], "unknown option --share"),
        (["--host", "256.1.1.1"], "--host 256.1.1.1"),
        (["pockett"], "pockett"),
        (["--device", "tpu"], "--device"),
    ],
)
def test_bad_options_are_one_line(
    tokens: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["app", *tokens]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_port_in_use_is_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: cannot listen"):
            free_port("127.0.0.1", port)
    assert free_port("127.0.0.1", 0) > 0


def test_examples_are_scenes_with_their_names_and_captions(tmp_path: Path) -> None:
    examples = write_examples(tmp_path)
    for example in examples:
        assert example.file.is_file() and list(example.names) == sorted(set(example.names))
        assert len(example.captions) >= 2 and len(example.names) > len(example.captions)
    again = write_examples(tmp_path)
    assert [e.names for e in again] == [e.names for e in examples]


@pytest.fixture(scope="module")
def steps(models: tuple[PageModel, ...]) -> Any:
    """Return the functions behind the controls."""
    return pytest.importorskip("clipalign.app.page").Steps(Session(models))


class TestSteps:
    """Each function returns values for its outputs, whatever the input."""

    def test_answers_name_every_model_and_choose_the_best_text(self, steps: Any, photo_file: Path) -> None:
        answers, choice = steps.classify(str(photo_file), NAMES, None)
        assert all(model.title.split(",")[0] in answers for model in steps.session.models)
        assert "centre of this photo" in answers
        assert len(choice["choices"]) == 3 and choice["value"] in NAMES.split(", ")
        _, kept = steps.classify(str(photo_file), NAMES, "blue square")
        assert kept["value"] == "blue square"

    def test_bad_photo_and_names_give_a_message(self, steps: Any, photo_file: Path, tmp_path: Path) -> None:
        (tmp_path / "bad.png").write_text("no picture")
        for path, text, message in (
            (None, NAMES, "Drop a photo"),
            (str(photo_file), " ", "Type some class names"),
            (str(tmp_path / "bad.png"), NAMES, "bad.png cannot be read"),
        ):
            answers, choice = steps.classify(path, text, None)
            assert message in answers and choice["value"] is None
            assert steps.look(path, text, None, "dv", PUBLISHED, False, PHOTO, PHOTO) == (None, "")
            assert steps.along(path, text, "squares", 0.5) == ("", None)

    def test_remarks_on_one_name_and_on_long_names(self, steps: Any, photo_file: Path) -> None:
        answers, _ = steps.classify(str(photo_file), "word " * 150, None)
        assert "no competitors" in answers and "text window" in answers

    def test_maps_of_chosen_and_best_texts(self, steps: Any, photo_file: Path) -> None:
        titles = [model.title for model in steps.session.models]
        pair, table = steps.look(
            str(photo_file), NAMES, "blue square", "vvv", "1", False, titles[0], titles[1]
        )
        assert len(pair) == 2 and table.count("<img") == 3 * len(titles)
        assert table.index("blue square") < table.index("red square")

    def test_alpha_shows_answers_and_curve(self, steps: Any, photo_file: Path) -> None:
        bars, figure = steps.along(str(photo_file), NAMES, "squares", 0.31)
        assert "squares, alpha 0.3" in bars and figure.axes

    def test_masks_or_a_message(self, steps: Any) -> None:
        message, figure = steps.masks("masks", "a red square\na blue square")
        assert message == "" and figure.axes
        message, figure = steps.masks("masks", "\n".join(map(str, range(13))))
        assert "13 captions are too many" in message and figure is None


def test_model_without_maps_answers_and_says_why(tmp_path: Path, photo_file: Path) -> None:
    session = Session(open_models([write_family("convnext", tmp_path / "convnext")]))
    page = pytest.importorskip("clipalign.app.page")
    page.make_page(session, [])
    steps = page.Steps(session)
    assert "cat" in steps.classify(str(photo_file), "cat, dog", None)[0]
    view = ("dv", PUBLISHED, False, PHOTO, session.models[0].title)
    pair, message = steps.look(str(photo_file), "cat, dog", "cat", *view)
    assert pair is None and "needs image tokens" in message


def test_page_without_runs_says_what_is_missing(tiny_spec: str) -> None:
    session = Session(open_models([tiny_spec]))
    page = pytest.importorskip("clipalign.app.page").make_page(session, [])
    text = str(page.get_config_file())
    assert "No weights to interpolate" in text and "gives a text a mask" in text
    assert "drawings only" not in text  # which holds for pocket
    assert session.layers == [PUBLISHED, "all", "0", "1", "2"]
