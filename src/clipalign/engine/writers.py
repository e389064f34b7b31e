"""Metrics and results for experiment trackers, such as TensorBoard and Weights & Biases.

Trackers receive the contents of metrics.jsonl and results.jsonl. Tags name the data that a value was measured on:
`train/`, `validation/` (source rows), `chosen/` (values that a method selected on them) and `test/TEST/`.
"""

from __future__ import annotations

import importlib
import os
import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from ..core.errors import UserError
from ..core.registry import Registry
from ..core.yaml_files import plain
from ..evaluation.metrics import metric_fields
from ..evaluation.results import ResultRow


class Writer(ABC):
    """A tracker.

    Args:
        folder: run folder.
        options: all options by name.

    Attributes:
        package: package that the tracker needs, which is also the name of the extra; None for no package.
        first_step: the first step that the tracker does not have yet.
    """

    package: ClassVar[str | None] = None
    first_step: int = 0

    @abstractmethod
    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None: ...

    @abstractmethod
    def add(self, values: Mapping[str, float], step: int) -> None:
        """Add values by tag."""

    def finish(self, values: Mapping[str, float], step: int) -> None:
        """Add the results by tag, after the last step."""
        self.add(values, step)

    @abstractmethod
    def close(self, failed: bool) -> None:
        """Flush and close."""


WRITERS: Registry[type[Writer]] = Registry(
    "tracker",
    "clipalign.writers",
    {"tensorboard": f"{__name__}:TensorBoard", "wandb": f"{__name__}:WeightsAndBiases"},
    flag="--log-to",
)


def check_writers(names: Sequence[str]) -> None:
    """Raise UserError with the missing extra if the package of a tracker is not installed."""
    for name in names:
        package = WRITERS.get(name).package
        if package is not None and find_spec(package) is None:
            raise UserError(f'--log-to {name} needs pip install "clipalign[{package}]"')


class Writers:
    """All trackers of a run.

    Args:
        names: in `WRITERS`; default: none.
        folder: run folder.
        options: every option by name.
    """

    def __init__(
        self, names: Sequence[str] = (), folder: Path = Path(), options: Mapping[str, Any] | None = None
    ) -> None:
        values = {name: plain(value) for name, value in (options or {}).items()}
        self.writers: list[Writer] = [WRITERS.get(name)(folder, values) for name in names]

    def replay(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Write the lines of metrics.jsonl that a resumed run keeps, unless the tracker has them."""
        for line in lines:
            self.line(line)

    def line(self, line: Mapping[str, Any]) -> None:
        """Write a line of metrics.jsonl."""
        step, values = int(line["step"]), scalars(line)
        for writer in self.writers:
            if values and step >= writer.first_step:
                writer.add(values, step)

    def results(self, rows: Sequence[ResultRow], step: int) -> None:
        """Write the result rows of the weights after `step` steps."""
        for writer in self.writers:
            writer.finish(result_scalars(rows), step)

    def __enter__(self) -> Writers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self.writers:
            writer.close(failed=error is not None)


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """Return tags and values of a line of metrics.jsonl, without nulls (non-finite values)."""
    tagged: dict[str, Any] = {f"chosen/{name}": value for name, value in line.get("chosen", {}).items()}
    for name, value in line.items():
        if name.startswith("validation_"):
            tagged[f"validation/{name.removeprefix('validation_')}"] = value
        elif name not in ("step", "chosen"):
            tagged[f"train/{name}"] = value
    return {tag: float(value) for tag, value in tagged.items() if is_number(value)}


def result_scalars(rows: Sequence[ResultRow]) -> dict[str, float]:
    """Return tags and values of result rows."""
    tagged: dict[str, Any] = {}
    for row in rows:
        here = f"test/{row.test}"
        values = row.as_dict()
        for field in metric_fields():
            value = values.get(field.name)
            if isinstance(value, Mapping):
                tagged |= {
                    f"{here}/{field.tag or field.by}/{group}": number for group, number in value.items()
                }
            else:
                tagged[f"{here}/{field.name}"] = value
        tagged[f"{here}/zeroshot"] = row.zeroshot
        tagged["validation/final"] = row.validation  # the same in all rows
    return {tag: float(value) for tag, value in tagged.items() if is_number(value)}


def is_number(value: object) -> bool:
    """Whether a value can be plotted."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class TensorBoard(Writer):
    """Event files in `tensorboard/` of the run.

    A resumed run writes them again from the start: the buffered events of a killed run are lost, and steps after its
    last checkpoint are repeated.
    """

    package = "tensorboard"

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter  # an extra

        path = folder / "tensorboard"
        shutil.rmtree(path, ignore_errors=True)
        self.options = options
        self.writer: Any = SummaryWriter(str(path), flush_secs=10)

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Add values by tag."""
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, step)

    def finish(self, values: Mapping[str, float], step: int) -> None:
        """Add the results by tag, and the options as hyper-parameters."""
        from torch.utils.tensorboard.summary import hparams  # an extra

        self.add(values, step)
        settings = {
            name: value if isinstance(value, (bool, int, float, str)) else str(value)
            for name, value in self.options.items()
        }
        for part in hparams(settings, dict(values)):
            self.writer.file_writer.add_summary(part)

    def close(self, failed: bool) -> None:
        """Flush and close the event files."""
        self.writer.close()


class WeightsAndBiases(Writer):
    """A run of project `clipalign`, or of the one in WANDB_PROJECT.

    All variables of the library apply, such as WANDB_MODE=offline. Files go to `wandb/` of the run, with the id under
    which a resumed run continues.
    """

    package = "wandb"

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        wandb: Any = importlib.import_module("wandb")
        id_file = folder / "wandb" / "id.txt"
        if not id_file.is_file():
            id_file.parent.mkdir(parents=True, exist_ok=True)
            id_file.write_text(secrets.token_hex(8) + "\n", encoding="utf-8")
        try:
            self.run: Any = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "clipalign"),
                dir=str(folder),
                name="-".join(folder.parts[-2:]),
                config=dict(options),
                id=id_file.read_text(encoding="utf-8").strip(),
                resume="allow",
            )
        except wandb.Error as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"--log-to wandb: {reason}; log in with `wandb login`, or set WANDB_MODE=offline, "
                "then continue with --resume"
            ) from None
        self.first_step = int(self.run.starting_step)  # the server has the earlier steps of a resumed run

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Add values by tag."""
        self.run.log(dict(values), step=step)

    def finish(self, values: Mapping[str, float], step: int) -> None:
        """Set the results as the summary, which has one value per tag."""
        self.run.summary.update(dict(values))

    def close(self, failed: bool) -> None:
        """Finish the run."""
        self.run.finish(exit_code=int(failed))
