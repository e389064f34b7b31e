"""Attention misalignment: maps against the masks of objects, mosaics, and reliance on the background."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..backbone.text.features import class_text_features
from ..core.errors import UnseenClasses, UserError
from ..core.masked_source import MaskedSource
from ..evaluation.bootstrap import UnitValues, bootstrap
from ..evaluation.context import MetricContext, ModelOutputs
from ..evaluation.loader import class_names
from ..evaluation.metrics import METRICS, Field, ModelMetric
from ..evaluation.object_masks import MaskFolder, ObjectMasks, ObjectsOnly, object_masks
from ..evaluation.outputs import Outputs
from ..evaluation.view_cache import ViewCache
from ..losses import cosine_logits, unit_features
from ..methods import SupportsHooks
from .maps import default_settings
from .mosaic import groups_of_four, mosaics, quadrant_mass, text_maps
from .scores import average_precision, lift, pixel_maps, pointing

BATCH = 64  # images per forward pass with maps
MOSAICS = 256  # at most, per test set
# Attention structures of the second path: AlignCLIP's guide on all views, the others on the first view of each row.
STRUCTURES = ("dv", "vvv", "qkv")
GUIDE = "D-V map of the true class"
MASS_RATIO, POINTING, PRECISION = "attention_mass_ratio", "attention_pointing", "attention_ap"
GUIDE_POINTING, GUIDE_PRECISION = "guide_pointing", "guide_ap"
MOSAIC, BACKGROUND = "mosaic", "background_reliance"
VALUES = (  # with an interval each
    Field(
        MASS_RATIO,
        "mass ratio",
        unit="",
        digits=2,
        note="Mass ratio: share of the class token's attention on the object, divided by the object's share of the "
        "area; 1 if uniform.",
    ),
    Field(POINTING, "pointing", note="Pointing: images whose highest pixel of the map lies on the object."),
    Field(
        PRECISION, "map AP", note="Map AP: average precision of the map as a detector of the object's pixels."
    ),
    Field(GUIDE_POINTING, "pointing", variant=GUIDE),
    Field(GUIDE_PRECISION, "map AP", variant=GUIDE),
    Field(
        MOSAIC,
        "mosaic",
        variant=GUIDE,
        note="Mosaic: mass of the map of a class name on its image in a mosaic of four; 25 by chance.",
    ),
    Field(
        BACKGROUND,
        "background reliance",
        higher_is_better=False,
        note="Background reliance: correct answers that turn wrong when the background is replaced by the mean colour.",
    ),
)


@METRICS.register("attention")
class Attention(ModelMetric):
    """Class-token attention and text maps against masks, mosaic score and background reliance, with intervals.

    Class-token attention is the mean over heads and the layers that AlignCLIP aligns (the first third), the same for
    every method. Intervals are 95 % bootstrap intervals over images, or over concepts for data with exact masks, whose
    renderings of one concept are alike.
    """

    fields = (
        *VALUES,
        *(Field(f"{f.name}_interval", f.title, by="bound", tag=f.name, unit=f.unit) for f in VALUES),
        *(
            Field(f"{name}_by_layer", title, by="layer", tag=f"{name}/layer", unit=unit)
            for name, title, unit in ((MASS_RATIO, "mass ratio", ""), (POINTING, "pointing", "%"))
        ),
        *(
            Field(f"{name}_by_structure", title, by="structure", tag=f"{name}/structure")
            for name, title in ((GUIDE_POINTING, "pointing"), (GUIDE_PRECISION, "map AP"))
        ),
    )

    def check(self, context: MetricContext) -> None:
        context.method.backbone.check_offers(["image tokens"], "the comparison of maps with masks")
        if context.method.backbone.pooling == "patches":
            raise UserError(
                "--pooling patches classifies by the mean of the patch tokens, so there is no attention of a class "
                "token to compare with masks"
            )
        masks = _masks(context)
        if isinstance(masks, MaskFolder):
            masks.check(context.rows)

    def compute(self, one: ModelOutputs) -> dict[str, float | dict[str, float]]:
        context, test = one.context, one.test
        views = context.once(f"attention {test.stage}", lambda: view_scores(context))
        at = np.isin(np.repeat(context.rows, context.source.views(test.stage)), test.rows)  # [all views]
        units = (
            context.source.labels
            if isinstance(context.source, MaskedSource)
            else np.arange(len(context.source))
        )
        of_views = units[one.outputs.rows]  # [n]
        values: dict[str, float | dict[str, float]] = {}

        def add(name: str, scores: np.ndarray, identities: np.ndarray) -> None:
            known = ~np.isnan(scores)
            if known.any():
                values[name], values[f"{name}_interval"] = estimate(scores[known], identities[known])

        for name in (MASS_RATIO, POINTING, PRECISION, GUIDE_POINTING, GUIDE_PRECISION):
            add(name, views[name][at], of_views)
        for name, by in (
            (MASS_RATIO, "layer"),
            (POINTING, "layer"),
            (GUIDE_POINTING, "structure"),
            (GUIDE_PRECISION, "structure"),
        ):
            start = f"{name}_by_{by}/"
            grouped = {key.removeprefix(start): views[key][at] for key in views if key.startswith(start)}
            values[f"{name}_by_{by}"] = {
                key: float(np.nanmean(scores))
                for key, scores in grouped.items()
                if not np.isnan(scores).all()
            }
        score = mosaic_scores(context, one.outputs)
        add(MOSAIC, score, np.arange(len(score)))
        blank = blanked(context, test.classes)
        if blank is not None:
            lost = np.where(blank.select(test.rows).correct, 0.0, 1.0)  # [n]
            add(BACKGROUND, np.where(one.outputs.correct, lost, np.nan), of_views)
        return values


def estimate(scores: np.ndarray, identities: np.ndarray) -> tuple[float, dict[str, float]]:
    """Return the mean of scores [n], and its 95 % interval over units; scores of one identity are one unit."""
    units, at = np.unique(identities, return_inverse=True)  # [u], [n]
    found = bootstrap([UnitValues(units, np.bincount(at, scores), np.bincount(at).astype(float))])
    return found.value, {"low": found.low, "high": found.high}


def _masks(context: MetricContext) -> ObjectMasks:
    return object_masks(context.source, context.options.object_masks, context.loader.preprocess)


def view_scores(context: MetricContext) -> dict[str, np.ndarray]:
    """Return the scores of the maps of all test views, [n] each; NaN for views without an object.

    Keys are names of fields, and NAME_by_layer/LAYER and NAME_by_structure/STRUCTURE.
    """
    source, method, masks = context.source, context.method, _masks(context)
    backbone = method.backbone
    layers = default_settings(backbone.num_blocks).layers
    text = class_text_features(backbone, source.class_names, context.templates)  # [C, d]
    parts: dict[str, list[Tensor]] = {}

    def add(name: str, scores: Tensor) -> None:
        parts.setdefault(name, []).append(scores)

    for images, rows, draws in _views(context):
        objects = masks(rows, draws).float()  # [B, h, w]
        labels = torch.from_numpy(source.labels[rows])  # [B]
        own = text[labels.to(text.device)]  # [B, d]
        first = np.flatnonzero(draws == 0)  # further structures cost a pass each
        with method.hooks() if isinstance(method, SupportsHooks) else nullcontext():
            dense = backbone.dense(images, range(backbone.num_blocks), guide=STRUCTURES[0])
            others = {
                name: backbone.dense(images[first], guide=name).guide
                for name in STRUCTURES[1:]
                if len(first) and backbone.has_structure(name)
            }
        by_layer = dense.cls_attention.float().unflatten(-1, backbone.grid).cpu()  # [L, B, gh, gw]
        attention = by_layer[list(layers)].mean(dim=0)  # [B, gh, gw]
        pixels = pixel_maps(attention, objects)  # [B, h, w]
        add(MASS_RATIO, lift(attention, objects))
        add(POINTING, pointing(pixels, objects))
        add(PRECISION, average_precision(pixels, objects))
        for layer, maps in enumerate(by_layer):
            add(f"{MASS_RATIO}_by_layer/{layer}", lift(maps, objects))
            add(f"{POINTING}_by_layer/{layer}", pointing(pixel_maps(maps, objects), objects))
        for name, tokens in {STRUCTURES[0]: dense.guide, **others}.items():
            at = np.arange(len(rows)) if name == STRUCTURES[0] else first
            assert tokens is not None
            cosines = cosine_logits(own[at], unit_features(tokens), 1.0).unflatten(
                -1, backbone.grid
            )  # [b, gh, gw]
            pixels = pixel_maps(cosines, objects[at])  # [b, h, w]
            for key, score in ((GUIDE_POINTING, pointing), (GUIDE_PRECISION, average_precision)):
                scores = torch.full((len(rows),), torch.nan)  # [B]
                scores[at] = score(pixels, objects[at])
                add(f"{key}_by_structure/{name}", scores)
    found = {name: torch.cat(values).numpy() for name, values in parts.items()}
    for name in (GUIDE_POINTING, GUIDE_PRECISION):
        found[name] = found[f"{name}_by_structure/{STRUCTURES[0]}"]
    return found


def _views(context: MetricContext) -> Iterator[tuple[Tensor, np.ndarray, np.ndarray]]:
    """Yield all test views in order: images [B, 3, H, W] on the device of the model, rows [B] and draws [B]."""
    loader, stage = context.loader, context.tests[0].stage
    views = context.source.views(stage)
    for start in range(0, len(context.rows) * views, BATCH):
        positions = np.arange(start, min(start + BATCH, len(context.rows) * views))
        rows, draws = context.rows[positions // views], positions % views  # [B] each
        images = loader.cache.images(loader.source, rows, stage, draws, loader.preprocess)
        yield images.to(context.method.backbone.device), rows, draws


def mosaic_scores(context: MetricContext, outputs: Outputs) -> np.ndarray:
    """Return the mosaic score of groups of four test views, [G] in [0, 1]; none with fewer than four classes.

    The score is the mass of the D-V map of a class name on the quadrant of its image, mean over the four names.
    """
    source, method, loader = context.source, context.method, context.loader
    groups = groups_of_four(source.labels[outputs.rows], MOSAICS)  # [G, 4]
    text = class_text_features(method.backbone, source.class_names, context.templates)  # [C, d]
    first = np.searchsorted(outputs.rows, outputs.rows)  # [n], position of the first view of the row
    draws = np.arange(len(outputs.rows)) - first  # [n]
    scores = [np.empty(0)]
    for start in range(0, len(groups), BATCH // 4):
        chosen = groups[start : start + BATCH // 4]  # [B, 4]
        rows = outputs.rows[chosen.ravel()]  # [4 B]
        images = loader.cache.images(source, rows, "test", draws[chosen.ravel()], loader.preprocess)
        whole = mosaics(images.unflatten(0, (-1, 4))).to(method.backbone.device)  # [B, 3, H, W]
        named = text[torch.from_numpy(source.labels[rows]).to(text.device)].unflatten(0, (-1, 4))  # [B, 4, d]
        with method.hooks() if isinstance(method, SupportsHooks) else nullcontext():
            mass = quadrant_mass(text_maps(method.backbone, whole, named))  # [B, 4 names, 4 quadrants]
        scores.append(mass.diagonal(dim1=1, dim2=2).mean(dim=1).numpy())  # [B]
    return np.concatenate(scores)


def blanked(context: MetricContext, classes: tuple[int, ...]) -> Outputs | None:
    """Return the outputs on the test views without background, in one label space; None if it cannot be scored."""

    def compute() -> Outputs | None:
        try:
            classifier = context.classifier_of(class_names(context.source, classes))
        except UnseenClasses:
            return None
        objects = ObjectsOnly(context.source, _masks(context))
        loader = replace(context.loader, source=objects, cache=ViewCache(0))
        rows = np.unique(np.concatenate([test.rows for test in context.tests if test.classes == classes]))
        return loader.outputs(classifier, rows, context.tests[0].stage, classes)

    return context.once(f"blanked {classes}", compute)
