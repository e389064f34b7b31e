"""Facts about a run that are not options: what predictions need, and what explains its numbers."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..core.errors import UserError
from ..core.fields import variants
from ..core.reading import load_yaml
from ..core.types import Interpolation
from ..core.yaml_files import RECORD, plain

FORMAT = 1  # of the record; a version that changes the meaning of a field increases it


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The mapping `record` in a run's config.yaml.

    Attributes:
        command: command line of the run.
        version, torch: versions of this package and of PyTorch.
        origins: option -> the layer that set it.
        average: kind of weight averaging.
        resolved: values that the method derived from its options.
        data, fingerprint: name and hash of the data source.
        protocol, target: name of the protocol; held-out domain or None.
        split, split_hash: description and hash of the split.
        templates: prompt templates.
        domain_names: domains of the data source.
        class_names: trained classes, in the order of the logits.
        interpolation: image resizing; None in runs of versions that did not store it.
        format: version of this schema.
    """

    command: str
    version: str
    torch: str
    origins: Mapping[str, str] = field(default_factory=dict)
    average: str
    resolved: Mapping[str, Any] = field(default_factory=dict)
    data: str
    fingerprint: str
    protocol: str
    target: str | None
    split: str
    split_hash: str
    templates: tuple[str, ...]
    domain_names: tuple[str, ...]
    class_names: tuple[str, ...]
    interpolation: Interpolation | None = None
    format: int = FORMAT

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as YAML can hold them."""
        return {name: plain(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> RunRecord:
        """Build a record from a YAML mapping; unknown fields are ignored.

        Args:
            values: the mapping.
            where: file, for the message.

        Raises:
            UserError: a field is missing or has another type, or a newer version wrote the record.
        """
        hints = get_type_hints(cls)
        known: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
            if name in hints
        }
        check_types(values, where)
        required = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}
        if missing := sorted(required - known.keys()):
            raise UserError(f"{where} does not describe a run (its record has no {', '.join(missing)})")
        return cls(**known)


def check_types(values: Mapping[str, Any], where: str) -> None:
    """Refuse a record with a field of another type, or of a newer version; `where` is its file, for the message.

    Raises:
        UserError: names the field.
    """
    hints = get_type_hints(RunRecord)
    for name in hints.keys() & values.keys():
        value = tuple(values[name]) if isinstance(values[name], list) else values[name]
        if not any(fits(value, hint) for hint in variants(hints[name])):
            raise UserError(
                f"{where} does not describe a run ({name} in its record is {reprlib.repr(value)})"
            )
    if values.get("format", FORMAT) > FORMAT:
        raise UserError(f"{where} was written by a newer version of clipalign; upgrade it")


def read_record(path: Path) -> RunRecord:
    """Return the record in a run's config.yaml.

    Raises:
        UserError: the file cannot be read, or was not written by a run.
    """
    content = load_yaml(path)
    if not isinstance(content, Mapping) or not isinstance(content.get(RECORD), Mapping):
        raise UserError(f"{path} does not describe a run (it has no record); train it again")
    return RunRecord.from_dict(content[RECORD], str(path))


def fits(value: Any, hint: Any) -> bool:
    """Return whether a value of YAML is of the type of a field."""
    if hint is None or hint is type(None):
        return value is None
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(isinstance(item, get_args(hint)[0]) for item in value)
    return isinstance(value, get_origin(hint) or hint) and not isinstance(value, bool)
