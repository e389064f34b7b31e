"""Model card of a run: metadata for model hubs, data, protocol, results, limits and licences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import open_clip
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id

from ..backbone.loading import split_size
from ..core.checkpoint import write_text
from ..data.registry import SOURCES
from ..data.request import SHIPPED
from ..evaluation.metrics import METRICS, ROW_KINDS, arrange, measured_fields, metric_groups, row_cells
from ..evaluation.results import ResultRow
from ..methods import get_method
from .folder import RunFolder
from .options import is_pocket
from .record import RunRecord

TEMPLATE = Path(__file__).with_name("templates") / "card.md.jinja"
MAX_NAMES = 12  # class names that a card lists
MAX_PROMPTS = 3
DASH = "–"


def write_card(folder: RunFolder, rows: Sequence[ResultRow]) -> None:
    """Write the card of a run to README.md, where model hubs look for it."""
    write_text(folder.card, model_card(folder.record(), rows).content + "\n")


def model_card(record: RunRecord, rows: Sequence[ResultRow]) -> ModelCard:
    """Return the card of a run.

    Args:
        record: facts in the run's config.yaml.
        rows: its result rows, at least one.
    """
    first = rows[0]
    templates = record.templates
    card: ModelCard = ModelCard.from_template(
        card_data(record, rows),
        template_path=str(TEMPLATE),
        title=f"{first.backbone}, {first.method} on {record.data}",
        backbone=first.backbone,
        method=get_method(first.method),
        seed=first.seed,
        recipe=first.recipe if first.steps else None,
        recipe_changes=first.recipe_changes,
        record=record,
        class_names=_some(record.class_names, MAX_NAMES, ", "),
        prompts=_some(templates, MAX_PROMPTS, " | "),
        table=result_table(rows),
        beyond=beyond_table(rows),
        limits=list(limits(rows)),
        licences=licences(record.data, first),
    )
    return card


def card_data(record: RunRecord, rows: Sequence[ResultRow]) -> ModelCardData:
    """Return the metadata of a card, with all results as a model index.

    The licence is "other": those of the backbone and of the data apply, and the card names them.
    """
    first = rows[0]
    base = base_model(first.backbone)
    data = first.data.removeprefix("hf:") if first.data.startswith("hf:") else record.data
    evaluations = list(_evaluations(record, rows, data))
    return ModelCardData(
        library_name="clipalign",
        pipeline_tag="zero-shot-image-classification",
        license="other",
        license_name="backbone-and-data",
        license_link="README.md#licence",
        base_model=base,
        base_model_relation="finetune" if base else None,
        datasets=[data] if is_repository_name(data) else None,
        tags=["clip", "fine-tuned", first.method],
        metrics=list(dict.fromkeys(result.metric_type for result in evaluations)) or None,
        model_name=f"{first.backbone}, {first.method}",
        eval_results=evaluations or None,
    )


def _evaluations(record: RunRecord, rows: Sequence[ResultRow], data: str) -> Iterator[EvalResult]:
    """Yield the metrics of each test set that reports have tables of."""
    protocol = ", ".join(value for value in (record.protocol, record.target) if value)
    metrics = {field.name: name for name, metric in METRICS.all().items() for field in metric.fields}
    fields = [field for field in measured_fields(rows) if field.table and not field.variant]
    for row in rows:
        for field in fields:
            if (value := row.value(field.name)) is not None:
                yield EvalResult(
                    task_type="image-text-retrieval"
                    if is_retrieval(row)
                    else "zero-shot-image-classification",
                    dataset_type=data,
                    dataset_name=f"{record.data} ({protocol}), {row.test}",
                    dataset_config=protocol,
                    dataset_split=row.test,
                    metric_type=metrics[field.name],
                    metric_name=field.name.replace("_", " ") + (f" ({field.unit})" if field.unit else ""),
                    metric_value=round(field.scale * value, field.digits + 1),
                )


def is_repository_name(name: str) -> bool:
    """Return whether a name can be one of a repository; the hub rejects cards with other names of data sets."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def is_retrieval(row: ResultRow) -> bool:
    """Return whether a row is of a test set of captions."""
    return "texts" in row.extra


def base_model(backbone: str) -> str | None:
    """Return the hub repository of a backbone's weights; None if they have none or are shipped.

    >>> base_model("hf-hub:laion/CLIP-ViT-B-16@336")
    'laion/CLIP-ViT-B-16'
    """
    name, _ = split_size(backbone)
    if name.startswith("hf-hub:"):
        return name.removeprefix("hf-hub:")
    if name.startswith("hf:"):
        repository = name.removeprefix("hf:")
        return None if Path(repository).expanduser().is_dir() else repository
    architecture, _, tag = name.partition(":")
    facts = open_clip.get_pretrained_cfg(architecture, tag)
    # "ORG/NAME/", or "ORG/NAME/FILE"
    return "/".join(facts["hf_hub"].split("/")[:2]) if facts.get("hf_hub") else None


@dataclass(frozen=True)
class CardTable:
    """Results of a run as text; the first column names the test set."""

    heads: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    note: str


def result_table(rows: Sequence[ResultRow]) -> CardTable:
    """Return all metrics of a run."""
    fields = measured_fields(rows, ROW_KINDS)
    classes, texts = any(row.classes for row in rows), any("texts" in row.extra for row in rows)
    heads = ["test", *arrange(fields)[0], "images"]
    heads += ["class names", "zero-shot before"] if classes else []
    heads += ["texts"] if texts else []
    lines = []
    for row in rows:
        counts = [str(row.n)]
        if classes:
            counts += ["" if row.classes is None else str(row.classes)]
            counts += ["" if row.zeroshot is None else f"{100 * row.zeroshot:.1f}"]
        if texts:
            counts += [str(row.extra.get("texts", ""))]
        for variant, cells in row_cells(row, fields):
            test = f"{row.test}, {variant}" if variant else row.test
            lines.append((_escaped(test), *(cell or DASH for cell in cells), *counts))
    notes = ["In percent, from a single run: another seed gives other numbers."]
    notes += [f"{field.title}: in {field.unit}." for field in fields if field.unit != "%"]
    notes += dict.fromkeys(field.note for field in fields if field.note)
    if classes:
        notes.append(
            "Zero-shot before: accuracy of the backbone before training, on classes that were not trained."
        )
    return CardTable(tuple(heads), tuple(lines), " ".join(notes))


def beyond_table(rows: Sequence[ResultRow]) -> CardTable | None:
    """Return the metrics of `--metrics`, a line each and a column per test set; None without them."""
    fields = [field for metric in metric_groups().values() for field in metric.fields]
    measured = [
        field
        for field in fields
        if not field.by and field.table and any(row.value(field.name) is not None for row in rows)
    ]
    if not measured:
        return None
    lines = []
    for field in measured:
        title = f"{field.title}, {field.variant}" if field.variant else field.title
        unit = "" if field.unit in ("%", "") else f" ({field.unit})"
        cells = (field.format(row.value(field.name)) or DASH for row in rows)
        lines.append((f"{title}{unit} {field.arrow}".rstrip(), *cells))
    notes = ["In percent or the unit of the line. ↑: higher is better; ↓: lower is better."]
    notes += dict.fromkeys(field.note for field in measured if field.note)
    return CardTable(("metric", *(_escaped(row.test) for row in rows)), tuple(lines), " ".join(notes))


def limits(rows: Sequence[ResultRow]) -> Iterator[str]:
    """Yield the limits that follow from the results, then those of every fine-tuned model."""
    for row in rows:
        if row.zeroshot is not None and row.accuracy is not None and row.accuracy < row.zeroshot:
            points = 100 * (row.zeroshot - row.accuracy)
            yield f"On classes that were not trained it lost {points:.1f} points ({row.test})."
        if row.accuracy is None and row.reason is not None:
            yield f"It cannot score the test set {row.test}: {row.reason}."
        elif len(row.domain_accuracy) > 1:
            worst, share = min(row.domain_accuracy.items(), key=lambda item: item[1])
            yield f"Its worst domain in {row.test} is {worst}: {100 * share:.1f} %."
    if is_pocket(rows[0].backbone):
        yield "The pocket backbone is a test vehicle: small, and pre-trained on drawings only."
    yield (
        "The numbers hold for the test sets above; other kinds of images, class lists and prompts were not tested. "
        "Probabilities are not calibrated."
    )
    yield "The model keeps what its backbone learned in pre-training, biases included."


def licences(data_name: str, row: ResultRow) -> list[str]:
    """Return the terms that apply to the weights: those of the backbone and those of the data.

    Args:
        data_name: name of the data source.
        row: a result row of the run.
    """
    terms = (
        SHIPPED if is_pocket(row.backbone) else "the licence of its weights applies to the fine-tuned ones"
    )
    backbone = f"Backbone {row.backbone}: {terms}."
    if row.data in SOURCES:
        data = SOURCES.get(row.data)
        return [backbone, f"Data {data.title}: {data.licence}."]
    return [backbone, f"Data {data_name}: unknown to clipalign; state here under which terms it was used."]


def _escaped(text: str) -> str:
    """Escape a cell of a Markdown table."""
    return text.replace("|", "\\|")


def _some(texts: Sequence[str], most: int, separator: str) -> str:
    """Join the first texts and count the others."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return separator.join(texts[:most]) + more
