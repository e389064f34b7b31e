"""Load a finished run as a model."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..backbone import Backbone, load
from ..backbone.loading import split_size
from ..backbone.text.features import DEFAULT_TEMPLATES
from ..core.checkpoint import load_weights
from ..core.errors import UserError
from ..core.types import Episode
from ..evaluation.results import ResultRow, read_results
from ..methods import Method, get_method
from ..protocols.names_only import NamesOnly, names_episode
from .folder import RunFolder
from .options import TrainOptions, train_options_from
from .record import RunRecord

ARCHITECTURE = "open_clip_config.json"  # configuration of a backbone in a folder


@dataclass(frozen=True)
class Run:
    """A finished run with its model.

    Attributes:
        folder: files of the run.
        options: options of the run.
        record: facts about the run.
        method: set up, with the weights of the run.
        backbone: the trained towers.
    """

    folder: RunFolder
    options: TrainOptions
    record: RunRecord
    method: Method
    backbone: Backbone

    @property
    def results(self) -> list[ResultRow]:
        """Result rows of the run."""
        return read_results(self.folder.path)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes that the run was trained on."""
        return self.record.class_names


def read_options(folder: RunFolder) -> TrainOptions:
    """Return the options that a run was started with."""
    if not folder.config.is_file():
        raise UserError(f"{folder.path} is not a run folder (no config.yaml)")
    options = train_options_from({"config": folder.config, "out": folder.path})
    return replace(
        options, origins=folder.record().origins
    )  # where options came from, rather than config.yaml


def open_run(
    path: str | Path,
    *,
    weights: str = "model",
    device: torch.device | str = "cpu",
    cache_dir: str | None = None,
) -> Run:
    """Load the model of a run.

    Args:
        path: run folder.
        weights: "model" (those predictions use) or "last" (those of the last step).
        device: device of the model.
        cache_dir: folder of downloads, for backbones whose architecture comes from the hub.

    Raises:
        UserError: the run is not finished, or its weights are damaged.
    """
    folder = RunFolder(Path(path))
    options = read_options(folder)
    model = options.config.model
    file = folder.model if weights == "model" else folder.last
    if not file.is_file():
        raise UserError(
            f"{folder.path} has no {file.name}: the run is not finished; continue it with --resume"
        )
    state = load_weights(file)
    # The file holds both towers, so pre-trained weights are not needed.
    spec = portable_spec(model.backbone, folder.path)
    backbone = load(spec, device, cache_dir or model.cache_dir, pretrained=False).configure(model)
    method = options.method(options.hyper)
    # `setup` derives tensors from the towers' weights, so these are loaded first; all others exist only after it.
    with contextlib.suppress(RuntimeError):
        backbone.model.load_state_dict(state, strict=False)
    record = folder.record()
    method.setup(backbone, stored_episode(record), record.templates)
    method.load_state_dict(state)
    return Run(folder, options, record, method, backbone)


def portable_spec(backbone: str, folder: Path) -> str:
    """Return the name by which the architecture of a run is built.

    Runs on backbones in folders are published with the configuration of the backbone, since the folder may be missing
    on other machines.
    """
    if not backbone.startswith("local-dir:") or not (folder / ARCHITECTURE).is_file():
        return backbone
    _, size = split_size(backbone)
    return f"local-dir:{folder}" + (f"@{size}" if size else "")


def stored_episode(record: RunRecord) -> Episode:
    """Return the episode of a run as far as `Method.setup` needs it: with names, without rows."""
    source = NamesOnly(record.data, record.class_names, record.domain_names, record.templates)
    return names_episode(source, record.protocol, record.target)


def zeroshot(backbone: Backbone, templates: Sequence[str] | None = None) -> Method:
    """Return a backbone as a zero-shot method without trained classes.

    Args:
        backbone: towers; they are frozen.
        templates: prompt templates; default: "a photo of a {}.".
    """
    templates = tuple(templates or DEFAULT_TEMPLATES)
    method = get_method("zeroshot")()
    method.setup(backbone, names_episode(NamesOnly("", (), (), templates)), templates)
    return method
