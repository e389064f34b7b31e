"""Tokens, YAML values and Python values become the same typed options, or an error that names the option."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from clipalign.core.config import Options, facts
from clipalign.core.errors import UserError
from clipalign.core.fields import build, flat, options_of
from clipalign.core.parsing import OptionParser, command_line, make_config, parse_config, to_tokens


@dataclass(frozen=True, kw_only=True)
class Inner(Options):
    """Inner options"""

    rate: float | None = field(default=None, metadata=facts(above=0))
    """Rate. More about it."""
    kind: Literal["none", "one", "two"] | None = None
    """Kind."""


@dataclass(frozen=True, kw_only=True)
class Config(Options):
    """A command."""

    model: str = field(metadata=facts(positional=True))
    """Model."""
    files: tuple[Path, ...] = field(default=(), metadata=facts(positional=True))
    """Files."""
    count: int = field(default=1, metadata=facts(unit="ITEMS", at_least=1))
    """Count."""
    share: int | float = 0
    """Share."""
    name: str | None = None
    """Name."""
    texts: tuple[str, ...] = ()
    """Texts."""
    loud: bool = False
    """Switch."""
    maybe: bool | None = None
    """Switch with a third state."""
    inner: Inner = field(default_factory=Inner)


PARSER = OptionParser("command", Config)


@pytest.mark.parametrize(
    ("tokens", "values"),
    [
        ("m a b --count 3", {"model": "m", "files": (Path("a"), Path("b")), "count": 3}),
        ("m --count 3 a b", {"model": "m", "files": (Path("a"), Path("b")), "count": 3}),
        ("--loud m a", {"model": "m", "files": (Path("a"),), "loud": True}),
        ("--texts a b -- m", {"model": "m", "texts": ("a", "b")}),
        ("--texts", {"texts": ()}),
        ("--texts -1 a=b", {"texts": ("-1", "a=b")}),
        ("--count=3 --count 4", {"count": 4}),
        ("--loud --no-loud", {"loud": False}),
        ("--rate 1e-3 --share 1", {"rate": 1e-3, "share": 1}),
        ("--share 0.5", {"share": 0.5}),
        ("--rate None --name None --kind none", {"rate": None, "name": None, "kind": "none"}),
        ("--maybe True", {"maybe": True}),
        ("--name 3", {"name": "3"}),
        ("m -1.png", {"model": "m", "files": (Path("-1.png"),)}),
    ],
)
def test_tokens_become_typed_values(tokens: str, values: dict[str, Any]) -> None:
    parsed = PARSER.parse(tokens.split())
    assert parsed == values
    assert {name: type(value) for name, value in parsed.items()} == {n: type(v) for n, v in values.items()}


def test_underscores_and_hyphens_are_equal_in_flags() -> None:
    @dataclass(frozen=True)
    class Long:
        """Long."""

        two_words: int = 0
        """Words."""
        no_more: bool = False
        """More."""

    parser = OptionParser("command", Long)
    assert parser.parse(["--two_words", "3"]) == parser.parse(["--two-words=3"]) == {"two_words": 3}


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"rate": "1e-3"}, 1e-3),  # YAML reads 1e-3 as a string
        ({"rate": 1}, 1.0),
        ({"rate": np.float32(0.5)}, 0.5),
        ({"count": np.int64(3)}, 3),
        ({"count": "3"}, 3),
        ({"name": 3}, "3"),
        ({"name": Path("a/b")}, "a/b"),
        ({"files": "a"}, (Path("a"),)),
        ({"files": [Path("a"), "b"]}, (Path("a"), Path("b"))),
        ({"texts": [1, "a"]}, ("1", "a")),
        ({"loud": True}, True),
        ({"maybe": None}, None),
        ({"kind": "None"}, None),
    ],
    ids=str,
)
def test_yaml_and_python_values_become_typed_values(given: dict[str, Any], value: object) -> None:
    (converted,) = PARSER.convert(given).values()
    assert converted == value and type(converted) is type(value)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ("m --count many", "--count must be an integer, not many"),
        ("m --count 2.5", "--count must be an integer, not 2.5"),
        ("m --count", "--count needs a value: an integer"),
        ("--rate x", "--rate must be a number or None, not x"),
        ("--share x", "--share must be a number, not x"),
        ("--kind three", "--kind must be one of none, one, two or None, not three"),
        ("--loud=yes", "--loud takes no value, not yes"),
        ("--cuont 3", "unknown option --cuont; did you mean --count?"),
        ("--zzz 3", "unknown option --zzz"),
        ("m --config", "--config needs a file"),
    ],
)
def test_error_of_a_command_line_is_one_line_that_names_the_option(tokens: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        PARSER.parse(tokens.split())
    text = str(caught.value)
    assert message in text and "\n" not in text


def test_surplus_argument_is_an_error() -> None:
    @dataclass(frozen=True)
    class Single:
        """Single."""

        model: str = field(metadata=facts(positional=True))
        """Model."""

    with pytest.raises(UserError, match='unexpected argument "b"'):
        parse_config(Single, ["a", "b"], "command")
    with pytest.raises(UserError, match="MODEL is missing: Model"):
        parse_config(Single, [], "command")


@pytest.mark.parametrize(
    "given",
    [
        {"count": None},
        {"count": True},
        {"loud": 3},
        {"texts": None},
        {"texts": {"a": 1}},
        {"rate": [1]},
        {"name": ["a"]},
    ],
    ids=str,
)
def test_value_of_another_kind_is_an_error(given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"^run.yaml: --{next(iter(given))} must be "):
        PARSER.convert(given, "run.yaml: ")


def test_bounds_are_checked_and_exclude_nan() -> None:
    for given, message in (
        ({"count": 0}, "--count must be at least 1, not 0"),
        ({"rate": 0.0}, "--rate must be above 0, not 0"),
        ({"rate": math.nan}, "--rate must be above 0, not nan"),
    ):
        with pytest.raises(UserError, match=message):
            make_config(Config, {"model": "m", **given})
    assert make_config(Config, {"model": "m"}).inner.rate is None


def test_config_file_is_below_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("count: 5\nrate: 2\nloud: true\n")
    config = parse_config(Config, ["m", "--config", str(path), "--rate", "3"], "command")
    assert (config.count, config.inner.rate, config.loud) == (5, 3.0, True)


def test_flat_is_the_inverse_of_build() -> None:
    config = make_config(Config, {"model": "m", "rate": 2, "kind": "two", "texts": ["a"]})
    assert build(Config, flat(config)) == config
    assert list(flat(config)) == list(options_of(Config))


def test_tokens_of_a_config_are_parsed_to_the_same_config() -> None:
    config = make_config(
        Config, {"model": "m", "files": ["a", "b c"], "rate": 0.1, "loud": True, "texts": ["x y"]}
    )
    assert parse_config(Config, to_tokens(flat(config), Config), "command") == config
    line = command_line("clipalign command", config)
    assert line == "clipalign command m a 'b c' --texts 'x y' --loud --rate 0.1"


def test_docstrings_below_fields_are_help_texts() -> None:
    rate = options_of(Config)["rate"]
    assert (rate.doc, rate.summary, rate.group) == ("Rate. More about it.", "Rate", Inner)
