"""Section on classes: gains and losses, confusions, calibration, images whose answer changed, class similarity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..backbone import load
from ..core.config import TrainConfig
from ..core.errors import UserError
from ..core.types import Source
from ..data.registry import source_from
from ..explain.figures import save
from ..methods.shared.alignclip_variant import PUBLISHED_SHARPNESS, released_sharpness
from ..runs.options import train_options_from
from .changed import changes, gallery
from .class_table import ClassAccuracies, class_accuracies, class_grid
from .collect import StoredRun
from .comparison import choose_baseline
from .confusion import SHOWN, chosen_classes, confusion, confusion_counts, confusion_figure
from .document import Heading, Paragraph, Part, Picture
from .predictions import Lines, Predictions, predictions_by_task
from .reliability import reliability, reliability_figure
from .rows import Task, order_labels
from .similarity import similarity_figure, text_similarity
from .style import LineStyle

MATRICES = 3  # lines with a confusion matrix; more matrices are too small at the width of a page
GALLERIES = 3  # lines compared with the baseline image by image


@dataclass(frozen=True)
class ClassSection:
    """The section, and the accuracies behind its tables, of all targets and test sets."""

    parts: list[Part]
    tables: list[ClassAccuracies]


@dataclass(frozen=True)
class Place:
    """One test set of one task, with the lines that were tested on the same views of it.

    Attributes:
        title: data, protocol, backbone, target and test set.
        lines: label -> predictions of each seed.
        baseline: label of the baseline; None if the task lacks it.
        source: the data set; None if it cannot be opened.
        names: class names.
    """

    title: str
    lines: Mapping[str, Sequence[Predictions]]
    baseline: str | None
    source: Source | None
    names: Sequence[str]


def class_section(
    runs: Sequence[StoredRun],
    folder: Path,
    styles: Mapping[str, LineStyle],
    baseline: str | None,
    images: int,
    sharpnesses: Sequence[float] = (),
) -> ClassSection:
    """Return the section, with the pictures of the first target of each task.

    Args:
        runs: those with predictions are used.
        folder: folder of the PNG files.
        styles: label -> style.
        baseline: as in `differences`.
        images: images per row of a gallery; 0 draws neither galleries nor class similarity, and opens no model.
        sharpnesses: factors at which class similarity is drawn; see `similarity_part`.
    """
    parts: list[Part] = []
    tables: list[ClassAccuracies] = []
    for number, (task, lines) in enumerate(predictions_by_task(runs), 1):
        if not lines:
            continue
        source, config, reason = _open(task, lines)
        names = source.class_names if source else _numbered(lines)
        reference = choose_baseline(order_labels(key.label for key in lines), baseline)
        first: Place | None = None
        for target, test in dict.fromkeys((key.target, key.test) for key in lines):
            place = _place(task, lines, target, test, reference, source, names)
            if place.baseline is not None and len(place.lines) > 1:
                tables.append(
                    class_accuracies((task.title, target, test), place.lines, place.baseline, names)
                )
            first = place if first is None or (test == "all" and "all" not in first.title) else first
        assert first is not None
        parts += _tables(tables, task, first)
        parts += _confusions(first, folder / f"confusion-{number}.png")
        parts += _calibration(first, folder / f"reliability-{number}.png", styles)
        if reason:
            parts.append(Paragraph(f"Without class names, changed images and class similarity: {reason}."))
        if images and source is not None and config is not None:
            parts += _galleries(first, folder, number, images)
            parts += similarity_part(config, source, folder / f"similarity-{number}.png", sharpnesses)
    return ClassSection([Heading("Classes"), *parts] if parts else [], tables)


def _open(task: Task, lines: Lines) -> tuple[Source | None, TrainConfig | None, str]:
    """Return the data set and the options of the first run that has them, or the reason why there is none."""
    reason = "no run of this task has its options"
    for run in dict.fromkeys(one.run.folder.path for seeds in lines.values() for one in seeds):
        stored = next(one.run for seeds in lines.values() for one in seeds if one.run.folder.path == run)
        if not stored.options:
            continue
        try:
            options = {"config": stored.folder.config, "out": stored.folder.path}
            config = train_options_from(options).config
            source = source_from(config.data)
        except UserError as error:
            reason = str(error)
            continue
        highest = max(int(one.labels.max(initial=0)) for seeds in lines.values() for one in seeds)
        if source.name == task.data and highest < len(source.class_names):
            return source, config, ""
        reason = f"the options of {stored.name} name {source.name} instead of {task.data}"
    return None, None, reason


def _numbered(lines: Lines) -> list[str]:
    highest = max(
        int(max(one.labels.max(initial=0), one.ranked.max(initial=0)))
        for seeds in lines.values()
        for one in seeds
    )
    return [f"class {number}" for number in range(highest + 1)]


def _place(
    task: Task,
    lines: Lines,
    target: str,
    test: str,
    baseline: str | None,
    source: Source | None,
    names: Sequence[str],
) -> Place:
    """Return a test set with the lines whose views agree with those of the baseline, else of the first line."""
    here = {key.label: seeds for key, seeds in lines.items() if (key.target, key.test) == (target, test)}
    ordered = {label: here[label] for label in order_labels(here)}
    reference = baseline if baseline in ordered else None
    views = ordered[reference or next(iter(ordered))][0]
    same = {
        label: kept
        for label, seeds in ordered.items()
        if (kept := [one for one in seeds if one.same_views(views)])
    }
    title = ", ".join(filter(None, (task.title, target, f"test set {test}")))
    return Place(title, same, reference, source, names)


def _tables(tables: Sequence[ClassAccuracies], task: Task, first: Place) -> list[Part]:
    """Return the table of the first target, whose pictures are drawn."""
    for found in tables:
        title = ", ".join(filter(None, (found.task, found.target, f"test set {found.test}")))
        if found.task == task.title and title == first.title:
            return [class_grid(found)]
    return []


def _confusions(place: Place, path: Path) -> list[Part]:
    lines = dict(list(place.lines.items())[:MATRICES])
    if len(place.names) < 2:
        return []
    counts = {label: confusion_counts(seeds, len(place.names)) for label, seeds in lines.items()}
    total = np.sum(list(counts.values()), axis=0)  # [C, C]
    shown = chosen_classes(total)
    if len(shown) < 2:
        return []
    names = [place.names[c] for c in shown]
    figure = confusion_figure([confusion(label, one, shown) for label, one in counts.items()], names)
    occurring = int((total.sum(axis=1) > 0).sum())
    which = (
        f"The {len(shown)} classes of the most frequent confusions, of {occurring}"
        if occurring > SHOWN
        else f"All {len(shown)} classes"
    )
    text = f"{place.title}. {which}; similar confusions are neighbours (average linkage). Sums over seeds."
    if len(place.lines) > len(lines):
        text += f" Of {len(place.lines)} lines, the first {len(lines)}."
    return [Picture(save(figure, path), "Confusion matrices", text)]


def _calibration(place: Place, path: Path, styles: Mapping[str, LineStyle]) -> list[Part]:
    found = {label: reliability(seeds) for label, seeds in place.lines.items()}
    known = {label: one for label, one in found.items() if one is not None}
    missing = [label for label in found if label not in known]
    without = (
        f"Without probabilities in predictions.npz, which older versions did not store: {', '.join(missing)}; "
        "train again to draw their calibration."
    )
    if not known:
        return [Paragraph(f"No reliability plot. {without}")]
    text = (
        f"{place.title}. Accuracy over confidence, in ten bins of equally many images, with 95 % binomial intervals. "
        "On the dotted line confidence is calibrated; below it, the model is too confident."
    )
    figure = reliability_figure(known, styles)
    return [Picture(save(figure, path), "Reliability", text + (f" {without}" if missing else ""))]


def _galleries(place: Place, folder: Path, number: int, images: int) -> list[Part]:
    if place.baseline is None or place.source is None:
        return []
    before = place.baseline, place.lines[place.baseline][0]
    parts: list[Part] = []
    for i, label in enumerate([label for label in place.lines if label != place.baseline][:GALLERIES], 1):
        after = label, place.lines[label][0]
        found = changes(before[1], after[1])
        figure = gallery(place.source, before, after, found, images)
        if figure is None:
            parts.append(Paragraph(f"{label} answers the same images right as {place.baseline}."))
            continue
        counts = " and ".join(f"{len(change.views)} {change.title}" for change in found)
        text = (
            f"{place.title}. Answers that changed from {place.baseline} to {label}: {counts}, of {len(after[1].rows)} "
            "images of the first seed; drawn at random with seed 0."
        )
        path = save(figure, folder / f"changed-{number}-{i}.png")
        parts.append(Picture(path, "Images whose answer changed", text))
    return parts


def similarity_part(
    config: TrainConfig, source: Source, path: Path, sharpnesses: Sequence[float] = ()
) -> list[Part]:
    """Return the heat map of class similarity before training.

    Args:
        config: options of a run; its backbone is opened.
        source: data set with the class names.
        path: PNG file.
        sharpnesses: factors of softmax(h S); default: 1, as the paper, and that of the released code.
    """
    try:
        backbone = load(config.model.backbone, cache_dir=config.model.cache_dir).configure(config.model)
    except UserError as error:
        return [Paragraph(f"No class similarity: {error}.")]
    chosen = sharpnesses or (1.0, released_sharpness(backbone))
    figure = similarity_figure(
        text_similarity(backbone, source.class_names, source.templates), source.class_names, chosen
    )
    text = (
        f"{len(source.class_names)} classes of {source.name}, {config.model.backbone} before training: cosines between "
        "class texts, and the shares from which semantic label smoothing takes its targets (paper: 1; released code: "
        f"{PUBLISHED_SHARPNESS:g} at CLIP's logit scale). Diagonals are left out; each panel has its own scale, "
        "which ends at the 99.5th percentile. "
        "Ordered by average-linkage clustering."
    )
    return [Picture(save(figure, path), "Class similarity", text)]
