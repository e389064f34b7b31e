"""What a run says of itself at its beginning and at its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..core.precision import Precision
from ..data.batches import TrainBatches
from ..methods import Method
from ..runs.options import TrainOptions
from ..runs.results import DIRECTIONS, RECALLS, ResultRow, recall_field
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
        if RECALLS[0] in row.extra:
            to_image, to_text = (100 * (row.value(recall_field(way, 1)) or 0.0) for way in DIRECTIONS)
            yield (
                f"{row.test}: recall@1 {to_image:.1f} % text to image, {to_text:.1f} % image to text, "
                f"{row.n} images, {row.extra['texts']} texts"
            )
            continue
        if row.accuracy is None:
            yield f"{row.test}: not scored, {row.reason}"
            continue
        h = "" if row.h is None else f", h {100 * row.h:.1f} %"
        yield f"{row.test}: {100 * row.accuracy:.1f} % of {row.n} images among {row.classes} classes{h}"
    for row in rows:
        if row.zeroshot is not None and row.accuracy is not None:
            change = 100 * (row.accuracy - row.zeroshot)
            verb = "forgot" if change < 0 else "gained"
            yield (
                f"{row.method} {verb} {abs(change):.1f} points on classes not trained ({row.test}): "
                f"{100 * row.zeroshot:.1f} % zero-shot, {100 * row.accuracy:.1f} % after"
            )
