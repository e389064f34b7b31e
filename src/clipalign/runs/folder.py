"""The folder of a run: its files, when it may be written, and how it is opened again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..core.checkpoint import write_text
from ..core.config import TrainConfig
from ..core.errors import UserError
from ..core.fields import options_of
from ..core.yaml_files import RECORD, dump_yaml, plain, read_yaml
from ..evaluation.results import FILE as RESULTS
from .options import TrainOptions

if TYPE_CHECKING:
    pass

# A line of metrics.jsonl: "step", loss terms, validation values; "chosen" holds what `Method.finish` chose.
MetricLine = dict[str, Any]

# Options of every method that do not change what a run computes.
RESULT_NEUTRAL = frozenset(
    n for n, option in options_of(TrainConfig).items() if not option.facts.affects_result
)


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run.

    config.yaml holds every option (usable as `--config`) and, under `record`, facts about the run. A run is
    done when results.jsonl is there: it is written last.
    """

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def model(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def last(self) -> Path:
        return self.path / "last.safetensors"

    @property
    def results(self) -> Path:
        return self.path / RESULTS

    @property
    def predictions(self) -> Path:
        return self.path / "predictions.npz"

    @property
    def split(self) -> Path:
        return self.path / "split.json"

    @property
    def skipped(self) -> Path:
        return self.path / "skipped.csv"

    @property
    def card(self) -> Path:
        return self.path / "README.md"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint" / "state.safetensors"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def done(self) -> bool:
        """Whether the run has its results."""
        return self.results.is_file()

    def clear(self) -> None:
        """Remove the files of an earlier run, and nothing else that may lie beside them."""
        for path in (
            self.results,
            self.config,
            self.metrics,
            self.model,
            self.last,
            self.predictions,
            self.split,
            self.skipped,
            self.card,
            self.log,
        ):
            path.unlink(missing_ok=True)
        for folder in (self.checkpoint.parent, self.path / "tensorboard", self.path / "wandb"):
            shutil.rmtree(folder, ignore_errors=True)

    def read_metrics(self) -> list[MetricLine]:
        """Return the complete lines of metrics.jsonl; a killed run may leave a partial one."""
        if not self.metrics.is_file():
            return []
        lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def record(self) -> dict[str, Any]:
        """The facts in config.yaml."""
        content = yaml.safe_load(self.config.read_text(encoding="utf-8")) or {}
        record: dict[str, Any] = content.get(RECORD) or {}
        return record


def check_out(path: Path, *, overwrite: bool, resume: bool = False) -> None:
    """Refuse to write into a folder that holds something.

    Raises:
        UserError: it does, and neither --overwrite nor --resume was given; or it is not a folder.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"--out: {path} is a file, not a folder")
    if path.is_dir() and any(path.iterdir()) and not (overwrite or resume):
        raise UserError(f"--out: {path} is not empty; choose another folder, or give --resume or --overwrite")
    if resume and path.is_dir() and any(path.iterdir()) and not (path / "config.yaml").is_file():
        raise UserError(f"--resume: {path} holds no run (no config.yaml); choose another --out")


def check_same(folder: RunFolder, options: TrainOptions) -> None:
    """Refuse to resume a run with other options, unless they do not affect the result.

    Raises:
        UserError: naming the first option that differs.
    """
    stored = read_yaml(folder.config)
    known = options_of(TrainConfig, options.method.Config)
    for name, value in options.flat().items():
        if known[name].facts.affects_result and name in stored and stored[name] != value:
            raise UserError(
                f"--resume: {folder.path} was started with {name.replace('_', '-')} = {stored[name]}, "
                f"not {value}; drop the option, or start a new run in another --out"
            )


def write_config(folder: RunFolder, options: TrainOptions, record: Mapping[str, Any]) -> None:
    """Write config.yaml."""
    values = {name: v for name, v in options.flat().items() if name not in ("resume", "overwrite")}
    facts = {name: plain(value) for name, value in record.items()}
    write_text(folder.config, dump_yaml({**values, RECORD: facts}))


def is_run(name: str | Path) -> bool:
    """Whether a path is a run folder."""
    return (Path(name) / "config.yaml").is_file()
