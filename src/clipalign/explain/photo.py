"""Maps of one image for texts, before and after fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ..backbone import preprocess_for
from ..core.types import Preprocess
from ..data.decode import evaluation_view, read_image
from ..losses import cosine_logits, unit_features
from ..methods import Method, SupportsHooks, explain_text_features
from ..methods.capabilities import MapSettings
from .figures import Block, Panel, grid_figure, save
from .maps import Maps, attention_label, default_settings, guide_label, make_maps, settings_of
from .scores import min_max, upsample

LONGEST = 640  # pixels of the longer side in the figure, whose panels show no more detail


@dataclass(frozen=True)
class Explanation:
    """Maps and cosines of one model for an image.

    Attributes:
        title: "zero-shot" or "after METHOD".
        maps: maps of the image, with one channel per text.
        cosines: cosine of the image feature and each text feature.
        settings: layers and guide of the maps.
    """

    title: str
    maps: Maps
    cosines: tuple[float, ...]
    settings: MapSettings


def explain_image(
    models: Sequence[tuple[str, Method]], image: Path, texts: Sequence[str], out: Path
) -> list[Path]:
    """Write explain.png and maps.npz; returns their paths.

    The maps of all models use the layers and the guide of the last model with `map_settings`, else the published ones.

    Args:
        models: titles and methods; all methods take images of the same size.
        image: image file.
        texts: texts, one row of the figure each.
        out: folder, created if missing.
    """
    picture = read_image(image)
    trained = [settings for _, method in models if (settings := settings_of(method)) is not None]
    settings = trained[-1] if trained else default_settings(models[0][1].backbone.num_blocks)
    explanations = [_explain(title, method, picture, texts, settings) for title, method in models]
    visible = visible_part(picture, preprocess_for(models[0][1].backbone))
    out.mkdir(parents=True, exist_ok=True)
    files = [save(_figure(visible, texts, explanations), out / "explain.png"), out / "maps.npz"]
    arrays = {}
    for explanation in explanations:
        name = explanation.title.split()[-1]
        for part in ("attention", "patches", "guide"):
            arrays[f"{name}_{part}"] = getattr(explanation.maps, part)[0].numpy()
    np.savez_compressed(files[1], texts=np.array(texts), **arrays)
    return files


@torch.no_grad()
def _explain(
    title: str,
    method: Method,
    picture: Image.Image,
    texts: Sequence[str],
    settings: MapSettings | None = None,
) -> Explanation:
    backbone = method.backbone
    settings = settings or default_settings(backbone.num_blocks)
    preprocess = preprocess_for(backbone)
    images = preprocess.normalise(evaluation_view(picture, preprocess)[None]).to(backbone.device)
    text = explain_text_features(method, texts, images)
    hooks = method.hooks() if isinstance(method, SupportsHooks) else nullcontext()
    with hooks:  # prompts inside the image tower change its attention
        feature = unit_features(backbone.encode_image(images))
        maps = make_maps(backbone, images, text, settings)
    return Explanation(title, maps, tuple(cosine_logits(feature, text, 1.0)[0].tolist()), settings)


def visible_part(picture: Image.Image, preprocess: Preprocess) -> np.ndarray:
    """Crop an image to the part that `evaluation_view` keeps, at screen resolution: [H, W, 3] in [0, 1]."""
    tall, wide = preprocess.size
    scale = min(picture.size) / max(preprocess.size)  # pixels of the image per pixel of the model input
    box_w, box_h = min(wide * scale, picture.width), min(tall * scale, picture.height)
    left, top = (picture.width - box_w) / 2, (picture.height - box_h) / 2
    shrink = min(1.0, LONGEST / max(box_w, box_h))
    size = (max(1, round(box_w * shrink)), max(1, round(box_h * shrink)))
    part = picture.resize(size, Image.Resampling.LANCZOS, box=(left, top, left + box_w, top + box_h))
    return np.asarray(part, dtype=np.float64) / 255


def heat(maps: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Upsample a map [gh, gw] to `size` and scale it to [0, 1]: [H, W]."""
    return min_max(upsample(maps[None], size))[0].numpy().astype(np.float64)


def _figure(image: np.ndarray, texts: Sequence[str], explanations: Sequence[Explanation]) -> Figure:
    size = (image.shape[0], image.shape[1])
    rows = []
    for k, text in enumerate(texts):
        row = [Panel(image, caption=f"“{text}”")]
        for explanation in explanations:
            maps = explanation.maps
            heats = (maps.attention[0], maps.patches[0, k], maps.guide[0, k])
            caption = f"cosine with the text {explanation.cosines[k]:.3f}"
            row.append(Panel(image, tuple(heat(each, size) for each in heats), caption))
        rows.append(row)
    blocks = [Block("", ("image",))]
    for explanation in explanations:
        settings = explanation.settings
        heads = (attention_label(settings), "patch tokens · text", f"{guide_label(settings)} · text")
        blocks.append(Block(explanation.title, heads))
    return grid_figure(blocks, rows, "Each map is scaled to its own range; bright is high.")
