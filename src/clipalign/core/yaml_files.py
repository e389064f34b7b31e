"""Options in YAML files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from .errors import UserError
from .reading import load_yaml

RECORD = "record"  # key of a run's config.yaml that holds facts, not options


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the options in a YAML file, with underscores in their names and without the record of a run.

    Raises:
        UserError: a file that cannot be read, is not YAML, or is not a mapping.
    """
    content = load_yaml(path, "--config: ")
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"--config: {path} must hold option: value lines")
    return {str(key).replace("-", "_"): value for key, value in content.items() if key != RECORD}


def dump_yaml(values: Mapping[str, Any]) -> str:
    """Return YAML that keeps the order of the keys."""
    text: str = yaml.safe_dump(
        dict(values), sort_keys=False, allow_unicode=True, width=110, default_flow_style=None
    )
    return text


def plain(value: Any) -> Any:
    """Return a value in the types of YAML and JSON: paths become strings, tuples become lists."""
    if isinstance(value, Path):
        return str(value)
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value
