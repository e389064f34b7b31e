"""clipalign: fine-tune CLIP-like models so that they stay right where they were not trained."""

from __future__ import annotations

__version__ = "0.1.0"
