"""Fine-tune CLIP-like models that stay accurate in new domains and on new classes, and compare methods for it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .core.version import __version__ as __version__

__all__ = [
    "Backbone",
    "Method",
    "Model",
    "Prediction",
    "UserError",
    "check_data",
    "embed_images",
    "evaluate",
    "explain_image",
    "export_model",
    "list_backbones",
    "list_data",
    "list_methods",
    "list_protocols",
    "load",
    "load_backbone",
    "load_run",
    "load_source",
    "predict",
    "read_results",
    "register",
    "search_images",
    "sweep_study",
    "train",
    "tune",
    "write_report",
]

# Public name -> module and name there, imported on first use, since importing torch takes seconds. A public name must
# not equal the name of a subpackage, which would replace it once imported: hence explain_image, not explain.
_MODULES = {
    "Backbone": ("backbone", "Backbone"),
    "Method": ("methods", "Method"),
    "Model": ("runs.model", "Model"),
    "Prediction": ("runs.model", "Prediction"),
    "UserError": ("core.errors", "UserError"),
    "check_data": ("commands.data", "check_data"),
    "embed_images": ("commands.embed", "embed_images"),
    "evaluate": ("commands.eval", "evaluate"),
    "explain_image": ("commands.explain", "explain"),
    "export_model": ("commands.export", "export"),
    "list_backbones": ("backbone", "list_backbones"),
    "list_data": ("data.registry", "list_data"),
    "list_methods": ("methods", "list_methods"),
    "list_protocols": ("protocols", "list_protocols"),
    "load": ("runs.model", "load_model"),
    "load_backbone": ("backbone", "load"),
    "load_run": ("runs.run", "open_run"),
    "load_source": ("data.registry", "load_source"),
    "predict": ("commands.predict", "predict"),
    "read_results": ("evaluation.results", "read_results"),
    "register": ("methods", "register"),
    "search_images": ("commands.search", "search_images"),
    "sweep_study": ("commands.sweep", "sweep"),
    "train": ("commands.train", "train"),
    "tune": ("commands.tune", "tune"),
    "write_report": ("commands.report", "write_report"),
}

if TYPE_CHECKING:
    from .backbone import Backbone, list_backbones
    from .backbone import load as load_backbone
    from .commands.data import check_data
    from .commands.embed import embed_images
    from .commands.eval import evaluate
    from .commands.explain import explain as explain_image
    from .commands.export import export as export_model
    from .commands.predict import predict
    from .commands.report import write_report
    from .commands.search import search_images
    from .commands.sweep import sweep as sweep_study
    from .commands.train import train
    from .commands.tune import tune
    from .core.errors import UserError
    from .data.registry import list_data, load_source
    from .evaluation.results import read_results
    from .methods import Method, list_methods, register
    from .protocols import list_protocols
    from .runs.model import Model, Prediction
    from .runs.model import load_model as load
    from .runs.run import open_run as load_run


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _MODULES[name]
    value = getattr(import_module(f".{module}", __name__), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
