"""A process that takes runs one after the other: libraries are imported and data opened once.

It reads a JSON line {"name", "options", "log"} per run from standard input and answers with {"name", "error"}.
What runs print goes to their log. It ends when its input does, and at once when its parent is gone: a killed
sweep must not leave processes that write into folders which its successor takes over.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import IO, Any

from ...core.errors import UserError


def main() -> None:
    """Serve until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_die_with, args=(os.getppid(),), daemon=True).start()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    from ...engine.setup import RunCache

    cache = RunCache()
    for line in sys.stdin:
        task = json.loads(line)
        error = _run(task, cache)
        answers.write(json.dumps({"name": task["name"], "error": error}) + "\n")
        answers.flush()


def _run(task: dict[str, Any], cache: Any) -> str | None:
    """Do one run; returns what went wrong in a line."""
    log = Path(task["log"])
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file, _Lock(log.with_suffix(".lock")) as mine:
        if not mine:
            return "another process is at it"
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


class _Lock:
    """One process per run folder. The system lets go of it when the process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: IO[str] | None = None

    def __enter__(self) -> bool:
        try:
            import fcntl
        except ImportError:  # Windows: sweeps side by side are up to the user
            return True
        self.file = self.path.open("w")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()


def _die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


if __name__ == "__main__":
    main()
