from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from clipalign.backbone import load
from clipalign.backbone.dense import DenseFeatures
from clipalign.explain.figures import Block, Panel, grid_figure, overlay, save
from clipalign.explain.maps import (
    aligned_layers,
    attention_label,
    default_settings,
    guide_label,
    make_maps,
)
from clipalign.methods.capabilities import MapSettings
from tests.helpers.backbones import write_backbone


class KnownTokens:
    """A fake tower with 2 x 3 patches: patch 4 (row 1, column 1) matches text 0, patch 2 matches text 1."""

    grid = (2, 3)
    num_blocks = 6

    def dense(
        self,
        images: Tensor,
        attention_layers: Sequence[int],
        guide: str,
        dual_blocks: int | None,
        **options: object,
    ) -> DenseFeatures:
        self.arguments = (tuple(attention_layers), guide, dual_blocks)
        self.options = options
        tokens = torch.zeros(len(images), 6, 4)
        tokens[:, 4, 0], tokens[:, 2, 1] = 7.0, 0.5  # norms must not matter
        attention = torch.tensor([[0.1, 0.1, 0.1, 0.1, 0.1, 0.5], [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]])
        return DenseFeatures(tokens[:, 0], tokens, attention[:, None].expand(-1, len(images), -1), -tokens)


def test_maps_have_row_major_layout() -> None:
    backbone = KnownTokens()
    maps = make_maps(backbone, torch.zeros(2, 3, 8, 12), torch.eye(4)[:2])  # type: ignore[arg-type]
    assert backbone.arguments == ((0, 1), "dv", 3)
    assert backbone.options == {"attention_over": "patches", "keep_mlp": False}
    assert maps.attention.shape == (2, 2, 3) and maps.patches.shape == (2, 2, 2, 3)
    expected = torch.zeros(2, 2, 3)
    expected[0, 1, 1], expected[1, 0, 2] = 1, 1
    torch.testing.assert_close(maps.patches[0], expected)
    torch.testing.assert_close(maps.guide[1], -expected)
    # averaged over layers
    torch.testing.assert_close(maps.attention[0, 1], torch.tensor([0.05, 0.05, 0.75]))


def test_maps_use_the_given_settings() -> None:
    backbone, text = KnownTokens(), torch.eye(4)[:2]
    settings = MapSettings((2, 4), 5, "qqv", "tokens", True, class_mean=(0.5, 0.5, 0.0, 0.0))
    maps = make_maps(backbone, torch.zeros(1, 3, 8, 12), text, settings)  # type: ignore[arg-type]
    assert backbone.arguments == ((2, 4), "qqv", 5)
    assert backbone.options == {"attention_over": "tokens", "keep_mlp": True}
    # The class mean is subtracted from the texts of the guide, not from those of the patches.
    assert maps.patches[0, 0, 1, 1] == 1 and maps.guide[0, 0, 1, 1] == -0.5 and maps.guide[0, 0, 0, 2] == 0.5


def test_labels_name_layers_and_guide() -> None:
    settings = MapSettings((1,), 1, "vvv", keep_mlp=True, class_mean=(0.0,))
    assert attention_label(settings) == "attention, layer 1"
    assert guide_label(settings) == "V-V-V (1 block, MLPs, centred)"


def test_maps_of_classes_select_one_text_per_image() -> None:
    maps = make_maps(KnownTokens(), torch.zeros(2, 3, 8, 12), torch.eye(4)[:2])  # type: ignore[arg-type]
    chosen = maps.of(torch.tensor([1, 0]))
    assert chosen.patches[0, 0, 2] == 1 and chosen.patches[1, 1, 1] == 1
    assert chosen.patches.sum() == 2 and chosen.guide.sum() == -2


@pytest.mark.parametrize(("blocks", "layers"), [(12, (0, 1, 2, 3)), (6, (0, 1)), (1, (0,))])
def test_aligned_layers_are_the_first_third(blocks: int, layers: tuple[int, ...]) -> None:
    assert aligned_layers(blocks) == layers


@pytest.mark.parametrize("kind", ["tiny_spec", "resnet_spec", "wide_spec"])
def test_maps_of_every_tower_have_grid_shape(kind: str, request: pytest.FixtureRequest) -> None:
    backbone = load(request.getfixturevalue(kind))
    images = torch.randn(3, 3, *backbone.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        text = torch.nn.functional.normalize(backbone.encode_text(["a bell", "a tent"]), dim=-1)
    maps = make_maps(backbone, images, text)
    assert maps.attention.shape == (3, *backbone.grid) and maps.guide.shape == (3, 2, *backbone.grid)
    torch.testing.assert_close(maps.attention.sum(dim=(1, 2)), torch.ones(3))
    assert maps.guide.abs().max() <= 1 and not maps.guide.requires_grad
    vvv = replace(default_settings(backbone.num_blocks), guide="vvv")
    other = make_maps(backbone, images[1:2], text[1:], vvv)
    assert not torch.allclose(other.guide[0, 0], maps.guide[1, 1])


@pytest.fixture(scope="module")
def wide_spec(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A ViT with 2 x 6 patches."""
    return write_backbone(tmp_path_factory.mktemp("wide") / "vit", vision={"image_size": (16, 48)})


def test_grid_figure_has_a_cell_per_map(tmp_path: Path) -> None:
    image, heat = np.full((6, 8, 3), 0.5), np.linspace(0, 1, 48).reshape(6, 8)
    blocks = [Block("", ("image",)), Block("before", ("attention", "similarity"))]
    rows = [[Panel(image, caption="bell"), Panel(image, (heat, heat), "tent", right=False)]] * 2
    figure = grid_figure(blocks, rows, footer="scaled")
    assert len(figure.axes) == 6
    texts = [text.get_text() for text in figure.texts]
    assert texts.count("✗ tent") == 2 and "before" in texts and "scaled" in texts
    path = save(figure, tmp_path / "deep" / "a.png")
    assert path.read_bytes()[:4] == b"\x89PNG"


def test_overlay_is_brighter_for_high_values() -> None:
    image = np.random.default_rng(0).uniform(0, 1, (4, 4, 3))
    high, low = overlay(image, np.ones((4, 4))), overlay(image, np.zeros((4, 4)))
    assert (high.sum(axis=-1) > low.sum(axis=-1)).all()
    assert high.min() >= 0 and high.max() <= 1
