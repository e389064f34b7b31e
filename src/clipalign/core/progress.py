"""Progress bars of loops over many items, in a terminal and in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")


def shows_bars(console: Console) -> bool:
    """Return whether a console can redraw a bar: a terminal, or a notebook with ipywidgets."""
    return console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)


def new_bar(console: Console) -> Progress:
    """Return a bar with the number of items and the remaining time, which is removed at the end."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    return Progress(*columns, console=console, transient=True)


def track(
    batches: Iterable[tuple[int, T]], total: int, description: str, show: bool | None = None
) -> Iterator[T]:
    """Yield the second elements of pairs, and advance a bar by the first.

    Args:
        batches: pairs of a number of items and any value.
        total: number of all items.
        description: text beside the bar.
        show: None to show the bar on a terminal and in notebooks only.

    Example:
        >>> list(track([(2, "first"), (1, "last")], 3, "images", show=False))
        ['first', 'last']
    """
    console = Console(stderr=True)
    if not (shows_bars(console) if show is None else show):
        yield from (value for _, value in batches)
        return
    with new_bar(console) as bar:
        task = bar.add_task(description, total=total)
        for count, value in batches:
            yield value
            bar.advance(task, count)
