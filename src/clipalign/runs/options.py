"""Options of a training run, resolved from layers.

Later layers win: the fields' defaults, the options that the method was published with, those measured for the
pocket backbone (`configs/pocket/METHOD.yaml`), those of the run being resumed, `--config FILE`, and what the
command line or the Python call gives. The layer that set an option is recorded as its origin.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.config import ModelOptions, TrainConfig
from ..core.errors import UserError
from ..core.fields import build, flat, options_of
from ..core.parsing import OptionParser, split_tokens, to_tokens
from ..core.version import __version__
from ..core.yaml_files import plain, read_yaml

if TYPE_CHECKING:
    from ..methods.base import Method

GIVEN = "command line"  # origin of options of the command line, and of keywords of the Python API


@dataclass(frozen=True)
class TrainOptions:
    """Resolved options of a training run.

    Attributes:
        config: options of every method.
        method: the method's class.
        hyper: an instance of the method's `Config`.
        origins: option name -> layer that set it; options with the field's default are left out.
    """

    config: TrainConfig
    method: type[Method]
    hyper: Any
    origins: Mapping[str, str] = field(default_factory=dict)

    def flat(self) -> dict[str, Any]:
        """Return every option by name, in the types of YAML."""
        return {name: plain(value) for name, value in flat(self.config, self.hyper).items()}

    def row_fields(self, templates: Sequence[str], command: str) -> dict[str, Any]:
        """Return the fields of every result row of the run, on whatever data.

        Args:
            templates: prompt templates of the predictions.
            command: the one that wrote the row.
        """
        config, iterates = self.config, self.method.iterates
        return {
            "method": self.method.name,
            "backbone": config.model.backbone,
            "data": config.data.data,
            "target": config.split.target,
            "seed": config.run.seed,
            "template": " | ".join(templates),
            "lr": config.optimiser.lr if iterates else None,
            "lr_from": self.origins.get("lr", "default") if iterates else None,
            "command": command,
            "version": __version__,
        }


def train_options(tokens: Sequence[str], prog: str = "clipalign train") -> TrainOptions:
    """Resolve the options of a command line.

    Args:
        tokens: what follows the command's name.
        prog: how the command is called, for help texts.

    Raises:
        UserError: an unknown option or one of another method, a value that does not fit or is out of range, a
            file that cannot be read.
        SystemExit: after printing help.
    """
    _, groups = split_tokens(tokens)
    early: dict[str, Any] = {}
    for name, (head, *values) in groups:
        _, equals, value = head.partition("=")
        if name == "resume":
            early[name] = not head.startswith("--no")
        elif equals or values:
            early[name] = value if equals else values[0]
        elif name == "config":
            raise UserError("--config needs a file")
    return _resolve(early, lambda parser, lower: parser.parse(tokens, lower), prog)


def train_options_from(values: Mapping[str, Any]) -> TrainOptions:
    """Resolve options given in Python; `config` is the path of a YAML file.

    Raises:
        UserError: as `train_options`.
    """
    given = {name: value for name, value in values.items() if name != "config"}
    return _resolve(values, lambda parser, _: parser.convert(given), "clipalign train")


def train_command(values: Mapping[str, Any]) -> str:
    """Return the command of `clipalign train` with options given in Python."""
    from ..methods import get_method

    config = ["--config", str(values["config"])] if "config" in values else []
    hyper = get_method(str(values.get("method", ModelOptions.method))).Config
    rest = {name: value for name, value in values.items() if name != "config"}
    return shlex.join(["clipalign", "train", *config, *to_tokens(rest, TrainConfig, hyper)])


def train_parser(method: type[Method], prog: str = "clipalign train") -> OptionParser:
    """Return the parser of the options of `clipalign train` with a method."""

    def explain(name: str) -> str | None:
        from ..methods import all_methods

        owners = [m.name for m in all_methods() if name in options_of(m.Config)]
        if not owners:
            return None
        return f"is an option of --method {' or '.join(owners)}; it does not apply to --method {method.name}"

    titles = {method.Config: f"Method {method.name}"}
    return OptionParser(prog, TrainConfig, method.Config, explain=explain, titles=titles)


def _resolve(
    early: Mapping[str, Any], read: Callable[[OptionParser, Mapping[str, Any]], dict[str, Any]], prog: str
) -> TrainOptions:
    """Resolve options whose types are known only after the method is.

    Args:
        early: unconverted values of the highest layer.
        read: converts the highest layer with the parser; gets the values below it for help texts.
        prog: how the command is called.
    """
    from ..methods import get_method

    path = early.get("config")
    in_file = read_yaml(Path(path)) if path is not None else {}
    in_run = resumed_options(early.get("out", in_file.get("out")), early.get("resume", in_file.get("resume")))

    def first(name: str, default: str) -> str:
        return str(next((layer[name] for layer in (early, in_file, in_run) if layer.get(name)), default))

    method = get_method(first("method", ModelOptions.method))
    layers: list[tuple[str, Mapping[str, Any]]] = [("published", method.published)]
    if is_pocket(first("backbone", ModelOptions.backbone)):
        pocket = shipped_config("pocket", method.name)
        layers.append((f"configs/pocket/{method.name}.yaml", read_yaml(pocket) if pocket else {}))
    layers += [("the run in --out", in_run), (str(path), in_file)]
    parser = train_parser(method, prog)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in layers:
        values |= parser.convert(layer, f"{origin}: ")
        origins |= dict.fromkeys(layer, origin)
    given = {name: value for name, value in read(parser, values).items() if name != "config"}
    values |= given
    origins |= dict.fromkeys(given, GIVEN)
    return TrainOptions(build(TrainConfig, values), method, build(method.Config, values), origins)


def resumed_options(out: str | Path | None, resume: bool | None) -> dict[str, Any]:
    """Return the options that the run in `out` was started with if it is to be resumed, else none."""
    if out is None or resume is not True:
        return {}
    path = Path(out) / "config.yaml"
    stored = read_yaml(path) if path.is_file() else {}
    return {name: value for name, value in stored.items() if name not in ("out", "resume", "overwrite")}


def shipped_config(backbone: str, method: str) -> Path | None:
    """Return the file of measured defaults of a method on a backbone, in an installed package or a checkout."""
    path = shipped_folder(backbone) / f"{method}.yaml"
    return path if path.is_file() else None


def shipped_folder(name: str) -> Path:
    """Return a folder of configs/, in an installed package or a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "assets" / "configs"
    return (installed if installed.is_dir() else package.parents[1] / "configs") / name


def is_pocket(backbone: str) -> bool:
    """Return whether a backbone is the shipped one, with random weights or another image size too."""
    return re.split("[:@]", backbone)[0] == "pocket"
