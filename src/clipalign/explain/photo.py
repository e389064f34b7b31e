"""`clipalign explain`: maps of one image for texts, before and after fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tyro.conf import Positional

from ..backbone import Backbone, load
from ..data.base import Preprocess
from ..data.decode import evaluation_view, read_image
from ..errors import UserError
from ..options import parse_config, to_arguments
from ..precision import select_device
from ..runs import check_out, is_run, open_run
from ..training import preprocess_for
from .figures import Block, Panel, grid_figure, save
from .maps import Maps, make_maps
from .scores import min_max, upsample

LONGEST = 640  # pixels of the longer side of the shown image; more would not be seen
HEADS = ("class-token attention", "patch tokens · text", "D-V branch · text")


@dataclass(frozen=True)
class Explanation:
    """What one model says of the image.

    Attributes:
        title: "zero-shot" or "after METHOD".
        maps: of the image, one channel per text.
        cosines: of image feature and each text, as numbers in [-1, 1].
    """

    title: str
    maps: Maps
    cosines: tuple[float, ...]


@dataclass(frozen=True)
class ExplainConfig:
    """Draw where a model looks on an image, and where it finds a text, before and after fine-tuning."""

    model: Positional[str]
    """Run folder, or a backbone as in `clipalign train --backbone`."""
    image: Positional[Path]
    """Image file (PNG, JPEG, WebP, GIF, BMP, TIFF)."""
    text: tuple[str, ...] = ()
    """Texts to look for, one row of the picture each; taken as they are, such as --text "a dog" "grass"."""
    out: Path = Path("clipalign-explain")
    """Folder for explain.png and maps.npz. Must be new or empty, unless --overwrite is given."""
    cache_dir: str | None = None
    """Folder of downloaded weights."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    overwrite: bool = False
    """Replace what is in --out."""

    def check(self) -> None:
        """Raise UserError for the first value out of range."""
        if not self.text or not all(text.strip() for text in self.text):
            raise UserError('--text: give at least one text to look for, such as --text "a dog"')


def run_explain(arguments: Sequence[str], prog: str = "clipalign explain") -> list[Path]:
    """Explain as the tokens of a command line say, and print the files written."""
    config = parse_config(ExplainConfig, arguments, prog)
    files = _run(config)
    for file in files:
        print(file)
    return files


def explain(model: str | Path, image: str | Path, text: Sequence[str], **options: Any) -> list[Path]:
    """Draw where a model looks on an image, and where it finds each text, as `clipalign explain` does.

    A run is shown beside the backbone it started from; a backbone alone. The maps cover what the model sees:
    the central part of the image, in the shape the backbone takes.

    Args:
        model: run folder or backbone.
        image: image file.
        text: texts, taken as they are.
        options: those of the command line with underscores.

    Returns:
        The files written: `explain.png`, and `maps.npz` with unscaled maps on the grid of patches: per model
        `NAME_attention` [gh, gw], `NAME_patches` and `NAME_guide` [texts, gh, gw].

    Raises:
        UserError: bad input; nothing has been written then.
    """
    given = {"model": model, "image": image, "text": list(text), **options}
    return _run(parse_config(ExplainConfig, to_arguments(ExplainConfig, given), "clipalign explain"))


def _run(config: ExplainConfig) -> list[Path]:
    check_out(config.out, overwrite=config.overwrite)
    picture = read_image(config.image)
    models = _models(config)
    found = [_explain(title, backbone, picture, config.text) for title, backbone in models]
    shown = visible_part(picture, preprocess_for(models[0][1]))
    config.out.mkdir(parents=True, exist_ok=True)
    files = [save(_figure(shown, config.text, found), config.out / "explain.png"), config.out / "maps.npz"]
    arrays = {}
    for explanation in found:
        name = explanation.title.split()[-1]
        for part in ("attention", "patches", "guide"):
            arrays[f"{name}_{part}"] = getattr(explanation.maps, part)[0].numpy()
    np.savez_compressed(files[1], texts=np.array(config.text), **arrays)
    return files


def _models(config: ExplainConfig) -> list[tuple[str, Backbone]]:
    device = select_device(config.device)
    if not is_run(config.model):
        return [("zero-shot", load(config.model, device, config.cache_dir))]
    run = open_run(config.model, device=device, cache_dir=config.cache_dir)
    before = load(run.options.run.backbone, device, config.cache_dir or run.options.run.cache_dir)
    after = [(f"after {run.method.name}", run.backbone)] if run.method.iterates else []
    return [("zero-shot", before), *after]


@torch.no_grad()
def _explain(title: str, backbone: Backbone, picture: Image.Image, texts: Sequence[str]) -> Explanation:
    preprocess = preprocess_for(backbone)
    images = preprocess.normalise(evaluation_view(picture, preprocess)[None]).to(backbone.device)
    text = F.normalize(backbone.encode_text(list(texts)).float(), dim=-1)
    feature = F.normalize(backbone.encode_image(images).float(), dim=-1)
    maps = make_maps(backbone, images, text)
    return Explanation(title, maps, tuple((feature @ text.T)[0].tolist()))


def visible_part(picture: Image.Image, preprocess: Preprocess) -> np.ndarray:
    """What `evaluation_view` keeps of an image, at the resolution of a screen: [H, W, 3] in [0, 1]."""
    tall, wide = preprocess.size
    scale = min(picture.size) / max(preprocess.size)  # of the model's pixels to the image's
    box_w, box_h = min(wide * scale, picture.width), min(tall * scale, picture.height)
    left, top = (picture.width - box_w) / 2, (picture.height - box_h) / 2
    shrink = min(1.0, LONGEST / max(box_w, box_h))
    size = (max(1, round(box_w * shrink)), max(1, round(box_h * shrink)))
    part = picture.resize(size, Image.Resampling.LANCZOS, box=(left, top, left + box_w, top + box_h))
    return np.asarray(part, dtype=np.float64) / 255


def heat(maps: Tensor, size: tuple[int, int]) -> np.ndarray:
    """One map [gh, gw] for display: [H, W] in [0, 1]."""
    return min_max(upsample(maps[None], size))[0].numpy().astype(np.float64)


def _figure(image: np.ndarray, texts: Sequence[str], found: Sequence[Explanation]) -> Figure:
    size = (image.shape[0], image.shape[1])
    rows = []
    for k, text in enumerate(texts):
        row = [Panel(image, caption=f"“{text}”")]
        for explanation in found:
            maps = explanation.maps
            heats = (maps.attention[0], maps.patches[0, k], maps.guide[0, k])
            caption = f"cosine with the text {explanation.cosines[k]:.3f}"
            row.append(Panel(image, tuple(heat(each, size) for each in heats), caption))
        rows.append(row)
    blocks = [Block("", ("image",)), *(Block(explanation.title, HEADS) for explanation in found)]
    return grid_figure(blocks, rows, "Each map is scaled to its own range; bright is high.")
