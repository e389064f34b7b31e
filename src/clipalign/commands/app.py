"""`clipalign app`: a page to try models on photos, in a browser."""

from __future__ import annotations

from collections.abc import Sequence

from ..app.models import open_models
from ..app.serve import free_port, import_page, serve
from ..core.parsing import parse_config
from ..core.precision import select_device
from .options import AppConfig


def run_app(tokens: Sequence[str], prog: str = "clipalign app") -> None:
    """Serve the page until it is interrupted."""
    config = parse_config(AppConfig, tokens, prog)
    import_page()  # before models are loaded, which takes longer
    port = free_port(config.host, config.port)
    models = open_models(config.models, select_device(config.device), config.cache_dir)
    serve(models, config.host, port)
