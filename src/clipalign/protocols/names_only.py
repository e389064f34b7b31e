"""Episodes with class names and no rows, for models that are used without their training data."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from ..core.types import Episode, Source


class NamesOnly(Source):
    """A `Source` with the names of a data set and no rows.

    Args:
        name, class_names, domain_names, templates: as in `Source`.
    """

    def __init__(
        self,
        name: str,
        class_names: tuple[str, ...],
        domain_names: tuple[str, ...],
        templates: tuple[str, ...],
    ) -> None:
        self.name, self.class_names, self.domain_names = name, class_names, domain_names
        self.templates = templates
        self.labels = self.domains = np.empty(0, np.int64)

    def images(self, *_: Any, **__: Any) -> Tensor:
        """Raise RuntimeError: there are no images."""
        raise RuntimeError("a data set of names has no images")

    def fingerprint(self) -> str:
        """Return an empty fingerprint."""
        return ""


def names_episode(source: Source, protocol: str = "", target: str | None = None) -> Episode:
    """Return an episode without rows whose label space is all classes of a source."""
    none = np.empty(0, np.int64)
    return Episode(protocol, target, source, tuple(range(len(source.class_names))), none, none, (), "")
