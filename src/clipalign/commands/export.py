"""`clipalign export`: write a model in the format of another library, and verify its features with that library."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..backbone import preprocess_for
from ..backbone.text.features import fill_templates
from ..core.checkpoint import follow_umask
from ..core.errors import UserError
from ..core.parsing import make_config, parse_config
from ..core.version import __version__
from ..methods import Method, SupportsExplain
from ..runs.export import EXPORTS
from ..runs.export.base import ExportedModel, Probe, check_features, format_differences
from ..runs.export.head import OTHER_CLASSES, head_of, rule, write_head
from ..runs.folder import is_run
from ..runs.opening import open_model
from ..runs.record import RunRecord
from .options import ExportConfig
from .predict import read_classes

FACTS = "export.json"
RUN_FACTS = ("data", "protocol", "target", "split_hash")  # fields of a run's record that FACTS repeats


@dataclass(frozen=True)
class Export:
    """A finished export.

    Attributes:
        folder: folder of the exported files.
        image_difference, text_difference: largest absolute difference of L2-normalised features between the model and
            the exported copy. image_difference is None for formats with the text tower only.
        classifier: whether class features or a linear layer were exported.
        state_difference: largest relative difference of the text tower's hidden states, for formats with the text
            tower only; else None.
    """

    folder: Path
    image_difference: float | None
    text_difference: float
    classifier: bool
    state_difference: float | None = None


def export(
    model: str | Path,
    to: str,
    out: str | Path,
    *,
    classes_file: str | Path | None = None,
    template: Sequence[str] = (),
    weights: Literal["model", "last"] = "model",
    towers_only: bool = False,
    cache_dir: str | Path | None = None,
    overwrite: bool = False,
) -> Export:
    """Export a model to the format of another library, as `clipalign export` does.

    `out` is created only after the other library has reproduced the features of the model.

    Args:
        model: run folder or backbone.
        to: open_clip, hf, hf-text, safetensors, onnx, or a format of another package.
        out: folder to write.

    The keywords are the options of the command line; see `ExportConfig`.

    Raises:
        UserError: invalid input, a missing extra, a model that the format cannot represent, or features that differ.
            Nothing is written.
    """
    return _export(make_config(ExportConfig, locals()))[0]


def run_export(tokens: Sequence[str], prog: str = "clipalign export") -> Export:
    """Run `clipalign export` with command-line arguments, and print the differences of the features."""
    written, lines = _export(parse_config(ExportConfig, tokens, prog))
    print("\n".join(lines))
    return written


def _export(config: ExportConfig) -> tuple[Export, list[str]]:
    """Export a model; return the result and the lines to print."""
    form = EXPORTS.get(config.to)()
    check_place(config.out, config.overwrite)
    method, names, templates, record = open_for_export(config)
    texts = (
        [p for group in fill_templates(names, templates, method.backbone.names) for p in group]
        if names
        else []
    )
    probe = Probe.draw(method.backbone, texts)
    if form.text_only:
        check_texts(method, config)
    wants_head = bool(names) and not config.towers_only and not form.text_only
    head = head_of(method, names, templates, probe.images) if wants_head else None
    if wants_head and head is None and not form.all_tensors:
        raise UserError(
            f"--to {config.to}: predictions of --method {method.name} need more than the two towers "
            f"({method.trains}), which this format does not hold. --to safetensors keeps every tensor; "
            "--towers-only exports the towers, whose predictions are zero-shot ones"
        )
    interpolation = None if record is None else record.interpolation
    preprocess = preprocess_for(method.backbone, interpolation)
    model = ExportedModel(method.backbone, preprocess, method.state_dict(), config.cache_dir)
    with new_folder(config.out) as folder:
        with _quiet():
            form.write(model, folder)
            original = form.features(method.backbone, probe)
            differences = check_features(original, form.read(folder, probe), form.library)
        if head is not None:
            write_head(head, folder)
        if is_run(config.model) and (card := Path(config.model) / "README.md").is_file():
            shutil.copyfile(card, folder / "README.md")
        form.write_card(method, folder)
        about = export_facts(config, method, record, differences)
        about["classifier"] = None if head is None else head.kind
        (folder / FACTS).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    lines = [
        f"{config.out}: written for {form.library} and loaded again with it; largest difference of L2-normalised "
        f"features: {format_differences(differences, '.1e')}"
    ]
    if head is not None:
        lines.append(
            f"classifier.safetensors: {len(names)} classes, {rule(head)}. {OTHER_CLASSES[head.kind]}"
        )
    elif wants_head:
        lines.append(
            f"no classifier: predictions of {method.name} need tensors of the method, which are in the file under "
            '"method."'
        )
    elif names and not form.text_only:
        lines.append("no classifier: predictions of the towers are zero-shot ones, not the method's")
    lines += [*form.notes(method), form.usage(config.out)]
    done = Export(
        config.out,
        differences.get("images"),
        differences["texts"],
        head is not None,
        differences.get("hidden states"),
    )
    return done, lines


def export_facts(
    config: ExportConfig, method: Method, record: RunRecord | None, differences: Mapping[str, float]
) -> dict[str, object]:
    """Return the content of export.json: the origin of the model and how exactly it was reproduced."""
    features = dict(differences)
    states = features.pop("hidden states", None)
    facts: dict[str, object] = {
        "format": config.to,
        "from": config.model,
        "method": method.name,
        "backbone": method.backbone.spec,
        "weights": config.weights,
        "clipalign": __version__,
        "largest_difference_of_unit_features": features,
        "run": {} if record is None else {name: getattr(record, name) for name in RUN_FACTS},
    }
    if states is not None:
        facts["largest_relative_difference_of_hidden_states"] = states
    return facts


def check_texts(method: Method, config: ExportConfig) -> None:
    """Check that the text tower encodes texts as the method does, and that no classifier is configured.

    Raises:
        UserError: the method adds learned vectors to texts, or options of a classifier were given.
    """
    if config.classes_file is not None or config.template:
        raise UserError(
            "--to hf-text writes the text tower without a classifier: drop --classes-file and --template"
        )
    if isinstance(method, SupportsExplain) and not config.towers_only:
        raise UserError(
            f"--to hf-text: --method {method.name} adds learned vectors ({method.trains}) to its texts, which a text "
            "tower of transformers does not hold; --towers-only writes the tower without them"
        )


def open_for_export(
    config: ExportConfig,
) -> tuple[Method, tuple[str, ...], tuple[str, ...], RunRecord | None]:
    """Return the model, the classes of its classifier, templates, and the record of its run, if it is one."""
    names = tuple(read_classes(config.classes_file)) if config.classes_file is not None else ()
    opened = open_model(
        config.model, weights=config.weights, cache_dir=config.cache_dir, templates=config.template
    )
    if opened.method.backbone.pooling != "class":
        raise UserError(
            f"MODEL {config.model}: --pooling {opened.method.backbone.pooling} cannot be exported; export formats take "
            "the class token as the image feature"
        )
    templates = config.template or tuple(opened.method.templates)
    return opened.method, names or opened.class_names, templates, opened.record


def check_place(out: Path, overwrite: bool) -> None:
    """Check that a folder is new or empty, or holds an export that may be replaced.

    Raises:
        UserError: it is neither.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out: {out} is a file, not a folder")
    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            raise UserError(f"--out: {out} is not empty; choose another folder, or give --overwrite")
        if not (out / FACTS).is_file():
            raise UserError(f"--overwrite: {out} holds something other than an export (no {FACTS})")


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder next to `out`, which is moved to `out` when the block ends without an error."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        old = out.with_name(f".{out.name}.{os.getpid()}.old")
        if out.exists():
            os.replace(out, old)
        for file in temporary.rglob("*"):
            if file.is_file():
                follow_umask(file)
        os.replace(temporary, out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the loading messages of other libraries.

    The root logger gets a handler for that time, since `logging.warning` would install a permanent one.
    """
    handler, disabled = logging.NullHandler(), logging.root.manager.disable
    logging.root.addHandler(handler)
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
        logging.root.removeHandler(handler)
