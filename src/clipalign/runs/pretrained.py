"""Models as folders and repositories of the Hugging Face hub: write, read, download, and their card.

A run is stored as a run folder without the files of its training, a backbone as a folder of open_clip.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelCardData, snapshot_download
from huggingface_hub.constants import CONFIG_NAME

from ..backbone.loading import split_size
from ..core.checkpoint import save_weights
from ..core.errors import UserError
from ..core.reading import read_json
from ..core.types import Preprocess
from ..core.version import __version__
from .card import base_model, model_card
from .export.base import ExportedModel
from .export.to_open_clip import OpenClip
from .folder import RunFolder, is_run
from .opening import OpenedModel, open_model
from .run import ARCHITECTURE

if TYPE_CHECKING:
    import torch

CARD = Path(__file__).with_name("templates") / "backbone.md.jinja"
RUN_FILES = ("config.yaml", "results.jsonl", "split.json")
TOKENIZER_FILES = (
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
)
FILES = (CONFIG_NAME, "README.md", *RUN_FILES, ARCHITECTURE, "*.safetensors", *TOKENIZER_FILES)
USE = """
## Use

```python
import clipalign

model = clipalign.Model.from_pretrained("REPOSITORY OR FOLDER")
model.predict(["photo.jpg"]{classes})
```
"""


def facts(opened: OpenedModel) -> dict[str, Any]:
    """Return the content of config.json, which the hub shows and counts downloads by."""
    backbone = opened.method.backbone
    return {
        "clipalign_version": __version__,
        "kind": "backbone" if opened.run is None else "run",
        "method": opened.method.name,
        "class_names": list(opened.class_names),
        "templates": list(opened.method.templates),
        "image_size": list(backbone.image_size),
        "embed_dim": backbone.embed_dim,
    }


def write(opened: OpenedModel, preprocess: Preprocess, folder: Path) -> None:
    """Write a model to an existing folder.

    Raises:
        UserError: the folder is the run itself, or open_clip has no configuration of the backbone.
    """
    backbone, state = opened.method.backbone, opened.method.state_dict()
    if opened.run is None:
        OpenClip().write(ExportedModel(backbone, preprocess, state), folder)
        return
    source = opened.run.folder
    if folder.resolve() == source.path.resolve():
        raise UserError(f"save_pretrained: {folder} is the run itself; choose another folder")
    for name in RUN_FILES:
        if (source.path / name).is_file():
            shutil.copyfile(source.path / name, folder / name)
    spec, _ = split_size(backbone.spec)
    if spec.startswith("local-dir:"):  # its architecture is in a folder that other machines do not have
        origin = Path(spec.removeprefix("local-dir:")).expanduser()
        for pattern in (ARCHITECTURE, *TOKENIZER_FILES):
            for file in origin.glob(pattern):
                shutil.copyfile(file, folder / file.name)
    save_weights(RunFolder(folder).model, state)


def read(folder: Path, device: torch.device | str = "cpu") -> OpenedModel:
    """Open a folder that `write` has written.

    Raises:
        UserError: the folder holds no model.
    """
    if is_run(folder):
        return open_model(folder, device=device)
    if not (folder / ARCHITECTURE).is_file():
        raise UserError(
            f"from_pretrained: {folder} holds neither a run (config.yaml) nor a backbone ({ARCHITECTURE})"
        )
    templates = None
    if (config := folder / CONFIG_NAME).is_file():
        templates = read_json(config).get("templates")
    return open_model(f"local-dir:{folder}", device=device, templates=templates)


def download(repository: str, **options: Any) -> Path:
    """Download the files of a model; returns the folder in the hub's cache.

    Args:
        repository: "ORG/NAME".
        options: as of huggingface_hub's `snapshot_download`.

    Raises:
        UserError: no such repository or revision, or no connection.
    """
    try:
        return Path(snapshot_download(repository, allow_patterns=list(FILES), **options))
    except Exception as error:  # of the hub, the network or the name
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f'from_pretrained: "{repository}" is no folder, and cannot be downloaded ({reason})'
        ) from error


def card(opened: OpenedModel) -> ModelCard:
    """Return the card of a model: that of its run, or a short one of the backbone."""
    if opened.run is not None and (rows := opened.run.results):
        found = model_card(opened.run.record, rows)
        found.content = found.content.rstrip() + "\n" + USE.format(classes="")
        return found
    backbone = opened.method.backbone
    base = base_model(backbone.spec)
    data = ModelCardData(
        library_name="clipalign",
        pipeline_tag="zero-shot-image-classification",
        license="other",
        license_name="backbone",
        license_link="README.md#licence",
        base_model=base,
        tags=["clip", "open_clip", "zero-shot"],
    )
    found = ModelCard.from_template(
        data,
        template_path=str(CARD),
        backbone=backbone.spec if not backbone.spec.startswith("local-dir:") else "A CLIP model",
        size=" x ".join(map(str, backbone.image_size)),
        dimensions=backbone.embed_dim,
        templates=" | ".join(opened.method.templates),
        use=USE.format(classes=', classes=["a cat", "a dog"]'),
    )
    return found
