"""Facts about a run that are not options: what predictions need, and what explains its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..core.errors import UserError
from ..core.types import Interpolation
from ..core.yaml_files import plain


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
            UserError: a field is missing.
        """
        names = {f.name for f in fields(cls)}
        known: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
            if name in names
        }
        try:
            return cls(**known)
        except TypeError as error:
            raise UserError(f"{where} does not describe a run ({error})") from None
