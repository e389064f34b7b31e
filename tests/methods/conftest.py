"""Fixtures of the tests of methods."""

from __future__ import annotations

import pytest

from clipalign.core.types import Episode
from clipalign.data.sources.folder import ImageFolder
from clipalign.protocols import build_episode


@pytest.fixture
def episode(squares: ImageFolder) -> Episode:
    """Coloured squares: two source domains, four classes; the domain "grey" is the target."""
    return build_episode("domain-shift", squares, "grey", 0)
