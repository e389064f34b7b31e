"""Two ONNX graphs, image.onnx and text.onnx, with a free batch size, and the tokenizer; checked with ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from ...backbone import load
from ...core.errors import UserError
from .base import ExportedModel, ExportFormat, Features, Probe

OPSET = 18
RESIZE = {"shortest": "resize_shortest_side_and_crop_centre", "squash": "resize_both_sides"}
LARGEST_FILE = 1.8e9  # bytes; protobuf ends at 2 GB, so larger towers keep their weights in a second file
PACKAGES = ("onnx", "onnxscript", "onnxruntime", "tokenizers")
TOKENIZER = "tokenizer.json"
# Words of CLIP's tokenizer: contractions, letters, single digits, and other characters.
WORDS = r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class ImageTower(nn.Module):
    """Map images [B, 3, H, W] to features [B, d], not normalised."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.model.encode_image(images)
        return features


class TextTower(nn.Module):
    """Map tokens [B, n] int64 to features [B, d], not normalised."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        features: Tensor = self.model.encode_text(tokens)
        return features


class Onnx(ExportFormat):
    """One graph per tower, and towers.json, which describes their inputs."""

    library = "ONNX Runtime"
    summary = "image and text tower (extra [onnx])"

    def write(self, model: ExportedModel, folder: Path) -> None:
        missing = [package for package in PACKAGES if find_spec(package) is None]
        if missing:
            raise UserError(f'--to onnx needs {", ".join(missing)}: pip install "clipalign[onnx]"')
        backbone, preprocess = model.backbone, model.preprocess
        images = torch.zeros(2, 3, *backbone.image_size)  # [2, 3, H, W]
        tokens = backbone.tokenize(["a", "a photo of a dog"]).ids  # [2, n]
        _export(ImageTower(backbone.model), images, "images", folder / "image.onnx")
        _export(TextTower(backbone.model), tokens, "tokens", folder / "text.onnx")
        towers = {
            "image.onnx": {
                "input": {"name": "images", "type": "float32", "shape": ["batch", 3, *backbone.image_size]},
                "preprocess": {
                    RESIZE[preprocess.resize]: list(preprocess.size),
                    "interpolation": preprocess.interpolation,
                    "mean": list(preprocess.mean),
                    "std": list(preprocess.std),
                },
            },
            "text.onnx": {
                "input": {"name": "tokens", "type": "int64", "shape": ["batch", tokens.shape[1]]},
                "tokens": f"{TOKENIZER}, padded with 0",
                "tokenizer_of": backbone.spec,
            },
            "outputs": {"name": "features", "normalised": False},
            "logit_scale": float(backbone.logit_scale.detach()),
        }
        if isinstance(backbone.tokenizer, SimpleTokenizer):
            clip_tokenizer(backbone.tokenizer, backbone.context_length).save(str(folder / TOKENIZER))
        else:
            towers["text.onnx"]["tokens"] = "open_clip's tokenizer, padded with 0"  # type: ignore[index]
        (folder / "towers.json").write_text(json.dumps(towers, indent=1) + "\n", encoding="utf-8")

    def read(self, folder: Path, probe: Probe) -> Features:
        """Run both graphs, at another batch size than they were exported with."""
        import onnxruntime

        towers = json.loads((folder / "towers.json").read_text(encoding="utf-8"))
        # The window of a stretched tower exceeds the default of its tokenizer.
        window = towers["text.onnx"]["input"]["shape"][1]
        if (folder / TOKENIZER).is_file():
            from tokenizers import Tokenizer

            encoded = Tokenizer.from_file(str(folder / TOKENIZER)).encode_batch(list(probe.texts))
            tokens = torch.from_numpy(np.array([text.ids for text in encoded], dtype=np.int64))  # [T, n]
        else:
            tokens = _tokenizer(towers["text.onnx"]["tokenizer_of"])(list(probe.texts), context_length=window)
        features = {}
        for file, name, value in (("image.onnx", "images", probe.images), ("text.onnx", "tokens", tokens)):
            session = onnxruntime.InferenceSession(folder / file, providers=["CPUExecutionProvider"])
            features[name] = torch.from_numpy(session.run(["features"], {name: value.numpy()})[0])
        return Features.of(features["images"], features["tokens"])

    def usage(self, folder: Path) -> str:
        return (
            "import onnxruntime\n"
            f'towers = [onnxruntime.InferenceSession(f"{folder}/{{name}}.onnx") for name in ("image", "text")]\n'
            '(features,) = towers[0].run(None, {"images": images})  # preprocessed as in towers.json'
        )


def clip_tokenizer(tokenizer: SimpleTokenizer, window: int) -> Any:
    """Return CLIP's tokenizer as one of the tokenizers library, which needs neither open_clip nor PyTorch.

    Texts are padded with 0 and truncated to the window. HTML entities and broken Unicode are not repaired.

    Args:
        tokenizer: of open_clip.
        window: tokens per text, start and end token included.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    start, end = tokenizer.sot_token_id, tokenizer.eot_token_id
    names = {number: token for token, number in tokenizer.encoder.items()}
    vocabulary, merges = dict(tokenizer.encoder), list(tokenizer.bpe_ranks)
    result = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>", fuse_unk=False))
    result.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    result.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    result.post_processor = processors.TemplateProcessing(
        single=f"{names[start]} $A {names[end]}", special_tokens=[(names[start], start), (names[end], end)]
    )
    result.enable_truncation(window)
    result.enable_padding(length=window, pad_id=0, pad_token=names[0])
    return result


def _tokenizer(spec: str) -> Any:
    """Return the tokenizer of a backbone without loading its weights."""
    return load(spec, pretrained=False).tokenizer if ":" in spec else open_clip.get_tokenizer("ViT-B-32")


def _export(tower: nn.Module, example: Tensor, name: str, path: Path) -> None:
    size = sum(tensor.numel() * tensor.element_size() for tensor in tower.state_dict().values())
    try:
        with _exporter_settings():
            torch.onnx.export(
                tower.eval(),
                (example,),
                str(path),
                input_names=[name],
                output_names=["features"],
                dynamic_shapes={name: {0: torch.export.Dim("batch", min=1)}},
                opset_version=OPSET,
                dynamo=True,
                external_data=size > LARGEST_FILE,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many kinds
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--to onnx: PyTorch cannot export the {path.stem} tower ({reason})") from error


@contextlib.contextmanager
def _exporter_settings() -> Iterator[None]:
    """Silence the exporter, and disable the fused attention operator, which has no ONNX form."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
