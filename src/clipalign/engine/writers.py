"""Metrics and results for TensorBoard and Weights & Biases, beside metrics.jsonl and results.jsonl.

Both are views of those two files. Tags say what was measured: `train/`, `validation/` (source rows), `chosen/` (what
a method chose on them) and `test/TEST/`; a validation value never stands under a test's tag.
"""

from __future__ import annotations

import importlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from ..core.errors import UserError
from ..core.yaml_files import plain
from ..runs.results import ResultRow

NAMES = ("tensorboard", "wandb")
# Of a result row; shares in [0, 1].
MEASURED = ("accuracy", "top5", "class_accuracy", "h", "zeroshot")


class Writer(Protocol):
    """One place that metrics are written to."""

    first: int
    """Steps before this one are there already."""

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Values by tag."""
        ...

    def end(self, values: Mapping[str, float], step: int) -> None:
        """The final values by tag."""
        ...

    def close(self, failed: bool) -> None:
        """Nothing more comes."""
        ...


def check_writers(names: Sequence[str]) -> None:
    """Refuse writers whose packages are not installed.

    Raises:
        UserError: naming the extra.
    """
    for name in names:
        if find_spec(name) is None:
            raise UserError(f'--log-to {name} needs pip install "clipalign[{name}]"')


class Writers:
    """All writers of a run; none is the usual case.

    Args:
        names: of `NAMES`.
        folder: of the run.
        options: every option by name.
    """

    def __init__(
        self, names: Sequence[str] = (), folder: Path = Path(), options: Mapping[str, Any] | None = None
    ) -> None:
        values = {name: plain(value) for name, value in (options or {}).items()}
        kinds: dict[str, Callable[[Path, Mapping[str, Any]], Writer]] = {
            "tensorboard": TensorBoard,
            "wandb": WeightsAndBiases,
        }
        self.writers: list[Writer] = [kinds[name](folder, values) for name in names]

    def replay(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """The lines of metrics.jsonl that a resumed run keeps: each step is there once, whatever was written
        before the break."""
        for line in lines:
            self.line(line)

    def line(self, line: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl."""
        step, values = int(line["step"]), scalars(line)
        for writer in self.writers:
            if values and step >= writer.first:
                writer.add(values, step)

    def results(self, rows: Sequence[ResultRow], step: int) -> None:
        """The result rows, measured after `step` steps."""
        for writer in self.writers:
            writer.end(result_scalars(rows), step)

    def __enter__(self) -> Writers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self.writers:
            writer.close(failed=error is not None)


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """Tags and numbers of a line of metrics.jsonl; what was not finite (null there) is left out."""
    tagged: dict[str, Any] = {f"chosen/{name}": value for name, value in line.get("chosen", {}).items()}
    for name, value in line.items():
        if name.startswith("validation_"):
            tagged[f"validation/{name.removeprefix('validation_')}"] = value
        elif name not in ("step", "chosen"):
            tagged[f"train/{name}"] = value
    return {tag: float(value) for tag, value in tagged.items() if is_number(value)}


def result_scalars(rows: Sequence[ResultRow]) -> dict[str, float]:
    """Tags and numbers of result rows."""
    tagged: dict[str, Any] = {}
    for row in rows:
        here = f"test/{row.test}"
        tagged |= {f"{here}/{name}": getattr(row, name) for name in MEASURED}
        tagged |= {f"{here}/domain/{domain}": value for domain, value in row.domain_accuracy.items()}
        tagged |= {f"{here}/{name}": value for name, value in row.extra.items() if "recall@" in name}
        tagged["validation/final"] = row.validation  # the same in all rows: of the weights that were tested
    return {tag: float(value) for tag, value in tagged.items() if is_number(value)}


def is_number(value: object) -> bool:
    """Whether a value is a curve's point."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class TensorBoard:
    """Event files in `tensorboard/`. They are written anew when a run is resumed: events of a killed run may have
    been lost in a buffer, and lines of steps after its checkpoint are about to come again."""

    first = 0

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = folder / "tensorboard"
        shutil.rmtree(path, ignore_errors=True)
        self.options = options
        self.writer: Any = SummaryWriter(str(path), flush_secs=10)

    def add(self, values: Mapping[str, float], step: int) -> None:
        """See `Writer`."""
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, step)

    def end(self, values: Mapping[str, float], step: int) -> None:
        """The values, and the options as hyper-parameters."""
        from torch.utils.tensorboard.summary import hparams

        self.add(values, step)
        settings = {
            name: value if isinstance(value, (bool, int, float, str)) else str(value)
            for name, value in self.options.items()
        }
        for part in hparams(settings, dict(values)):
            self.writer.file_writer.add_summary(part)

    def close(self, failed: bool) -> None:
        """See `Writer`."""
        self.writer.close()


class WeightsAndBiases:
    """A run of project `clipalign`, or that of WANDB_PROJECT. WANDB_MODE=offline and the library's other variables
    hold; its files go to `wandb/`, with the id by which a resumed run goes on."""

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        wandb: Any = importlib.import_module("wandb")
        stored = folder / "wandb" / "id.txt"
        if not stored.is_file():
            stored.parent.mkdir(parents=True, exist_ok=True)
            stored.write_text(secrets.token_hex(8) + "\n", encoding="utf-8")
        try:
            self.run: Any = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "clipalign"),
                dir=str(folder),
                name="-".join(folder.parts[-2:]),
                config=dict(options),
                id=stored.read_text(encoding="utf-8").strip(),
                resume="allow",
            )
        except wandb.Error as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"--log-to wandb: {reason}; log in with `wandb login`, or set WANDB_MODE=offline "
                "and go on with --resume"
            ) from None
        self.first = int(self.run.starting_step)  # of a resumed run: what the server has is not sent again

    def add(self, values: Mapping[str, float], step: int) -> None:
        """See `Writer`."""
        self.run.log(dict(values), step=step)

    def end(self, values: Mapping[str, float], step: int) -> None:
        """The values go to the summary, which holds one of each."""
        self.run.summary.update(dict(values))

    def close(self, failed: bool) -> None:
        """See `Writer`."""
        self.run.finish(exit_code=int(failed))
