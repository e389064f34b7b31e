"""Classify photos with an ONNX export, without PyTorch: pip install onnxruntime tokenizers pillow numpy

clipalign export runs/a --to onnx --out my_model/
python examples/serve_onnx.py my_model/ photo.jpg cat dog "red bicycle"
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from tokenizers import Tokenizer


class Classifier:
    """Classes by their prompts; call it with a photo to get their probabilities."""

    def __init__(self, folder: Path, classes: list[str], template: str = "a photo of a {}.") -> None:
        facts = json.loads((folder / "towers.json").read_text())
        self.scale, self.settings = facts["logit_scale"], facts["image.onnx"]["preprocess"]
        self.tower, text = (
            onnxruntime.InferenceSession(folder / f"{name}.onnx") for name in ("image", "text")
        )
        prompts = [template.format(name.replace("_", " ").replace("-", " ")) for name in classes]
        encoded = Tokenizer.from_file(str(folder / "tokenizer.json")).encode_batch(prompts)
        features = text.run(None, {"tokens": np.array([prompt.ids for prompt in encoded])})[0]  # [C, d]
        self.weights = features / np.linalg.norm(features, axis=1, keepdims=True)

    def __call__(self, photo: Image.Image) -> np.ndarray:
        """Return the probability of each class, [C]."""
        (size, _), photo = self.settings["resize_shortest_side_and_crop_centre"], photo.convert("RGB")
        width, height = (int(size * side / min(photo.size)) for side in photo.size)
        photo = photo.resize((width, height), Image.Resampling[self.settings["interpolation"].upper()])
        left, top = round((width - size) / 2), round((height - size) / 2)
        pixels = np.asarray(photo.crop((left, top, left + size, top + size)), np.float32) / 255  # [H, W, 3]
        pixels = (pixels - np.float32(self.settings["mean"])) / np.float32(self.settings["std"])
        feature = self.tower.run(None, {"images": pixels.transpose(2, 0, 1)[None]})[0][0]  # [d]
        logits = self.scale * (self.weights @ feature) / np.linalg.norm(feature)  # [C]
        shares = np.exp(logits - logits.max())
        return shares / shares.sum()


if __name__ == "__main__":
    folder, file, *names = sys.argv[1:]
    for name, probability in zip(names, Classifier(Path(folder), names)(Image.open(file)), strict=True):
        print(f"{100 * probability:5.1f} %  {name}")
