"""`clipalign explain`: where a model looks on an image, and which dimensions its masks open for a text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from ..backbone import load
from ..core.checkpoint import write_text
from ..core.errors import UserError
from ..core.precision import select_device
from ..data.decode import read_image
from ..evaluation.masks import mask_report, summary
from ..explain.masks import print_masks, view_masks, write_masks
from ..explain.photo import explain_image
from ..methods import Method
from ..runs.folder import check_out, is_run
from ..runs.options import parse_config, to_arguments
from ..runs.run import open_run, zeroshot


@dataclass(frozen=True)
class ExplainConfig:
    """Draw where a model looks on an image, and where it finds a text, before and after fine-tuning; or which
    dimensions it opens for texts (--masks)."""

    model: Positional[str]
    """Run folder, or a backbone as in `clipalign train --backbone`."""
    image: Positional[Path | None] = None
    """Image file (PNG, JPEG, WebP, GIF, BMP, TIFF); goes with --text."""
    text: tuple[str, ...] = ()
    """Texts to look for, one row of the picture each; taken as they are, such as --text "a dog" "grass". Prompt
    learners put their vectors around them, as around class names."""
    masks: tuple[str, ...] = ()
    """Texts whose masks are drawn: which dimensions each opens, and how far they overlap. For methods that have
    masks, such as smartclip."""
    disentanglement: bool = False
    """Measure on the concepts of Pictograms how far masks take concepts apart: overlap of related and unrelated
    ones, match of unions and intersections with joined texts."""
    out: Path = Path("clipalign-explain")
    """Folder for explain.png and maps.npz; masks.png and masks.json; disentanglement.json. Must be new or empty,
    unless --overwrite is given."""
    cache_dir: str | None = None
    """Folder of downloaded weights."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    overwrite: bool = False
    """Replace what is in --out."""

    def check(self) -> None:
        """Raise UserError for the first value out of range."""
        for name, texts in (("--text", self.text), ("--masks", self.masks)):
            for i, text in enumerate(texts):
                if not text.strip():
                    raise UserError(f"{name}: text number {i + 1} is empty; give words, or leave it out")
        alone = self.image is None and (self.masks or self.disentanglement)
        if not self.text and not alone:
            raise UserError('--text: give at least one text to look for, such as --text "a dog"')
        if self.text and self.image is None:
            raise UserError("explain needs an image file to look for --text in: name it behind the model")


def run_explain(arguments: Sequence[str], prog: str = "clipalign explain") -> list[Path]:
    """Explain as the tokens of a command line say, and print the files written."""
    config = parse_config(ExplainConfig, arguments, prog)
    files = _run(config)
    for file in files:
        print(file)
    return files


def explain(
    model: str | Path, image: str | Path | None = None, text: Sequence[str] = (), **options: Any
) -> list[Path]:
    """Draw where a model looks on an image, and where it finds each text, as `clipalign explain` does.

    A run is shown beside the backbone it started from; a backbone alone. The maps cover what the model sees:
    the central part of the image, in the shape the backbone takes. They are those of the towers as the method
    runs them, prompts inside the image tower included.

    Args:
        model: run folder or backbone.
        image: image file.
        text: texts, taken as they are.
        options: those of the command line with underscores.

    Returns:
        The files written: `explain.png`, and `maps.npz` with unscaled maps on the grid of patches: per model
        `NAME_attention` [gh, gw], `NAME_patches` and `NAME_guide` [texts, gh, gw]. With `masks`, `masks.png` and
        `masks.json`; with `disentanglement`, `disentanglement.json` (`evaluation.masks.mask_report`).

    Raises:
        UserError: bad input; nothing has been written then.
    """
    given = {"model": model, "text": list(text), **options} | ({} if image is None else {"image": image})
    given = {name: value for name, value in given.items() if not isinstance(value, (list, tuple)) or value}
    return _run(parse_config(ExplainConfig, to_arguments(ExplainConfig, given), "clipalign explain"))


def _run(config: ExplainConfig) -> list[Path]:
    check_out(config.out, overwrite=config.overwrite)
    if config.image is not None:
        read_image(config.image)  # before a model is loaded for nothing
    models = _models(config)
    method = models[-1][1]
    # All that may fail comes before the first file.
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


def _models(config: ExplainConfig) -> list[tuple[str, Method]]:
    device = select_device(config.device)
    if not is_run(config.model):
        return [("zero-shot", zeroshot(load(config.model, device, config.cache_dir)))]
    run = open_run(config.model, device=device, cache_dir=config.cache_dir)
    before = load(run.options.run.backbone, device, config.cache_dir or run.options.run.cache_dir)
    after = [(f"after {run.method.name}", run.method)] if run.method.iterates else []
    return [("zero-shot", zeroshot(before)), *after]
