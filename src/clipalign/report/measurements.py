"""Measured values with everything that makes them comparable with published ones, and their means.

Publications print values of one test set, means over targets, and means over data sets. All of them are computed here
per seed, and only if nothing is missing: a mean over three of four targets is no measurement of the mean over four.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..backbone.text.features import DEFAULT_TEMPLATES
from ..data.published.declarations import SHIFT, SHIFT_MEMBERS, image_sets
from ..evaluation.metrics import METRICS
from ..evaluation.metrics.harmonic_mean import harmonic_mean
from ..methods import get_method, list_methods
from .result_table import Cell
from .rows import ReportRow, by_task, is_retrieval, label_rows

MEAN = "mean"  # target of a mean over all targets
VARIANTS = "mean-of-variants"  # test of a mean over the variants of ImageNet
DOMAINBED = ("vlcs", "pacs", "office-home", "terra-incognita", "domain-net")
DOMAIN_SETS = {"mean-of-4": DOMAINBED[:4], "mean-of-5": DOMAINBED}
COOP_SETS = {
    "mean-of-11": (
        *(
            "imagenet",
            "caltech-101",
            "oxford-pets",
            "stanford-cars",
            "flowers-102",
            "food-101",
            "fgvc-aircraft",
        ),
        *("sun397", "dtd", "eurosat", "ucf101"),
    )
}
# Protocol -> mean over data sets -> its members.
MEANS_OVER_DATA: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "domain-shift": DOMAIN_SETS,
    "base-to-new": COOP_SETS,
}
DEFAULT_SHOTS = {"few-shot": "16", "imagenet-shift": "16", "base-to-new": "all"}
UNKNOWN = "unknown"
SEVERAL = "several values"  # a setting in which the members of a mean differ


@dataclass(frozen=True)
class Measurement:
    """One measured value per seed, with the facts in which it must agree with a published value.

    Attributes:
        label: line of the tables: the method, and the settings in which its runs differ.
        method, data, protocol, target, test, backbone: as in a result row; "" if there is none.
        metric: field of a result row, or "h_of_means", the harmonic mean of mean base and mean new accuracy.
        shots: training images per class, "all", "unknown", or "" if the protocol or the method has none.
        template: "default" for the data set's own, "paper" for the AlignCLIP paper's, another template in full, or ""
            if predictions use none.
        settings: options of the run that can change its numbers, with `recipe_changes`, the options that do not follow
            its recipe.
        values: seed -> value in [0, 1].
    """

    label: str
    method: str
    data: str
    protocol: str
    target: str
    test: str
    metric: str
    backbone: str
    shots: str
    template: str
    settings: Mapping[str, object]
    values: Mapping[int, float]

    @property
    def cell(self) -> Cell:
        """Mean and standard deviation over seeds."""
        return Cell.of(list(self.values.values()))


def measurements(rows: Iterable[ReportRow]) -> list[Measurement]:
    """Return every measured value of result rows, then the means over targets, tests and data sets."""
    single = list(_single(rows))
    over_targets = [*_over_targets(single), *_over_variants(single)]
    over_data = _over_data([*single, *over_targets])
    return [*single, *over_targets, *over_data, *_h_of_means(over_data)]


def _single(rows: Iterable[ReportRow]) -> Iterable[Measurement]:
    """Yield one measurement per table line, test set and metric."""
    recalls = tuple(field.name for field in METRICS.get("recall").fields if not field.variant)
    for group in by_task(rows).values():
        found: dict[tuple[str, str | None, str, str], Measurement] = {}
        for label, row in label_rows(group):
            result = row.result
            values = (
                {(result.test, name): result.value(name) for name in recalls}
                if is_retrieval(row)
                # All rows of a run hold its h; that of the base classes is taken.
                else {(result.test, "accuracy"): result.accuracy, ("", "h"): _h(row)}
            )
            for (test, metric), value in values.items():
                if value is None:
                    continue
                key = (label, result.target, test, metric)
                known = found.get(key) or _measurement(label, row, test, metric)
                found[key] = replace(known, values={**known.values, result.seed: value})
        yield from found.values()


def _h(row: ReportRow) -> float | None:
    return row.result.h if row.result.test == "base" else None


def _measurement(label: str, row: ReportRow, test: str, metric: str) -> Measurement:
    """Return the measurement of a row without its value."""
    result = row.result
    return Measurement(
        label=label,
        method=result.method,
        data=result.data,
        protocol=result.protocol or "",
        target=result.target or "",
        test=test,
        metric=metric,
        backbone=result.backbone,
        shots=_shots(row),
        template=_template(row),
        settings={**row.settings, **_recipe(row)},
        values={},
    )


def _recipe(row: ReportRow) -> dict[str, object]:
    """Return the recipe of a row and the options that do not follow it; none if the row stores no recipe."""
    result = row.result
    return {} if result.recipe is None else {"recipe": result.recipe, "recipe_changes": result.recipe_changes}


def _shots(row: ReportRow) -> str:
    """Return the shots of a row; a zero-shot row has none, and an evaluation without options leaves them unknown."""
    default = DEFAULT_SHOTS.get(row.result.protocol or "", "")
    if not default or row.result.method == "zeroshot":
        return ""
    shots = row.settings.get("shots")
    return str(shots) if shots is not None else (default if row.settings else UNKNOWN)


def _template(row: ReportRow) -> str:
    """Return which templates the predictions of a row use."""
    result = row.result
    learned = result.method in list_methods() and not get_method(result.method).uses_templates
    if is_retrieval(row) or learned or result.template is None:
        return ""
    declared = image_sets().get(result.data)
    if result.template == (declared.template if declared else DEFAULT_TEMPLATES[0]):
        return "default"
    if declared and result.template == declared.paper_template:
        return "paper"
    return result.template


def _over_targets(single: Sequence[Measurement]) -> list[Measurement]:
    """Return the means over all domains of a published data set."""
    groups: dict[tuple[str, ...], list[Measurement]] = {}
    for m in single:
        if m.target:
            key = (m.label, m.data, m.protocol, m.backbone, m.test, m.metric, m.template, m.shots)
            groups.setdefault(key, []).append(m)
    means = []
    for group in groups.values():
        declared = image_sets().get(group[0].data)
        if declared and {m.target for m in group} == set(declared.domains):
            means += average(group, target=MEAN)
    return means


def _over_variants(single: Sequence[Measurement]) -> list[Measurement]:
    """Return the means over the variants of ImageNet, without ImageNet."""
    groups: dict[tuple[str, ...], list[Measurement]] = {}
    for m in single:
        if m.data == SHIFT and m.protocol == SHIFT and not m.target and m.test in SHIFT_MEMBERS[1:]:
            groups.setdefault((m.label, m.backbone, m.metric, m.template, m.shots), []).append(m)
    complete = [group for group in groups.values() if len(group) == len(SHIFT_MEMBERS) - 1]
    return [mean for group in complete for mean in average(group, test=VARIANTS)]


def _over_data(found: Sequence[Measurement]) -> list[Measurement]:
    """Return the means over the data sets that publications average."""
    means = []
    for protocol, sets in MEANS_OVER_DATA.items():
        target = MEAN if sets is DOMAIN_SETS else ""
        for name, members in sets.items():
            groups: dict[tuple[str, ...], list[Measurement]] = {}
            for m in found:
                if m.protocol == protocol and m.data in members and m.target == target:
                    key = (m.label, m.backbone, m.test, m.metric, m.template, m.shots)
                    groups.setdefault(key, []).append(m)
            for group in groups.values():
                if {m.data for m in group} == set(members):
                    means += average(group, data=name)
    return means


def _h_of_means(over_data: Sequence[Measurement]) -> list[Measurement]:
    """Return harmonic means of mean base and mean new accuracy."""
    found = []
    for base in over_data:
        if base.test != "base" or base.metric != "accuracy":
            continue
        for new in over_data:
            if replace(base, test="new", values={}, settings={}) == replace(new, values={}, settings={}):
                both = base.values.keys() & new.values.keys()
                values = {s: harmonic_mean(base.values[s], new.values[s]) for s in sorted(both)}
                found += [replace(base, test="", metric="h_of_means", values=values)] if values else []
    return found


def average(group: Sequence[Measurement], **change: str) -> list[Measurement]:
    """Average measurements within each seed that all of them have; none if there is no such seed."""
    seeds = set.intersection(*(set(m.values) for m in group))
    shared = {
        name: value if all(m.settings.get(name) == value for m in group) else SEVERAL
        for name, value in group[0].settings.items()
    }
    values = {seed: statistics.fmean(m.values[seed] for m in group) for seed in sorted(seeds)}
    return [replace(group[0], values=values, settings=shared, **change)] if values else []
