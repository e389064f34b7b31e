"""`clipalign explain`: maps of where a model looks on an image, and the masks that it gives to texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..backbone import load
from ..core.checkpoint import write_text
from ..core.parsing import make_config, parse_config
from ..core.precision import select_device
from ..data.decode import read_image
from ..evaluation.masks import mask_report, summary
from ..explain.masks import print_masks, view_masks, write_masks
from ..explain.photo import explain_image
from ..methods import Method
from ..runs.folder import check_out
from ..runs.opening import open_model
from ..runs.run import zeroshot
from .options import ExplainConfig


def explain(
    model: str | Path,
    image: str | Path | None = None,
    text: Sequence[str] = (),
    *,
    masks: Sequence[str] = (),
    disentanglement: bool = False,
    out: str | Path = "clipalign-explain",
    cache_dir: str | Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> list[Path]:
    """Draw where a model looks on an image, and where it finds each text, as `clipalign explain` does.

    A run is drawn next to the backbone it started from. Maps cover the part of the image that the model sees, its
    centre, and come from the towers as the method runs them, prompts inside the image tower included.

    Args:
        model: run folder or backbone.
        image: image file.
        text: texts, encoded without a template.

    The keywords are the options of the command line; see `ExplainConfig`.

    Returns:
        The files written: `explain.png`, and `maps.npz` with unscaled maps on the grid of patches: per model
        `NAME_attention` [gh, gw], `NAME_patches` and `NAME_guide` [texts, gh, gw]. With `masks`, `masks.png` and
        `masks.json`; with `disentanglement`, `disentanglement.json` (`evaluation.masks.mask_report`).

    Raises:
        UserError: invalid input; nothing has been written then.
    """
    return write_explanation(make_config(ExplainConfig, locals()))


def run_explain(tokens: Sequence[str], prog: str = "clipalign explain") -> list[Path]:
    """Explain a model as a command line says, and print the files written."""
    files = write_explanation(parse_config(ExplainConfig, tokens, prog))
    for file in files:
        print(file)
    return files


def write_explanation(config: ExplainConfig) -> list[Path]:
    """Compute all requested outputs before writing any, and return the files."""
    check_out(config.out, overwrite=config.overwrite)
    if config.image is not None:
        read_image(config.image)  # fails before a model is loaded
    models = open_models(config)
    method = models[-1][1]
    view = view_masks(method, config.masks) if config.masks else None
    report = mask_report(method) if config.disentanglement else None
    files = []
    if config.image is not None:
        files += explain_image(models, config.image, config.text, config.out)
    config.out.mkdir(parents=True, exist_ok=True)
    if view is not None:
        print_masks(view, len(config.masks))
        files += write_masks(view, config.out)
    if report is not None:
        print("\n".join(summary(report)))
        files.append(config.out / "disentanglement.json")
        write_text(files[-1], json.dumps(report, indent=1) + "\n")
    return files


def open_models(config: ExplainConfig) -> list[tuple[str, Method]]:
    """Return the backbone before training and, of a run that trained one, the model after it, with their titles."""
    device = select_device(config.device)
    opened = open_model(config.model, device=device, cache_dir=config.cache_dir)
    if opened.run is None:
        return [("zero-shot", opened.method)]
    model = opened.run.options.config.model
    before = zeroshot(load(model.backbone, device, config.cache_dir or model.cache_dir).configure(model))
    after = [(f"after {opened.method.name}", opened.method)] if opened.method.iterates else []
    return [("zero-shot", before), *after]
