"""Lock files: one process at a time writes a folder."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import UserError

LOCK = ".lock"


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock, as its file describes it."""

    host: str
    pid: int

    @classmethod
    def read(cls, path: Path) -> Owner | None:
        """Return the owner in a lock file; None without a file, or with one that was never completed."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(str(values["host"]), int(values["pid"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def alive(self) -> bool:
        """Whether the process may be running; one on another host cannot be examined, and counts as running."""
        return self.host != socket.gethostname() or process_exists(self.pid)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, and replace that of a process that is gone.

    The file names host and process for messages. On one host the system's own lock on it decides, which ends with the
    process, so that a reused process number cannot be mistaken for the owner.

    Raises:
        UserError: another process holds it.
    """
    path = folder / LOCK
    for _ in range(3):  # the file may be replaced while it is being locked
        check_unlocked(folder)
        with path.open("a+", encoding="utf-8") as file:
            if flock(file.fileno()) is not False and same_file(file.fileno(), path):
                file.truncate(0)
                file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}) + "\n")
                file.flush()
                try:
                    yield
                finally:
                    with contextlib.suppress(OSError):
                        path.unlink()
                return
        owner = Owner.read(path)
        if owner is not None and not owner.alive:  # a child of the dead process still holds the system's lock
            path.unlink(missing_ok=True)
    raise refusal(folder, Owner.read(path))


def check_unlocked(folder: Path) -> None:
    """Refuse a folder that a running process writes.

    Raises:
        UserError: names the process.
    """
    path = folder / LOCK
    owner = Owner.read(path)
    if owner is None or not owner.alive:
        return
    if owner.host == socket.gethostname():
        with contextlib.suppress(OSError), path.open("r+", encoding="utf-8") as file:
            if flock(file.fileno()):
                return  # a process that got the number of the dead one
    raise refusal(folder, owner)


def refusal(folder: Path, owner: Owner | None) -> UserError:
    """Return the error that names the process that holds the lock of a folder."""
    who = "another process" if owner is None else f"process {owner.pid} on {owner.host}"
    return UserError(
        f"--out: {who} is writing {folder}; wait for it or choose another folder "
        f"(if that process is gone, delete {folder / LOCK})"
    )


def process_exists(pid: int) -> bool:
    """Return whether a process of this host is running."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


def flock(descriptor: int) -> bool | None:
    """Take the system's lock on a file; False if another process holds it, None if the system has no such locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


def same_file(descriptor: int, path: Path) -> bool:
    """Return whether a path still names an open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False
