"""A finished run, opened again as a model."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..backbone import Backbone, load
from ..backbone.text.features import DEFAULT_TEMPLATES
from ..core.checkpoint import load_weights
from ..core.errors import UserError
from ..core.types import Episode
from ..evaluation.results import ResultRow, read_results
from ..methods import Method, get_method
from ..protocols.names_only import NamesOnly, names_episode
from .folder import RunFolder
from .options import TrainOptions, train_options_from


@dataclass(frozen=True)
class Run:
    """A finished run, opened.

    Attributes:
        folder: its files.
        options: what it was told.
        method: set up, with the run's weights.
        backbone: carries the trained towers.
    """

    folder: RunFolder
    options: TrainOptions
    method: Method
    backbone: Backbone

    @property
    def results(self) -> list[ResultRow]:
        """Its result rows."""
        return read_results(self.folder.path)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes it was trained on."""
        return tuple(self.folder.record()["class_names"])


def read_options(folder: RunFolder) -> TrainOptions:
    """Return the options that a run was started with."""
    if not folder.config.is_file():
        raise UserError(f"{folder.path} is not a run folder (no config.yaml)")
    options = train_options_from({"config": folder.config, "out": folder.path})
    return replace(options, origins=folder.record().get("origins") or {})  # the layers of then, not the file


def open_run(
    path: str | Path,
    *,
    weights: str = "model",
    device: torch.device | str = "cpu",
    cache_dir: str | None = None,
) -> Run:
    """Build a run's model again.

    Args:
        path: run folder.
        weights: "model" (what predictions use) or "last" (the last step's).
        device: where it goes.
        cache_dir: folder of downloaded weights, for backbones whose architecture comes from the hub.

    Raises:
        UserError: not a finished run, or a damaged weights file.
    """
    folder = RunFolder(Path(path))
    options = read_options(folder)
    model = options.config.model
    file = folder.model if weights == "model" else folder.last
    if not file.is_file():
        raise UserError(f"{folder.path} has no {file.name}: the run is not finished; go on with --resume")
    state = load_weights(file)
    # The file holds both towers, so the pre-trained weights are not needed again, nor can they have changed.
    backbone = load(model.backbone, device, cache_dir or model.cache_dir, pretrained=False)
    method = options.method(options.hyper)
    # Weights first, so that what `setup` derives from them is right; again after it, for the method's own.
    with contextlib.suppress(RuntimeError):
        backbone.model.load_state_dict(state, strict=False)
    method.setup(backbone, stored_episode(folder), folder.record()["templates"])
    method.load_state_dict(state)
    return Run(folder, options, method, backbone)


def stored_episode(folder: RunFolder) -> Episode:
    """What `Method.setup` needs to know of the episode a run was trained on; it has no rows."""
    facts = folder.record()
    names, domains, templates = (tuple(facts[k]) for k in ("class_names", "domain_names", "templates"))
    return names_episode(
        NamesOnly(facts["data"], names, domains, templates), facts["protocol"], facts["target"]
    )


def zeroshot(backbone: Backbone, templates: Sequence[str] | None = None) -> Method:
    """A backbone as it is, as a method without classes of its own.

    Args:
        backbone: frozen by it.
        templates: of prompts; None for "a photo of a {}.".
    """
    templates = tuple(templates or DEFAULT_TEMPLATES)
    method = get_method("zeroshot")()
    method.setup(backbone, names_episode(NamesOnly("", (), (), templates)), templates)
    return method
