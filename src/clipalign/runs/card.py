"""The model card of a run: what it was trained on, how it was tested, what came out, what it is not good for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..core.checkpoint import write_text
from ..methods import get_method
from .folder import RunFolder
from .options import is_pocket
from .results import RECALLS, ResultRow

SHIPPED = "ships with clipalign; the licences of its makers stand in the package's NOTICE"
MOST_NAMES = 12


def write_card(folder: RunFolder, options: Mapping[str, Any], rows: Sequence[ResultRow]) -> None:
    """Write README.md of a run folder, the name under which model hubs show a card."""
    write_text(folder.card, model_card(folder.record(), options, rows))


def model_card(record: Mapping[str, Any], options: Mapping[str, Any], rows: Sequence[ResultRow]) -> str:
    """The card as Markdown.

    Args:
        record: facts in a run's config.yaml.
        options: its options.
        rows: its results.
    """
    method = get_method(str(options["method"]))
    backbone, target = str(options["backbone"]), record.get("target")
    names = list(record["class_names"])
    lines = [
        "---",
        "library_name: clipalign",
        "pipeline_tag: zero-shot-image-classification",
        f"tags: [clip, fine-tuned, {method.name}]",
        "---",
        "",
        f"# {backbone}, {method.name} on {record['data']}",
        "",
        f"{backbone} fine-tuned with {method.name}: {method.summary} ({method.source}). Trained: {method.trains}.",
        "",
        "## Data and protocol",
        "",
        f"- Data: {record['data']} (fingerprint `{record['fingerprint']}`).",
        f"- Protocol: {record['protocol']}" + (f", target {target} left out of training." if target else "."),
        f"- Split: {record['split']} (hash `{record['split_hash']}`; rows in `split.json`).",
        *([f"- Trained classes: {len(names)}: {_some(names)}."] if names else []),
        f"- Prompts: {' | '.join(record['templates'][:3])}"
        + (f" and {len(record['templates']) - 3} more." if len(record["templates"]) > 3 else ""),
        f"- Seed {options['seed']}; weights averaged over steps: {record['average']}.",
        "",
        "## Results",
        "",
        *results(rows),
        "",
        "Made with:",
        "",
        "```",
        str(record["command"]),
        "```",
        "",
        f"clipalign {record['version']}, PyTorch {record['torch']}.",
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in limits(record, options, rows)),
        "",
        "## Licence",
        "",
        *(f"- {term}" for term in licences(record, options)),
        "",
    ]
    return "\n".join(lines)


def results(rows: Sequence[ResultRow]) -> list[str]:
    """The table of a run, of recalls or of accuracies, and how to read it."""
    if rows and RECALLS[0] in rows[0].extra:
        lines = [
            "| test | text to image @1 | @5 | @10 | image to text @1 | @5 | @10 | images | texts |",
            "| --- | --: | --: | --: | --: | --: | --: | --: | --: |",
        ]
        for row in rows:
            shares = [f"{100 * (row.value(name) or 0.0):.1f}" for name in RECALLS]
            lines.append(f"| {' | '.join([row.test, *shares, str(row.n), str(row.extra['texts'])])} |")
        return [*lines, "", "Recall in percent, one run: another seed moves it."]
    return [
        "| test | accuracy | top-5 | class mean | h | images | class names | zero-shot before |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
        *(_result(row) for row in rows),
        "",
        "In percent, one run: another seed moves them. Class mean: accuracy within each class, averaged. h: "
        "harmonic mean of base and new classes. Zero-shot: the same backbone before training, on classes that were "
        "not trained.",
    ]


def limits(record: Mapping[str, Any], options: Mapping[str, Any], rows: Sequence[ResultRow]) -> list[str]:
    """What the numbers do not show, as far as a run can know."""
    found = []
    for row in rows:
        if row.zeroshot is not None and row.accuracy is not None and row.accuracy < row.zeroshot:
            points = 100 * (row.zeroshot - row.accuracy)
            found.append(f"On classes that were not trained it lost {points:.1f} points ({row.test}).")
        if row.accuracy is None and row.reason is not None:
            found.append(f"It cannot score the test set {row.test}: {row.reason}.")
        elif row.domain_accuracy and len(row.domain_accuracy) > 1:
            worst = min(row.domain_accuracy, key=lambda name: row.domain_accuracy[name])
            share = 100 * row.domain_accuracy[worst]
            found.append(f"Its worst domain in {row.test} is {worst}: {share:.1f} %.")
    if is_pocket(str(options["backbone"])):
        found.append("The pocket backbone is a test vehicle: small, and pre-trained on drawings alone.")
    found.append(
        "The numbers are of the test sets above; images of other kinds, other class lists and other prompts "
        "were not tested. Probabilities were not calibrated."
    )
    found.append("What the backbone learned from its pre-training data, biases included, is still in it.")
    return found


def licences(record: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
    """Whose terms apply to the weights."""
    from ..data.captions.sets import caption_sets
    from ..data.published.tables import declarations
    from ..data.registry import BUILT_IN

    backbone, data = str(options["backbone"]), str(options["data"])
    terms = [
        f"Backbone {backbone}: {SHIPPED if is_pocket(backbone) else 'the licence of its weights applies to these'}."
    ]
    if data in BUILT_IN:
        terms.append(f"Data {data}: {SHIPPED}.")
    elif (declared := declarations().get(data) or caption_sets().get(data)) is not None:
        terms.append(f"Data {declared.title}: {declared.licence}.")
    else:
        terms.append(
            f"Data {record['data']}: not known to clipalign; say here under which terms it was used."
        )
    return terms


def _result(row: ResultRow) -> str:
    shares = [
        "–" if value is None else f"{100 * value:.1f}"
        for value in (row.accuracy, row.top5, row.class_accuracy, row.h)
    ]
    before = "" if row.zeroshot is None else f"{100 * row.zeroshot:.1f}"
    return f"| {' | '.join([row.test, *shares, str(row.n), str(row.classes or ''), before])} |"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
