"""From a command line and YAML files to a config: who sets an option, and who is allowed to.

Later layers win: the class's own defaults, what the method was published with, the values measured for the
pocket backbone (`configs/pocket/METHOD.yaml`), the run being resumed, `--config FILE`, the command line. Each
layer is turned into command-line tokens and parsed by the same parser, so that a value means the same
wherever it stands.
"""

from __future__ import annotations

import contextlib
import difflib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro
import yaml

from ..core.config import TrainConfig, flag, is_pocket
from ..core.errors import UserError

if TYPE_CHECKING:
    from ..methods.base import Method

T = TypeVar("T")
RECORD = "record"  # the key of a run's config.yaml that holds facts, not options


@dataclass(frozen=True)
class TrainOptions:
    """All that a training run is told.

    Attributes:
        run: options every method shares.
        method: the method's class.
        hyper: an instance of the method's `Config`.
        origins: option name -> the layer that set it, for all but the class's own defaults.
    """

    run: TrainConfig
    method: type[Method]
    hyper: Any
    origins: Mapping[str, str] = field(default_factory=dict)

    def flat(self) -> dict[str, Any]:
        """Every option by name, as config.yaml holds it."""
        values = {f.name: getattr(part, f.name) for part in (self.run, self.hyper) for f in fields(part)}
        return {name: plain(value) for name, value in values.items()}


def train_options(arguments: Sequence[str], prog: str = "clipalign train") -> TrainOptions:
    """Resolve the options of a training run.

    Args:
        arguments: tokens of the command line after the command's name.
        prog: name printed in help.

    Raises:
        UserError: an unknown option or one of another method, a value that does not parse or is out of range,
            a config file that cannot be read.
    """
    from ..methods import get_method

    given = scan(arguments)
    config_path = single(given, "config")
    file_layer = read_yaml(Path(config_path)) if config_path is not None else {}
    leading = arguments[: len(arguments) - sum(len(tokens) for _, tokens in given)]
    arguments = [*leading, *(token for name, tokens in given if name != "config" for token in tokens)]
    run_layer = resumed_config(given, file_layer)

    def early(name: str, default: str) -> str:
        value = single(given, name) or file_layer.get(name) or run_layer.get(name) or default
        return str(value)

    method = get_method(early("method", TrainConfig.method))
    known = {f.name for cls in (TrainConfig, method.Config) for f in fields(cls)}
    reject_unknown((name for name, _ in given), known | {"config", "help"}, method.name, "")
    reject_unknown(file_layer, known, method.name, f"{config_path}: ")

    layers: list[tuple[str, Mapping[str, Any]]] = [("published", method.published)]
    if is_pocket(early("backbone", TrainConfig.backbone)):
        pocket = shipped_config("pocket", method.name)
        layers.append((f"configs/pocket/{method.name}.yaml", read_yaml(pocket) if pocket else {}))
    layers += [("the run in --out", run_layer), (str(config_path), file_layer)]

    options: Any = make_dataclass(
        "TrainOptionsParser",
        [
            ("run", Annotated[TrainConfig, tyro.conf.OmitArgPrefixes]),
            ("hyper", Annotated[method.Config, tyro.conf.OmitArgPrefixes]),
        ],
    )
    # --out has no default; the placeholder lets the layers below the command line be parsed on their own.
    placeholder = Path()
    current = options(TrainConfig(out=placeholder), method.Config())
    origins: dict[str, str] = {}
    for origin, layer in layers:
        if layer:
            reject_unknown(layer, known, method.name, f"{origin}: ")
            current = parse(
                options, to_tokens(layer, TrainConfig, method.Config), prog, current, f"{origin}: "
            )
            origins |= dict.fromkeys(layer, origin)
    wants_help = any(token in ("-h", "--help") for token in arguments)
    if current.run.out == placeholder and single(given, "out") is None and not wants_help:
        raise UserError("--out is missing: name the run folder to write")
    current = parse(options, arguments, prog, current)
    origins |= {name: "command line" for name, _ in given if name != "config"}
    current.run.check()
    return TrainOptions(current.run, method, current.hyper, origins)


def parse_config(cls: type[T], arguments: Sequence[str], prog: str) -> T:
    """Fill a command's dataclass from tokens and, for `--config FILE`, from YAML; then `check()` it."""
    given = scan(arguments)
    positional = list(arguments[: len(arguments) - sum(len(tokens) for _, tokens in given)])
    config_path = single(given, "config")
    layer = read_yaml(Path(config_path)) if config_path is not None else {}
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    reject_unknown((name for name, _ in given), known | {"config", "help"}, None, "")
    reject_unknown(layer, known, None, f"{config_path}: ")
    tokens = to_tokens(layer, cls)
    tokens += [token for name, group in given if name != "config" for token in group]
    config = parse(cls, positional + tokens, prog)
    if check := getattr(config, "check", None):
        check()
    return config


def parse(cls: Any, tokens: Sequence[str], prog: str, default: Any = None, where: str = "") -> Any:
    """tyro's parser, with its boxed messages turned into one UserError line."""
    said = io.StringIO()
    optional = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(cls, args=list(tokens), prog=prog, **optional)
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        lines = [line.strip("│ ").strip() for line in said.getvalue().splitlines()]
        rule = next((i for i, line in enumerate(lines) if i and line.startswith("──")), len(lines))
        message = " ".join(line for line in lines[1:rule] if line and not line.startswith("╰"))
        raise UserError(where + (message or "the command line could not be read")) from None


def scan(arguments: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Group tokens by option: ["--a", "1", "--b=2"] -> [("a", ["--a", "1"]), ("b", ["--b=2"])].

    Names have underscores; `--no-x` counts as x. Tokens before the first option belong to none.
    """
    groups: list[tuple[str, list[str]]] = []
    for token in arguments:
        if token == "-h" or (token.startswith("--") and len(token) > 2):
            name = "help" if token == "-h" else token[2:].partition("=")[0].replace("-", "_")
            groups.append((name.removeprefix("no_"), [token]))
        elif groups:
            groups[-1][1].append(token)
    return groups


def single(given: Iterable[tuple[str, list[str]]], name: str) -> str | None:
    """The last value given for an option that takes one."""
    value = None
    for option, tokens in given:
        if option == name:
            _, equals, value = tokens[0].partition("=")
            if not equals:
                if len(tokens) != 2:
                    raise UserError(f"{flag(name)} needs one value")
                value = tokens[1]
    return value


def reject_unknown(names: Iterable[str], known: set[str], method: str | None, where: str) -> None:
    """Raise UserError for the first name that is no option here, with the nearest one that is."""
    for name in names:
        if name in known:
            continue
        if method is not None:
            from ..methods import all_methods

            owners = [m.name for m in all_methods() if name in {f.name for f in fields(m.Config)}]
            if owners:
                raise UserError(
                    f"{where}{flag(name)} is an option of --method {' or '.join(owners)}; "
                    f"it does not apply to --method {method}"
                )
        near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
        hint = f"; did you mean {flag(near[0])}?" if near else ""
        raise UserError(f"{where}unknown option {flag(name)}{hint}")


def read_yaml(path: Path) -> dict[str, Any]:
    """The options in a YAML file, with underscores in their names and without the record of a run."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config: cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config: {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"--config: {path} must hold option: value lines")
    return {str(key).replace("-", "_"): value for key, value in content.items() if key != RECORD}


def to_tokens(layer: Mapping[str, Any], *classes: Any) -> list[str]:
    """{"batch_size": 36, "resume": True} -> ["--batch-size", "36", "--resume"], for options of the classes."""
    switches = {f.name for cls in classes for f in fields(cls) if str(f.type) == "bool"}
    tokens: list[str] = []
    for name, value in layer.items():
        if name in switches and isinstance(value, bool):
            tokens.append(flag(name) if value else "--no-" + flag(name)[2:])
        elif isinstance(value, (list, tuple)):
            tokens += [flag(name), *map(str, value)]
        else:
            tokens += [flag(name), str(value)]
    return tokens


def to_arguments(cls: Any, options: Mapping[str, Any]) -> list[str]:
    """Keyword arguments of the Python API as command-line tokens; positional fields come first.

    Args:
        cls: the config class, or several whose options stand side by side.
        options: values by field name.
    """
    classes = cls if isinstance(cls, tuple) else (cls,)
    positional = [f.name for cls in classes for f in fields(cls) if "Positional" in str(f.type)]
    tokens: list[str] = []
    for name in positional:
        value = options.get(name, ())
        tokens += [str(v) for v in value] if isinstance(value, (list, tuple)) else [str(value)]
    return tokens + to_tokens({k: v for k, v in options.items() if k not in positional}, *classes)


def shipped_config(backbone: str, method: str) -> Path | None:
    """The measured defaults of a method on a backbone: inside an installed package, or in a checkout."""
    here = Path(__file__).resolve().parents[1]
    for root in (here / "assets" / "configs", here.parents[1] / "configs"):
        path = root / backbone / f"{method}.yaml"
        if path.is_file():
            return path
    return None


def resumed_config(given: list[tuple[str, list[str]]], file_layer: Mapping[str, Any]) -> dict[str, Any]:
    """With --resume, the options that the run in --out was started with."""
    resume = any(name == "resume" and tokens[0] == "--resume" for name, tokens in given)
    out = single(given, "out") or file_layer.get("out")
    if out is None or not (resume or file_layer.get("resume") is True):
        return {}
    path = Path(out) / "config.yaml"
    stored = read_yaml(path) if path.is_file() else {}
    return {name: value for name, value in stored.items() if name not in ("out", "resume", "overwrite")}


def plain(value: Any) -> Any:
    """A value as YAML and JSON can hold it."""
    if isinstance(value, Path):
        return str(value)
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def dump_yaml(values: Mapping[str, Any]) -> str:
    """YAML in the order given."""
    text: str = yaml.safe_dump(
        dict(values), sort_keys=False, allow_unicode=True, width=110, default_flow_style=None
    )
    return text
