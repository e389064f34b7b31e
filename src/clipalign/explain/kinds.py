"""The kinds of maps that `explain` draws: attention, rollout, patch tokens, and second paths of any structure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..backbone.attention import check_structure
from ..backbone.dense import check_indices
from ..evaluation.maps import PATCHES, TracedImages, attention_maps, rollout_maps, similarity_maps
from ..methods.capabilities import MapSettings

ATTENTION, ROLLOUT, GUIDE = "attention", "rollout", "guide"
PAGE_STRUCTURES = ("dv", "vvv", "qqv", "kkv", "qkv")  # of the HTML page; those of --structure are added


@dataclass(frozen=True)
class MapChoice:
    """What to draw, as given by a user.

    Attributes:
        structures: attention structures by name; empty for the guide of the settings.
        layers: layers of all kinds of maps; empty for those of the settings.
        heads: heads of all kinds of maps; empty for all.
        rollout: whether to draw the attention rollout.
        redundancy_removal: whether to subtract from the similarity to each text what all texts share.
        whole: whether maps cover the whole photo, or only its centre.
    """

    structures: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    heads: tuple[int, ...] = ()
    rollout: bool = False
    redundancy_removal: bool = False
    whole: bool = True


@dataclass(frozen=True)
class MapKind:
    """One kind of map.

    Attributes:
        key: name in files, unique.
        structure: "attention", "rollout", "patches" or an attention structure.
        layers: layers that are averaged (attention), multiplied (rollout), or in which the second path runs.
        label: name in figures.
        heads: heads; None for all.
        settings: of attention and guide; None for plain structures.
        redundancy_removal: as in `MapChoice`.
    """

    key: str
    structure: str
    layers: tuple[int, ...]
    label: str
    heads: tuple[int, ...] | None = None
    settings: MapSettings | None = None
    redundancy_removal: bool = False

    @property
    def per_text(self) -> bool:
        """Whether there is a map per text."""
        return self.structure not in (ATTENTION, ROLLOUT)

    def compute(self, traced: TracedImages, text: Tensor) -> Tensor:
        """Return the maps of images, [B, T, gh, gw]; T is 1 for maps without text.

        Args:
            traced: pass over B images.
            text: [T, d], L2-normalised.
        """
        if self.structure == ATTENTION:
            over = self.settings.attention_over if self.settings else "patches"
            return attention_maps(traced, layers=self.layers, heads=self.heads, over=over)[:, None]
        if self.structure == ROLLOUT:
            return rollout_maps(traced, layers=self.layers, heads=self.heads)[:, None]
        if self.structure == PATCHES:
            return similarity_maps(traced, None, text, PATCHES, redundancy_removal=self.redundancy_removal)
        keep_mlp, mean = False, None
        if self.settings is not None:
            keep_mlp, mean = self.settings.keep_mlp, self.settings.class_mean
        return similarity_maps(
            traced,
            None,
            text if mean is None else text - text.new_tensor(mean),
            self.structure,
            layers=self.layers,
            heads=self.heads,
            keep_mlp=keep_mlp,
            redundancy_removal=self.redundancy_removal,
        )


def drawn_kinds(choice: MapChoice, settings: MapSettings, num_layers: int) -> list[MapKind]:
    """Return the kinds of maps of a figure, one per group of rows.

    Args:
        choice: as given by a user.
        settings: layers and guide of the trained method, else the published ones.
        num_layers: attention layers of the tower.

    Raises:
        UserError: an unknown structure or layer.
    """
    given = tuple(sorted(set(check_indices("--layers", choice.layers, num_layers))))
    heads = choice.heads or None
    last = tuple(range(max(0, num_layers - settings.dual_blocks), num_layers))
    chosen = heads_label(choice.heads)
    layers = given or settings.layers
    kinds = [
        MapKind(ATTENTION, ATTENTION, layers, f"attention, {layers_label(layers)}{chosen}", heads, settings)
    ]
    if choice.rollout:
        layers = given or tuple(range(num_layers))
        kinds.append(MapKind(ROLLOUT, ROLLOUT, layers, f"rollout, {layers_label(layers)}{chosen}", heads))
    kinds.append(MapKind(PATCHES, PATCHES, (), "patch tokens"))
    layers = given or last
    if not choice.structures:
        extra = ", MLPs" * settings.keep_mlp + ", centred" * (settings.class_mean is not None)
        label = f"{structure_label(settings.guide)}, {layers_label(layers)}{chosen}{extra}"
        kinds.append(MapKind(GUIDE, settings.guide, layers, label, heads, settings))
    for name in dict.fromkeys(map(check_structure, choice.structures)):
        label = f"{structure_label(name)}, {layers_label(layers)}{chosen}"
        kinds.append(MapKind(name, name, layers, label, heads))
    if choice.redundancy_removal:
        kinds = [
            replace(kind, label=f"{kind.label}, shared part removed", redundancy_removal=True)
            if kind.per_text
            else kind
            for kind in kinds
        ]
    return kinds


def page_kinds(
    drawn: Sequence[MapKind], num_layers: int, structures: Sequence[str] = PAGE_STRUCTURES
) -> list[MapKind]:
    """Return the kinds of maps of a page: those of the figure, further structures, and each of them layer by layer."""
    kinds = list(drawn)
    example = next(kind for kind in drawn if kind.structure not in (ATTENTION, ROLLOUT, PATCHES))
    for name in structures:
        if not any(kind.structure == name for kind in kinds):
            label = (
                f"{structure_label(name)}, {layers_label(example.layers)}{heads_label(example.heads or ())}"
            )
            kinds.append(replace(example, key=name, structure=name, label=label, settings=None))
    for kind in list(kinds):
        if kind.structure in (ROLLOUT, PATCHES):
            continue
        for layer in range(num_layers):
            label = f"{kind.label.split(',')[0]}, {layers_label([layer])}"
            kinds.append(replace(kind, key=f"{kind.key}@{layer}", layers=(layer,), label=label))
    return kinds


def structure_label(structure: str) -> str:
    """Return a structure as publications write it.

    >>> structure_label("dv")
    'D-V'
    """
    return "-".join(structure.upper())


def layers_label(layers: Sequence[int]) -> str:
    """Return layers as text.

    >>> layers_label([0, 1, 2]), layers_label([3]), layers_label([0, 2])
    ('layers 0–2', 'layer 3', 'layers 0, 2')
    """
    if len(layers) == 1:
        return f"layer {layers[0]}"
    if list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"layers {layers[0]}–{layers[-1]}"
    return "layers " + ", ".join(map(str, layers))


def heads_label(heads: Sequence[int]) -> str:
    """Return heads as the end of a label, empty for all heads."""
    return "" if not heads else (", head " if len(heads) == 1 else ", heads ") + ", ".join(map(str, heads))


def shares(maps: Tensor) -> Tensor:
    """Divide maps of attention [..., Gh, Gw] by their sums, after windows were merged."""
    return maps / maps.sum(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
