"""Lines that commands print about a run, before and after it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..evaluation.metrics import headline
from ..evaluation.results import ResultRow
from .setup import PreparedRun


def run_lines(run: PreparedRun) -> Iterator[str]:
    """Yield the setup of a run, including all values that were derived instead of given."""
    config, episode, method = run.options.config, run.task.episode, run.method
    optimiser = config.optimiser
    target = f", target {episode.target}" if episode.target else ""
    head = f"{method.name} on {config.model.backbone}; {episode.source.name}, {episode.protocol}{target}: "
    lines = run.task.describe(run.batches)
    yield head + next(lines)
    yield from lines
    if episode.skipped:
        yield f"skipped {len(episode.skipped)} files that do not decode as images; see skipped.csv"
    if method.iterates:
        trained = sum(parameter.numel() for parameter in method.parameters())
        yield (
            f"{trained:,} trained parameters, {config.schedule.steps} steps of {optimiser.batch_size} images; "
            f"lr {optimiser.lr:g} ({run.options.origins.get('lr', 'default')}), average {run.average}, "
            f"{run.precision.name}, seed {config.run.seed}"
        )
    else:
        yield "the method does not iterate: --steps has no effect"
    if resolved := method.resolved():
        yield ", ".join(f"{name.replace('_', ' ')} {format_value(value)}" for name, value in resolved.items())


def format_value(value: Any) -> str:
    """Format a value for a log line: floats with six significant digits."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def result_lines(rows: Sequence[ResultRow]) -> Iterator[str]:
    """Yield the scores of a run, then what it forgot on classes it was not trained on."""
    for row in rows:
        if row.reason is not None:
            yield f"{row.test}: not scored, {row.reason}"
            continue
        values = ", ".join(
            f"{field.title} {field.format(value)} {field.unit}" for field, value in headline(row)
        )
        among = f"{row.classes} classes" if row.classes is not None else f"{row.extra['texts']} texts"
        yield f"{row.test}: {values}; {row.n} images, {among}"
    for row in rows:
        if row.zeroshot is not None and row.accuracy is not None:
            change = 100 * (row.accuracy - row.zeroshot)
            verb = "forgot" if change < 0 else "gained"
            yield (
                f"{row.method} {verb} {abs(change):.1f} points on classes not trained ({row.test}): "
                f"{100 * row.zeroshot:.1f} % zero-shot, {100 * row.accuracy:.1f} % after"
            )
