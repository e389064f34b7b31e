"""Lines that commands print about a run, before and after it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..backbone.pocket import POCKET_NOTE
from ..core.types import Episode
from ..data.batches import CaptionTrainBatches
from ..data.sources.table import ImageTable
from ..evaluation.metrics import headline, model_values
from ..evaluation.results import ResultRow
from ..runs.options import GIVEN, is_pocket
from .setup import PreparedRun

FALSE_NEGATIVE_STEPS = 20  # batches that estimate the false-negative rate


def run_lines(run: PreparedRun) -> Iterator[str]:
    """Yield the setup of a run, including all values that were derived instead of given."""
    config, episode, method = run.options.config, run.episode, run.method
    optimiser = config.optimiser
    target = f", target {episode.target}" if episode.target else ""
    head = f"{method.name} on {config.model.backbone}; {episode.source.name}, {episode.protocol}{target}: "
    yield head + data_line(episode)
    if is_pocket(config.model.backbone) and isinstance(episode.source, ImageTable):
        yield POCKET_NOTE
    rate = false_negatives(run.batches) if isinstance(run.batches, CaptionTrainBatches) else None
    if rate is not None:
        yield (
            f"false negatives: on average a caption is true of {rate:.2f} other images of its batch, "
            "which the loss treats as negatives"
        )
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
        unused = "; --steps has no effect" if run.options.origins.get("steps") == GIVEN else ""
        yield f"the method does not iterate{unused}"
    if resolved := method.resolved():
        yield ", ".join(f"{name.replace('_', ' ')} {format_value(value)}" for name, value in resolved.items())


def data_line(episode: Episode) -> str:
    """Return the numbers of training and validation rows."""
    validation = f"{len(episode.validation_rows)} to validate"
    if episode.caption_tests:
        return f"{len(episode.train_rows)} images with captions to train, {validation}"
    return (
        f"{len(episode.train_rows)} rows of {len(episode.train_domains)} domains and "
        f"{len(episode.train_classes)} classes to train, {validation}"
    )


def false_negatives(batches: CaptionTrainBatches) -> float | None:
    """Estimate the false-negative rate per batch: the mean number of other images that a caption is true of.

    Returns:
        The mean over the first batches; None if the source does not know.
    """
    total = 0
    for step in range(FALSE_NEGATIVE_STEPS):
        rows, texts = batches.plan(step)
        count = batches.source.false_negatives(texts, rows)
        if count is None:
            return None
        total += count
    return total / (FALSE_NEGATIVE_STEPS * batches.batch_size)


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
        for group, found in model_values(row).items():
            yield f"{row.test}, {group}: {', '.join(field.labelled(value) for field, value in found)}"
    for row in rows:
        if row.zeroshot is not None and row.accuracy is not None:
            change = 100 * (row.accuracy - row.zeroshot)
            verb = "forgot" if change < 0 else "gained"
            yield (
                f"{row.method} {verb} {abs(change):.1f} points on classes not trained ({row.test}): "
                f"{100 * row.zeroshot:.1f} % zero-shot, {100 * row.accuracy:.1f} % after"
            )
