"""SIGINT and SIGTERM: end a run after the current step, with a checkpoint, instead of in the middle of it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal ends the command. The message says how to resume it; the exit status is 128 + the signal's number."""

    def __init__(self, number: int, message: str = "interrupted") -> None:
        super().__init__(message)
        self.number = number

    @property
    def status(self) -> int:
        """Exit status: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.number


# Signals belong to the process, hence module state.
_deferring = False
_received: int | None = None
PATIENCE = (
    1.0  # seconds after which a second Ctrl-C ends a deferring block; launchers forward one more than once
)


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into `Interrupted`.

    Ignored signals stay ignored, and outside of the main thread, where Python cannot handle signals, nothing changes.
    """
    global _received
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner, since, _received = os.getpid(), 0.0, None

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal since
        global _received
        if os.getpid() != owner:  # a forked worker, which ends with its parent
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        now = time.monotonic()
        if _received is None:
            _received, since = number, now
        if not _deferring or (number == signal.SIGINT and now - since > PATIENCE):
            raise Interrupted(number)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, handle)
    try:
        yield
    finally:
        _received = None
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Let the block end before a signal takes effect; it polls `received`. A second Ctrl-C ends it at once."""
    global _deferring
    outer, _deferring = _deferring, True
    try:
        yield
    finally:
        _deferring = outer
    if _received is not None and not outer:
        raise Interrupted(_received)


def received() -> int | None:
    """Return the number of the signal that arrived within `handled`, or None."""
    return _received
