"""Published numbers next to measured ones, in columns of their own.

A number is keyed by everything that makes it comparable: data, protocol, target, test set or part of the target,
metric, method and its options, pooling, shots, backbone, templates and recipe. It is listed next to a measurement that
agrees in all of them, or in all but one, which is named then.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ..backbone import slip
from ..core.config import ModelOptions
from ..evaluation.metrics import METRICS
from ..methods import get_method
from ..protocols import RETRIEVAL
from .document import Grid, Heading, Part
from .measurements import Measurement, measurements
from .rows import ReportRow

ASSETS = Path(__file__).resolve().parents[1] / "assets"
PARTS = ("all", "in", "out")  # parts of the target that domain-shift tests; a number holds for one of them
PAPER_OR_CODE = (
    "variant"  # option that selects between a paper and its code; numbers without it may be from either
)
PUBLISHED_RECIPE = "published"
TITLES = {"accuracy": "accuracy", "h": "h", "h_of_means": "h of the means"}


@dataclass(frozen=True)
class PublishedNumber:
    """A line of published.csv: a number of a publication, in percent as printed.

    Attributes:
        source, table: publication, and its table or figure.
        data: as in a result row, or a mean over data sets such as "mean-of-5".
        protocol, target, test, metric, method: as in `Measurement`; target "mean" is the mean over all targets.
        options: options of the method, and `pooling`, that differ from their defaults, as "name=value name=value".
        shots: training images per class, "all", or "" if there are none.
        backbone: value of --backbone, with FILE for the path of a checkpoint; "RN50:imagenet" is a ResNet-50 that was
            not trained with texts.
        template: "default" (the data set's, as CoOp), or "" if predictions use none.
        percent, std_percent: value, and the publication's ± if it prints one.
        note: origin of a value that the table does not print itself, or a condition that is not keyed.
    """

    source: str
    table: str
    data: str
    protocol: str
    target: str
    test: str
    metric: str
    method: str
    options: str
    shots: str
    backbone: str
    template: str
    percent: str
    std_percent: str
    note: str

    def __str__(self) -> str:
        return self.percent + (f" ± {self.std_percent}" if self.std_percent else "")

    @property
    def origin(self) -> str:
        """Publication and table, with the note."""
        return f"{self.source}, {self.table}" + (f"; {self.note}" if self.note else "")

    @property
    def task(self) -> str:
        """Data, protocol and target."""
        return f"{self.data}, {self.protocol}" + (f", {self.target}" if self.target else "")

    @property
    def values(self) -> dict[str, Any]:
        """Options as values of YAML.

        >>> published_numbers()[0].values
        {}
        """
        pairs = (pair.partition("=") for pair in self.options.split())
        return {name: yaml.safe_load(value) for name, _, value in pairs}


@cache
def published_numbers() -> tuple[PublishedNumber, ...]:
    """Return all published numbers of the package."""
    with (ASSETS / "published.csv").open(encoding="utf-8", newline="") as file:
        return tuple(PublishedNumber(**line) for line in csv.DictReader(file))


@cache
def ablated_options(method: str) -> frozenset[str]:
    """Return the options of a method that published numbers vary."""
    numbers = (number for number in published_numbers() if number.method == method)
    return frozenset(name for number in numbers for name in number.values) - {PAPER_OR_CODE}


def differences(number: PublishedNumber, measured: Measurement) -> tuple[str, ...] | None:
    """Return the conditions in which a measurement differs from a published number.

    Returns:
        One phrase per difference; () if the two are comparable; None if they describe different quantities.
    """
    same = ("data", "protocol", "target", "metric", "method")
    if any(getattr(number, name) != getattr(measured, name) for name in same):
        return None
    parts = number.test in PARTS and number.protocol == "domain-shift" and measured.test in PARTS
    if (number.test != measured.test and not parts) or not _same_options(number, measured):
        return None
    found = []
    if recipe := recipe_difference(measured):
        found.append(recipe)
    if number.test != measured.test:
        found.append(f"target split {measured.test} instead of {number.test}")
    if number.shots and number.shots != measured.shots:
        found.append(f"shots {measured.shots} instead of {number.shots}")
    if canonical_backbone(number.backbone) != canonical_backbone(measured.backbone):
        found.append(f"backbone {measured.backbone} instead of {number.backbone}")
    if number.template and measured.template and number.template != measured.template:
        found.append(f"template {measured.template} instead of {number.template}")
    return tuple(found)


def recipe_difference(measured: Measurement) -> str:
    """Return how the recipe of a measurement differs from the published one: one phrase, or "".

    Runs that store no recipe are taken to have the published one.
    """
    recipe = str(measured.settings.get("recipe") or PUBLISHED_RECIPE)
    changes = measured.settings.get("recipe_changes")
    if recipe != PUBLISHED_RECIPE:
        return f"recipe {recipe} instead of {PUBLISHED_RECIPE}"
    return f"recipe {recipe} except {changes}" if changes else ""


def _same_options(number: PublishedNumber, measured: Measurement) -> bool:
    """Return whether a run has the options of a number, and defaults of those that other numbers vary."""
    chosen = number.values
    defaults = {f.name: f.default for f in fields(get_method(number.method).Config)}
    defaults["pooling"] = ModelOptions.pooling
    for name in ablated_options(number.method) | chosen.keys() | {"pooling"}:
        default = defaults.get(name)
        value = measured.settings.get(name, default)
        if value != chosen.get(name, default):
            return False
    return True


def canonical_backbone(name: str) -> str:
    """Return one name for all names of the same weights.

    The checkpoints of SLIP and DeCLIP have no names, so any file of their architectures is taken to be the published
    one.

    >>> canonical_backbone("ViT-B-16-quickgelu:openai"), canonical_backbone("ViT-B-16:openai@336")
    ('ViT-B-16:openai', 'ViT-B-16:openai@336')
    >>> canonical_backbone("SLIP-ViT-B-32:weights/slip.pth.tar"), canonical_backbone("SLIP-ViT-B-32:random")
    ('SLIP-ViT-B-32:FILE', 'SLIP-ViT-B-32:random')
    """
    name = re.sub(r"-quickgelu(?=:openai)", "", name)
    files = "|".join(map(re.escape, slip.NAMES))
    return re.sub(rf"^({files}):(?!random(?:@|$))[^@]+", r"\1:FILE", name)


def architecture(name: str) -> str:
    """Return the architecture of a backbone.

    >>> architecture("ViT-B-16-quickgelu:openai"), architecture("pocket")
    ('ViT-B-16', 'pocket')
    """
    return re.split("[:@]", name)[0].replace("-quickgelu", "")


def published_sections(rows: Sequence[ReportRow]) -> list[Part]:
    """Return measured means over seeds next to the published numbers that they match or nearly match.

    Recalls have a section of their own.
    """
    accuracies: list[tuple[str, ...]] = []
    recalls: list[tuple[str, ...]] = []
    for measured, number, difference in matches(measurements(rows)):
        names = (number.task, measured.test, measured.label, measured.backbone)
        values = (_metric_title(number.metric), str(measured.cell), str(number), difference, number.origin)
        (recalls if number.protocol == RETRIEVAL else accuracies).append((*names, *values))
    heads = ("task", "test", "method", "backbone", "metric", "measured", "published", "difference", "source")
    note = (
        "In percent. Published: as printed, with ± as defined there. An empty difference: data, test set, shots, "
        "backbone, templates and recipe agree; a number that differs in more than one of them is not listed. "
        "Published numbers enter no other table or plot."
    )
    parts: list[Part] = []
    for title, lines in (("Published numbers", accuracies), ("Published recalls", recalls)):
        if lines:
            parts += [Heading(title), Grid(heads, tuple(lines), note, labels=5)]
    return parts


def matches(found: Iterable[Measurement]) -> list[tuple[Measurement, PublishedNumber, str]]:
    """Return measurements with the published numbers that they match, or nearly match with one difference.

    A near match is left out if the same table line has a match of the same number. Backbones of another architecture
    never match.
    """
    pairs = []
    for measured in found:
        for number in published_numbers():
            difference = differences(number, measured)
            if (
                difference is not None
                and len(difference) <= 1
                and architecture(number.backbone) == architecture(measured.backbone)
            ):
                pairs.append((measured, number, "".join(difference)))
    exact = {(measured.label, number) for measured, number, difference in pairs if not difference}
    return [pair for pair in pairs if not pair[2] or (pair[0].label, pair[1]) not in exact]


def _metric_title(metric: str) -> str:
    """Return the head of a metric's column."""
    recalls = {field.name: field.title for field in METRICS.get("recall").fields}
    return TITLES.get(metric) or recalls[metric]
