"""`clipalign explain`: maps of where models look on images, and the masks that a model gives to texts."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ..backbone import load
from ..backbone.pocket import POCKET_NOTE
from ..core.checkpoint import write_text
from ..core.errors import UserError
from ..core.parsing import make_config, parse_config
from ..core.precision import select_device
from ..data.decode import read_image
from ..data.sources.folder import images_in
from ..evaluation.masks import mask_report, summary
from ..explain.figures import save
from ..explain.kinds import PAGE_STRUCTURES, MapChoice, drawn_kinds, page_kinds
from ..explain.map_figure import map_figure
from ..explain.masks import print_masks, view_masks, write_masks
from ..explain.page import ExplainedPhoto, page_html
from ..explain.photo import NamedModel, explain_photo, num_layers, on_screen, raw_maps, shared_settings
from ..runs.folder import check_out
from ..runs.opening import open_model
from ..runs.options import is_pocket
from ..runs.run import zeroshot
from .options import ExplainConfig


def explain(
    model: str | Path,
    images: Sequence[str | Path] = (),
    text: Sequence[str] = (),
    *,
    compare: Sequence[str] = (),
    structure: Sequence[str] = (),
    layers: Sequence[int] = (),
    heads: Sequence[int] = (),
    rollout: bool = False,
    redundancy_removal: bool = False,
    view: Literal["whole", "centre"] = "whole",
    html: bool = False,
    masks: Sequence[str] = (),
    disentanglement: bool = False,
    out: str | Path = "clipalign-explain",
    cache_dir: str | Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> list[Path]:
    """Draw where models look on images, and where they find each text, as `clipalign explain` does.

    A run is drawn next to the backbone it started from. Maps come from the towers as the method runs them, prompts
    inside the image tower included.

    Args:
        model: run folder or backbone.
        images: image files and folders.
        text: texts, encoded without a template.

    The keywords are the options of the command line; see `ExplainConfig`.

    Returns:
        The files written: per image `explain.png`, and `maps.npz` with unscaled maps on the grid of patches: per model
        `NAME_attention` [gh, gw], `NAME_patches` and `NAME_guide` (or the structures by name) [texts, gh, gw]. With
        several images, each has a folder. With `html`, `explain.html`; with `masks`, `masks.png` and `masks.json`; with
        `disentanglement`, `disentanglement.json` (`evaluation.masks.mask_report`).

    Raises:
        UserError: invalid input; nothing has been written then.
    """
    return write_explanation(make_config(ExplainConfig, locals()))


def run_explain(tokens: Sequence[str], prog: str = "clipalign explain") -> list[Path]:
    """Explain models as a command line says, and print the files written."""
    files = write_explanation(parse_config(ExplainConfig, tokens, prog))
    for file in files:
        print(file)
    return files


def write_explanation(config: ExplainConfig) -> list[Path]:
    """Compute all requested outputs before writing any, and return the files."""
    check_out(config.out, overwrite=config.overwrite)
    images = list_images(config.images)
    for image in images:
        read_image(image)  # fails before a model is loaded
    models = open_models(config)
    method = models[-1].method
    if images and is_pocket(method.backbone.spec):
        print(POCKET_NOTE, file=sys.stderr)
    mask_view = view_masks(method, config.masks) if config.masks else None
    report = mask_report(method) if config.disentanglement else None
    files = list(write_maps(config, models, images)) if images else []
    config.out.mkdir(parents=True, exist_ok=True)
    if mask_view is not None:
        print_masks(mask_view, len(config.masks))
        files += write_masks(mask_view, config.out)
    if report is not None:
        print("\n".join(summary(report)))
        files.append(config.out / "disentanglement.json")
        write_text(files[-1], json.dumps(report, indent=1) + "\n")
    return files


def write_maps(config: ExplainConfig, models: Sequence[NamedModel], images: Sequence[Path]) -> Iterator[Path]:
    """Write the maps of all images, and yield the files.

    Maps of all images are computed before any is written.
    """
    backbones = [model.method.backbone for model in models]
    for backbone in backbones:
        backbone.check_offers(["image tokens"], "an attention map or patch feature")
    choice = MapChoice(
        config.structure,
        config.layers,
        config.heads,
        config.rollout,
        config.redundancy_removal,
        config.view == "whole",
    )
    texts = tuple(dict.fromkeys(config.text))
    drawn = drawn_kinds(choice, shared_settings(models), num_layers(models))
    common = [name for name in PAGE_STRUCTURES if all(each.has_structure(name) for each in backbones)]
    kinds = page_kinds(drawn, num_layers(models), common) if config.html else drawn
    photos = []
    for image, name in zip(images, names_of(images), strict=True):
        picture = read_image(image)
        try:
            explained = [explain_photo(model, picture, texts, kinds, whole=choice.whole) for model in models]
        except UserError as error:
            raise UserError(f"{image}: {error}") from None
        photos.append(ExplainedPhoto(name, on_screen(picture, explained[0].covered), explained))
    for photo in photos:
        folder = config.out / photo.name if len(photos) > 1 else config.out
        yield save(map_figure(photo.pixels, texts, drawn, photo.explanations), folder / "explain.png")
        arrays = {"texts": np.array(texts), **raw_maps(photo.explanations, drawn)}
        np.savez_compressed(folder / "maps.npz", **arrays)  # type: ignore[arg-type]  # the stub wants a bool
        yield folder / "maps.npz"
    if config.html:
        write_text(config.out / "explain.html", page_html(photos, texts, kinds, num_layers(models)))
        yield config.out / "explain.html"


def list_images(given: Sequence[Path]) -> list[Path]:
    """Return image files, with folders replaced by the images in them.

    Raises:
        UserError: a folder without images.
    """
    images: list[Path] = []
    for path in given:
        found = images_in(path) if path.is_dir() else [path]
        if not found:
            raise UserError(f"no images in {path}")
        images += found
    return list(dict.fromkeys(images))


def names_of(images: Sequence[Path]) -> list[str]:
    """Return a name per image for its folder: the stem, numbered if several images share it."""
    names: list[str] = []
    for image in images:
        name, number = image.stem, 2
        while name.lower() in map(str.lower, names):  # file systems may ignore case
            name, number = f"{image.stem}-{number}", number + 1
        names.append(name)
    return names


def open_models(config: ExplainConfig) -> list[NamedModel]:
    """Return all models from left to right; the backbone of a run stands once, before its first run."""
    device = select_device(config.device)
    found: dict[tuple[str, ...], tuple[str, str, NamedModel]] = {}
    for name in dict.fromkeys((config.model, *config.compare)):
        opened = open_model(name, device=device, cache_dir=config.cache_dir)
        if opened.run is None:
            key = ("zero-shot", opened.method.backbone.spec)
            found.setdefault(key, ("zero-shot", key[1], NamedModel("zero-shot", "zero-shot", opened.method)))
            continue
        options = opened.run.options.config.model
        key = ("zero-shot", options.backbone)
        if key not in found:
            before = zeroshot(
                load(options.backbone, device, config.cache_dir or options.cache_dir).configure(options)
            )
            found[key] = ("zero-shot", options.backbone, NamedModel("zero-shot", "zero-shot", before))
        if opened.method.iterates:
            method = opened.method
            model = NamedModel(method.name, f"after {method.name}", method)
            found["run", name] = (method.name, Path(name).name, model)
    counts = Counter(kind for kind, _, _ in found.values())
    models: list[NamedModel] = []
    for kind, origin, model in found.values():
        if counts[kind] == 1:
            models.append(model)
            continue
        taken = {other.name for other in models}
        tail = origin.replace("/", "-")  # names become those of files in an archive
        tail = tail if f"{kind}-{tail}" not in taken else f"{tail}-{len(models)}"
        models.append(NamedModel(f"{kind}-{tail}", f"{model.title} ({tail})", model.method))
    return models
