"""The folder of a run: its files, and when it may be written."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.checkpoint import write_text
from ..core.config import TrainConfig
from ..core.errors import UserError
from ..core.fields import options_of
from ..core.locks import LOCK, check_unlocked
from ..core.reading import parse_json, read_text
from ..core.yaml_files import RECORD, dump_yaml, read_yaml
from ..evaluation.results import FILE as RESULTS
from .options import TrainOptions
from .record import RunRecord, read_record

CONFIG = "config.yaml"
# A line of metrics.jsonl: "step", loss terms, validation values; "chosen" holds what `Method.finish` chose.
MetricLine = dict[str, Any]

# Options of every method that do not change what a run computes.
RESULT_NEUTRAL = frozenset(
    name for name, option in options_of(TrainConfig).items() if not option.facts.affects_result
)


@dataclass(frozen=True)
class RunFolder:
    """Files of a run.

    A run is finished when results.jsonl exists: it is written last.
    """

    path: Path

    @property
    def config(self) -> Path:
        """All options, usable as `--config`; facts about the run are under `record`."""
        return self.path / CONFIG

    @property
    def metrics(self) -> Path:
        """Loss terms and validation metrics by step."""
        return self.path / "metrics.jsonl"

    @property
    def model(self) -> Path:
        """Weights that predictions use, averaged if the run averages."""
        return self.path / "model.safetensors"

    @property
    def last(self) -> Path:
        """Weights after the last step."""
        return self.path / "last.safetensors"

    @property
    def results(self) -> Path:
        """Result rows, one per test set."""
        return self.path / RESULTS

    @property
    def predictions(self) -> Path:
        """Predictions for every test image."""
        return self.path / "predictions.npz"

    @property
    def split(self) -> Path:
        """Rows of training, validation and test; usable as `--split-file`."""
        return self.path / "split.json"

    @property
    def skipped(self) -> Path:
        """Images that could not be decoded."""
        return self.path / "skipped.csv"

    @property
    def card(self) -> Path:
        """Model card."""
        return self.path / "README.md"

    @property
    def checkpoint(self) -> Path:
        """State to resume from; deleted when the run is finished."""
        return self.path / "checkpoint" / "state.safetensors"

    @property
    def log(self) -> Path:
        """Messages of the run."""
        return self.path / "log.txt"

    @property
    def done(self) -> bool:
        """Whether the run is finished."""
        return self.results.is_file()

    def clear(self) -> None:
        """Delete the files of an earlier run, and no others."""
        files = (
            *(self.results, self.config, self.metrics, self.model, self.last, self.predictions),
            *(self.split, self.skipped, self.card, self.log),
        )
        for path in files:
            path.unlink(missing_ok=True)
        for folder in (self.checkpoint.parent, self.path / "tensorboard", self.path / "wandb"):
            shutil.rmtree(folder, ignore_errors=True)

    def read_metrics(self) -> list[MetricLine]:
        """Return the complete lines of metrics.jsonl; a killed run may leave a partial one."""
        if not self.metrics.is_file():
            return []
        lines = read_text(self.metrics).splitlines(keepends=True)
        return [parse_json(line, self.metrics) for line in lines if line.endswith("\n")]

    def record(self) -> RunRecord:
        """Return the facts in config.yaml.

        Raises:
            UserError: the file was not written by a run.
        """
        return read_record(self.config)


def check_out(path: Path, *, overwrite: bool, resume: bool | None = None) -> None:
    """Refuse to write into a folder in use; `resume` is None for commands that cannot resume.

    Raises:
        UserError: another process is writing the folder; it is not empty, and neither overwritten nor resumed; or it
            is not a folder, or not a run that can be resumed.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"--out: {path} is a file, not a folder")
    check_unlocked(path)
    used = path.is_dir() and any(file.name != LOCK for file in path.iterdir())
    if used and not (overwrite or resume):
        ways = "--overwrite" if resume is None else "--resume or --overwrite"
        raise UserError(f"--out: {path} is not empty; choose another folder with --out, or give {ways}")
    if used and resume and not is_run(path):
        raise UserError(f"--resume: {path} holds no run (no {CONFIG}); choose another --out")


def check_same(folder: RunFolder, options: TrainOptions) -> None:
    """Refuse to resume a run with other options, unless they do not affect the result.

    Raises:
        UserError: an option differs; the message names the first one.
    """
    stored = read_yaml(folder.config)
    known = options_of(TrainConfig, options.method.Config)
    derived = set() if options.config.schedule.epochs is None else {"steps"}  # from --epochs and the data
    for name, value in options.flat().items():
        if (
            name not in derived
            and known[name].facts.affects_result
            and name in stored
            and stored[name] != value
        ):
            raise UserError(
                f"--resume: {folder.path} was started with {name.replace('_', '-')} = {stored[name]}, "
                f"not {value}; drop the option, or start a new run in another --out"
            )


def write_config(folder: RunFolder, options: TrainOptions, record: RunRecord) -> None:
    """Write config.yaml."""
    values = {
        name: value
        for name, value in options.flat().items()
        if name not in ("resume", "overwrite", "dry_run")
    }
    write_text(folder.config, dump_yaml({**values, RECORD: record.as_dict()}))


def is_run(name: str | Path) -> bool:
    """Return whether a path is a run folder."""
    return (Path(name) / CONFIG).is_file()
