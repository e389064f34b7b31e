"""clipalign: fine-tune CLIP-like models so that they stay right where they were not trained."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "Backbone",
    "Method",
    "UserError",
    "check_data",
    "evaluate",
    "explain_image",
    "export_model",
    "list_backbones",
    "list_data",
    "list_methods",
    "list_protocols",
    "load",
    "load_run",
    "load_source",
    "predict",
    "read_results",
    "register",
    "sweep_study",
    "train",
    "write_report",
]

# Public name -> module and name there. Looked up on first use, since importing torch takes seconds. No name may be
# that of a module of the package, which would take its place once it is imported: hence export_model, not export.
_HOMES = {
    "Backbone": ("backbone", "Backbone"),
    "Method": ("methods", "Method"),
    "UserError": ("errors", "UserError"),
    "check_data": ("data.command", "check_data"),
    "evaluate": ("scoring", "evaluate"),
    "explain_image": ("explain", "explain"),
    "export_model": ("export", "export"),
    "list_backbones": ("backbone", "list_backbones"),
    "list_data": ("data", "list_data"),
    "list_methods": ("methods", "list_methods"),
    "list_protocols": ("protocols", "list_protocols"),
    "load": ("backbone", "load"),
    "load_run": ("runs", "open_run"),
    "load_source": ("data", "load_source"),
    "predict": ("prediction", "predict"),
    "read_results": ("results", "read_results"),
    "register": ("methods", "register"),
    "sweep_study": ("sweep", "sweep"),
    "train": ("training", "train"),
    "write_report": ("report", "write_report"),
}

if TYPE_CHECKING:
    from .backbone import Backbone, list_backbones, load
    from .data import list_data, load_source
    from .data.command import check_data
    from .errors import UserError
    from .explain import explain as explain_image
    from .export import export as export_model
    from .methods import Method, list_methods, register
    from .prediction import predict
    from .protocols import list_protocols
    from .report import write_report
    from .results import read_results
    from .runs import open_run as load_run
    from .scoring import evaluate
    from .sweep import sweep as sweep_study
    from .training import train


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value = getattr(import_module(f".{module}", __name__), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
