"""A process that runs jobs one after the other, so that libraries are imported and data opened once.

It reads one `Task` per line from standard input, as JSON, and answers each with a line {"name", "error"}. Output of the
runs goes to their logs. The process ends with its input, and at once if its parent is gone: workers of a killed sweep
must not write into folders that the next sweep resumes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from ...core.errors import UserError

if TYPE_CHECKING:
    from ...engine.setup import RunCache


class Task(TypedDict):
    """One run.

    Keys:
        name: name of the job.
        options: options of `clipalign train`.
        log: file for the output of the run.
    """

    name: str
    options: dict[str, Any]
    log: str


def main() -> None:
    """Run tasks until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process
    threading.Thread(target=_exit_without, args=(os.getppid(),), daemon=True).start()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")  # runs redirect file descriptor 1 to their logs
    from ...engine.setup import RunCache  # takes seconds, so the watch on the parent starts first

    cache = RunCache()
    for line in sys.stdin:
        task: Task = json.loads(line)
        error = _run(task, cache)
        answers.write(json.dumps({"name": task["name"], "error": error}) + "\n")
        answers.flush()


def _run(task: Task, cache: RunCache) -> str | None:
    """Run a task; return what went wrong in one line, or None."""
    log = Path(task["log"])
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file, _locked(log.with_suffix(".lock")) as locked:
        if not locked:
            return "another process runs it"
        sys.stdout.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            from ..train import train_from

            train_from(task["options"], cache)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return str(error)
        except BaseException as error:
            traceback.print_exc()
            return f"{type(error).__name__}: {' '.join(str(error).split())[:200]} (traceback in {log})"
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
    return None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold a lock file and yield True, or yield False if another process holds it.

    The system releases the lock when the process ends, even if it is killed.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no flock; do not run two sweeps on one folder there
        yield True
        return
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def _exit_without(parent: int) -> None:
    """End this process as soon as its parent is gone."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


if __name__ == "__main__":
    main()
