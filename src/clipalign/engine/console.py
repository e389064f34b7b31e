"""What a run says of itself at its beginning and at its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..core.precision import Precision
from ..data.batches import TrainBatches
from ..evaluation.metrics import headline
from ..evaluation.results import ResultRow
from ..methods import Method
from ..runs.options import TrainOptions
from .tasks import ClassTask


def introduction(
    options: TrainOptions,
    method: Method,
    task: ClassTask,
    steps: TrainBatches | None,
    average: str,
    precision: Precision,
) -> Iterator[str]:
    """What is about to be done, with every number that was chosen for the user."""
    config, episode = options.config, task.episode
    optimiser = config.optimiser
    target = f", target {episode.target}" if episode.target else ""
    head = f"{method.name} on {config.model.backbone}; {episode.source.name}, {episode.protocol}{target}: "
    lines = task.introduction(steps)
    yield head + next(lines)
    yield from lines
    if episode.skipped:
        yield f"skipped {len(episode.skipped)} files that are no images; they are listed in skipped.csv"
    if method.iterates:
        trained = sum(parameter.numel() for parameter in method.parameters())
        yield (
            f"{trained:,} parameters trained for {config.schedule.steps} steps of {optimiser.batch_size} images; "
            f"lr {optimiser.lr:g} ({options.origins.get('lr', 'default')}), average {average}, "
            f"{precision.name}, seed {config.run.seed}"
        )
    else:
        yield "no steps are taken: --steps has no effect"
    if resolved := method.resolved():
        yield ", ".join(f"{name.replace('_', ' ')} {shown(value)}" for name, value in resolved.items())


def shown(value: Any) -> str:
    """A value as a reader wants it: six digits of a float."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def conclusion(rows: Sequence[ResultRow]) -> Iterator[str]:
    """The numbers, and what they cost."""
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
