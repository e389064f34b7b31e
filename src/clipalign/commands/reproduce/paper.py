"""Files of published tables, `configs/papers/NAME.yaml`, and the studies that they describe.

title: "AlignCLIP, table 6: accuracy per target"
published: [{source: AlignCLIP, table: table 6}]   # lines of assets/published.csv, by the values of their columns
study: {methods: ..., data: ...}                   # as for `clipalign sweep`
evaluate: [urban1k]                                # further data sets on which each run is scored
notes: [...]                                       # sentences of the report
statement: ...                                     # what the publication says about the table or figure
figure: {kind: line, x: aligned layers}            # line, points, similarity, cases or structures
claims: [{text: ..., higher: [LINE], lower: [LINE]}]  # the statement as comparisons of lines; patterns such as "a-*"
pictograms: {methods: ..., targets: ..., seeds: ..., options: ...}  # the study with --data pictograms
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from ...core.errors import UserError
from ...core.parsing import reject_unknown
from ...core.yaml_files import read_yaml
from ...report.claims import Claim
from ...report.published import PublishedNumber, published_numbers
from ...runs.recipes import shipped_folder
from ..study_options import ReproduceConfig

KEYS = {"title", "published", "study", "evaluate", "notes", "statement", "figure", "claims", "pictograms"}
PICTOGRAMS_KEYS = {"methods", "targets", "seeds", "options", "claims"}
LEAVE_ONE_OUT = ("domain-shift", "in-the-wild")  # protocols that need targets
# Keys of a data entry that identify its domains and parts; another data set has other ones.
OWN_TO_DATA = {"data", "name", "targets"}


@dataclass(frozen=True)
class Paper:
    """A published table or figure.

    Attributes:
        name: name of its file.
        title: publication, table and subject.
        numbers: its published numbers.
        study: content of a study file.
        evaluate: further data sets on which each run is scored.
        notes: sentences of the report.
        statement: what the publication says about it.
        figure: how it is drawn; None for tables without a figure.
        claims: the statement as comparisons of lines.
        pictograms: what replaces parts of the study with `--data pictograms`.
    """

    name: str
    title: str
    numbers: tuple[PublishedNumber, ...]
    study: Mapping[str, Any]
    evaluate: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    statement: str = ""
    figure: Mapping[str, Any] | None = None
    claims: tuple[Claim, ...] = ()
    pictograms: Mapping[str, Any] = field(default_factory=dict)


def list_papers() -> list[str]:
    """Return the names of all tables and figures."""
    return sorted((path.stem for path in shipped_folder("papers").glob("*.yaml")), key=_natural)


def read_paper(name: str) -> Paper:
    """Read a table by name.

    Raises:
        UserError: an unknown name, or an invalid file.
    """
    names = list_papers()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else "`clipalign reproduce --list` prints them"
        raise UserError(f'reproduce: no table "{name}"; {hint}')
    path = shipped_folder("papers") / f"{name}.yaml"
    content = read_yaml(path)
    reject_unknown(content, KEYS, f"{path}: ")
    reject_unknown(content.get("pictograms", {}), PICTOGRAMS_KEYS, f"{path}: pictograms: ")
    numbers = [number for wanted in content["published"] for number in _select(wanted)]
    return Paper(
        name,
        content["title"],
        tuple(dict.fromkeys(numbers)),
        content["study"],
        tuple(content.get("evaluate", ())),
        tuple(content.get("notes", ())),
        content.get("statement", ""),
        content.get("figure"),
        _claims(content.get("claims", ())),
        content.get("pictograms", {}),
    )


def claims_of(paper: Paper, data: str | None) -> tuple[Claim, ...]:
    """Return the comparisons of a table on some data; those on Pictograms may name other lines."""
    own = paper.pictograms.get("claims", ()) if data == "pictograms" else ()
    return _claims(own) or paper.claims


def _claims(given: Iterable[Mapping[str, Any]]) -> tuple[Claim, ...]:
    return tuple(
        Claim(claim["text"], tuple(claim.get("higher", ())), tuple(claim.get("lower", ()))) for claim in given
    )


def adapted_study(paper: Paper, config: ReproduceConfig) -> dict[str, Any]:
    """Return the study of a table with the choices of the command line.

    Raises:
        UserError: an unknown line, target or option, or data that the protocol does not fit.
    """
    study = dict(paper.study)
    small = paper.pictograms if config.data == "pictograms" else {}
    study |= {name: value for name, value in small.items() if name not in ("targets", "claims")}
    study["methods"] = _chosen(_methods(study["methods"]), config.methods, "--methods")
    if config.data is not None:
        study |= _other_data(study, config.data)
    else:
        study["data"] = _only_targets(study["data"], config.targets)
    targets = config.targets or small.get("targets", ())
    if targets and config.data is not None:
        study["data"] = [
            {**entry, "targets": list(targets)} if config.targets or "targets" in entry else entry
            for entry in study["data"]
        ]
    if config.seeds is not None:
        study["seeds"] = config.seeds
    changes = replaced_options(config)
    options = {**study.get("options", {}), **changes}
    if config.data_root is not None:
        options["data_root"] = str(config.data_root)
    study["options"] = options
    study["methods"] = {label: _without(own, changes) for label, own in study["methods"].items()}
    study["data"] = [_without(entry, changes) for entry in study["data"]]
    return study


def replaced_options(config: ReproduceConfig) -> dict[str, Any]:
    """Return the options of --set with their values.

    Raises:
        UserError: a value that is not YAML, or an option that the command sets itself.
    """
    found: dict[str, Any] = {}
    for text in config.set:
        name, _, value = text.partition("=")
        if name in ("data", "data_root", "protocol", "target", "seed", "method", "out"):
            raise UserError(
                f"--set: {name} is set by the study; see --data, --data-root, --targets and --seeds"
            )
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"--set: {value} is not a value of YAML") from None
    return found


def _select(wanted: Mapping[str, Any]) -> Iterable[PublishedNumber]:
    """Return the published numbers whose columns have the wanted values."""
    allowed = {name: value if isinstance(value, list) else [value] for name, value in wanted.items()}
    return [n for n in published_numbers() if all(getattr(n, k) in values for k, values in allowed.items())]


def _methods(given: Any) -> dict[str, dict[str, Any]]:
    if isinstance(given, Mapping):
        return {str(label): dict(options or {}) for label, options in given.items()}
    return {str(name): {} for name in given}


def _chosen(entries: Mapping[str, Any], names: Sequence[str], option: str) -> dict[str, Any]:
    reject = [name for name in names if name not in entries]
    if reject:
        raise UserError(f"{option}: no line {reject[0]}; choose among: {', '.join(entries)}")
    return {label: own for label, own in entries.items() if not names or label in names}


def _only_targets(entries: Sequence[Mapping[str, Any]], targets: Sequence[str]) -> list[dict[str, Any]]:
    """Return data entries restricted to some targets; entries without any of them are left out."""
    if not targets:
        return [dict(entry) for entry in entries]
    known = {target: None for entry in entries for target in entry.get("targets", ())}
    if unknown := [target for target in targets if target not in known]:
        raise UserError(f"--targets: no target {unknown[0]}; choose among: {', '.join(known) or 'none'}")
    kept = []
    for entry in entries:
        if left := [target for target in entry.get("targets", ()) if target in targets]:
            kept.append({**entry, "targets": left})
    return kept


def _other_data(study: Mapping[str, Any], data: str) -> dict[str, Any]:
    """Return the data entries of a study that uses another data set under the same protocols."""
    entries: list[dict[str, Any]] = []
    for entry in study["data"]:
        protocol = entry.get("protocol", study.get("protocol"))
        if protocol == "imagenet-shift":
            raise UserError("--data: protocol imagenet-shift is defined for ImageNet and its variants only")
        own = {key: value for key, value in entry.items() if key not in OWN_TO_DATA}
        changed = {"data": data, **own, "protocol": protocol}
        if protocol in LEAVE_ONE_OUT:
            changed["targets"] = "all"
        if changed not in entries:
            entries.append(changed)
    return {"data": entries}


def _without(options: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    removed = set(names)
    return {name: value for name, value in options.items() if name not in removed}


def _natural(name: str) -> tuple[str, int, str]:
    """Sort table 2 before table 10."""
    head, _, last = name.rpartition("-")
    digits = "".join(c for c in last if c.isdigit())
    return (head, int(digits), last) if digits else (name, 0, "")
