"""Two ONNX files, image.onnx and text.onnx, each with a free batch size, checked with ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from ...backbone import load
from ...core.errors import UserError
from .model import Exported, Features, Probe

LIBRARY = "ONNX Runtime"
OPSET = 18
WHOLE = 1.8e9  # bytes; a larger ONNX file needs its weights beside it


class ImageTower(nn.Module):
    """images [B, 3, H, W] -> features [B, d], not normalised."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.model.encode_image(images)
        return features


class TextTower(nn.Module):
    """tokens [B, n] int64 -> features [B, d], not normalised."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        features: Tensor = self.model.encode_text(tokens)
        return features


def write(model: Exported, folder: Path) -> None:
    """Write both towers and what to feed them.

    Raises:
        UserError: the extra is not installed, or PyTorch cannot export the towers.
    """
    _needs("onnx", "onnxscript", "onnxruntime")
    backbone = model.backbone
    images = torch.zeros(2, 3, *backbone.image_size)
    tokens = backbone.tokenize(["a", "a photo of a dog"]).ids
    _export(ImageTower(backbone.model), images, "images", folder / "image.onnx")
    _export(TextTower(backbone.model), tokens, "tokens", folder / "text.onnx")
    facts = {
        "image.onnx": {
            "input": {"name": "images", "type": "float32", "shape": ["batch", 3, *backbone.image_size]},
            "preprocess": {
                "resize_shortest_side_and_crop_centre": list(model.preprocess.size),
                "interpolation": model.preprocess.interpolation,
                "mean": list(model.preprocess.mean),
                "std": list(model.preprocess.std),
            },
        },
        "text.onnx": {
            "input": {"name": "tokens", "type": "int64", "shape": ["batch", tokens.shape[1]]},
            "tokens": "open_clip's tokenizer, padded with 0",
            "tokenizer_of": backbone.spec,
        },
        "outputs": {"name": "features", "normalised": False},
        "logit_scale": float(backbone.logit_scale.detach()),
    }
    (folder / "towers.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def read(folder: Path, probe: Probe) -> Features:
    """Features as ONNX Runtime computes them, at another batch size than the one exported with."""
    import onnxruntime

    facts = json.loads((folder / "towers.json").read_text(encoding="utf-8"))
    window = facts["text.onnx"]["input"]["shape"][
        1
    ]  # of stretched towers more than their tokenizer starts with
    tokens = _tokenizer(facts["text.onnx"]["tokenizer_of"])(list(probe.texts), context_length=window)
    found = {}
    for file, name, value in (("image.onnx", "images", probe.images), ("text.onnx", "tokens", tokens)):
        session = onnxruntime.InferenceSession(folder / file, providers=["CPUExecutionProvider"])
        found[name] = torch.from_numpy(session.run(["features"], {name: value.numpy()})[0])
    return Features.of(found["images"], found["tokens"])


def usage(folder: Path) -> str:
    """How to load it."""
    return (
        "import onnxruntime\n"
        f'towers = [onnxruntime.InferenceSession(f"{folder}/{{name}}.onnx") for name in ("image", "text")]\n'
        '(features,) = towers[0].run(None, {"images": images})  # as towers.json says'
    )


def _tokenizer(spec: str) -> Any:
    # The architecture alone: its tokenizer is what the towers were trained with.
    return load(spec, pretrained=False).tokenizer if ":" in spec else open_clip.get_tokenizer("ViT-B-32")


def _export(tower: nn.Module, example: Tensor, name: str, path: Path) -> None:
    size = sum(tensor.numel() * tensor.element_size() for tensor in tower.state_dict().values())
    try:
        with _quiet():
            torch.onnx.export(
                tower.eval(),
                (example,),
                str(path),
                input_names=[name],
                output_names=["features"],
                dynamic_shapes={name: {0: torch.export.Dim("batch", min=1)}},
                opset_version=OPSET,
                dynamo=True,
                external_data=size > WHOLE,
                verbose=False,
            )
    except Exception as error:
        first = " ".join(str(error).split())[:200]
        raise UserError(f"--to onnx: PyTorch cannot export the {path.stem} tower ({first})") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its stages and warns of what it does about them; only the result counts here."""
    mha = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its fused operator has no ONNX form
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        torch.backends.mha.set_fastpath_enabled(mha)


def _needs(*modules: str) -> None:
    from importlib.util import find_spec

    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise UserError(f'--to onnx needs {", ".join(missing)}: pip install "clipalign[onnx]"')
