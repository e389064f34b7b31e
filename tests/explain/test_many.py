"""`explain` of several models and images from the command line: figures, maps, and the page in a browser's terms."""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clipalign.backbone import load
from clipalign.commands.cli import main
from clipalign.commands.explain import explain, names_of
from clipalign.core.errors import UserError
from clipalign.explain.kinds import MapChoice, drawn_kinds, page_kinds
from clipalign.explain.map_figure import map_figure, scale_of
from clipalign.explain.maps import default_settings
from clipalign.explain.photo import NamedModel, explain_photo, on_screen
from clipalign.runs.run import zeroshot
from tests.helpers.backbones import write_backbone

EVIL = "</script><script>alert(1)</script> & \"quoted\" 'name'"
TEXTS = ("a bell", EVIL)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a wide photo, and one in a folder whose name looks like markup."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (20, 50, 3), np.uint8)
    for name in ("a.png", "more/<b>&'.png"):
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def written(photos: Path, tiny_spec: str, resnet_spec: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Explain two images with two backbones of different grids."""
    out = tmp_path_factory.mktemp("explain") / "out"
    arguments = ["explain", tiny_spec, str(photos / "a.png"), str(photos / "more"), "--compare", resnet_spec]
    arguments += ["--text", *TEXTS, "--structure", "V-V-V", "--layers", "0", "--heads", "0"]
    arguments += ["--rollout", "--redundancy-removal", "--html", "--out", str(out), "--device", "cpu"]
    assert main(arguments) == 0
    return out


def test_every_image_has_a_folder(written: Path) -> None:
    assert sorted(path.name for path in written.iterdir()) == ["<b>&'", "a", "explain.html"]
    assert all((written / name / "explain.png").is_file() for name in ("a", "<b>&'"))


def test_images_of_the_same_name_are_numbered() -> None:
    images = [Path(name) for name in ("a.png", "more/A.jpg", "more/a-2.png", "a/b.c.png")]
    assert names_of(images) == ["a", "A-2", "a-2-2", "b.c"]


def test_maps_of_models_cover_the_photo_on_their_grids(written: Path) -> None:
    with np.load(written / "a" / "maps.npz") as maps:
        assert maps["texts"].tolist() == list(TEXTS)
        shapes = {key.rpartition("_")[2]: maps[key].shape for key in maps if "vit" in key}
        assert shapes == {
            "attention": (4, 10),
            "rollout": (4, 10),
            "patches": (2, 4, 10),
            "vvv": (2, 4, 10),
        }
        (wide,) = (maps[key].shape for key in maps if "resnet" in key and key.endswith("_vvv"))
        assert wide == (2, 2, 5)
        for key in maps:
            if key.endswith(("attention", "rollout")):
                assert np.isclose(maps[key].sum(), 1, atol=1e-4)
            elif key != "texts":  # without what the two texts share
                np.testing.assert_allclose(maps[key][0], -maps[key][1], atol=1e-5)


class Page(HTMLParser):
    """Elements, text of the data script, and references of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "script" and self.scripts:
            self.scripts[-1] += data


def test_page_is_self_contained_and_escapes_names(written: Path) -> None:
    text = (written / "explain.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.tags.count("script") == 2 and "alert(1)</script>" not in text
    assert page.references == ["data:,"] and not re.search(r"https?://|@import|url\(", text)
    data = json.loads(page.scripts[0])
    assert data["texts"] == list(TEXTS) and len(data["models"]) == 2
    assert [photo["name"] for photo in data["photos"]] == ["a", "<b>&'"]
    for photo in data["photos"]:
        assert photo["source"].startswith("data:image/jpeg;base64,")
        assert photo["frame"] == pytest.approx([0.3, 0, 0.7, 1])
        for model in photo["models"]:
            assert set(model["maps"]) == {kind["key"] for kind in data["kinds"]}
    groups = {kind["group"] for kind in data["kinds"]}
    assert groups == {"attention", "rollout", "patches", "vvv", "dv", "qqv", "kkv", "qkv"}


def two_models(tiny_spec: str) -> Iterator[NamedModel]:
    for i, name in enumerate(("before", "after")):
        backbone = load(tiny_spec)
        with torch.no_grad():
            backbone.model.visual.proj += 0.05 * i
        yield NamedModel(name, name, zeroshot(backbone))


def test_figure_has_bars_a_frame_and_a_centred_difference(tiny_spec: str, photos: Path) -> None:
    with Image.open(photos / "a.png") as file:
        picture = file.convert("RGB")
    kinds = drawn_kinds(MapChoice(), default_settings(3), 3)
    explained = [explain_photo(model, picture, ["a bell"], kinds) for model in two_models(tiny_spec)]
    figure = map_figure(on_screen(picture, explained[0].covered), ["a bell"], kinds, explained)
    assert len(figure.axes) == 3 * (1 + 2 + 1 + 1 + 1)  # photo, models, their bar, difference, its bar
    assert sum(len(axes.patches) for axes in figure.axes[:1]) == 1
    bars = [axes for axes in figure.axes if axes.get_ylabel() is not None and not axes.images]
    ticks = [[label.get_text() for label in axes.get_yticklabels()] for axes in bars]
    zero_centred = [labels for labels in ticks if len(labels) == 3]
    assert len(zero_centred) == 3
    for low, middle, high in zero_centred:
        assert middle == "0" and low[0] == "-" and high == "+" + low[1:]
    texts = [text.get_text() for text in figure.texts]
    assert "difference" in texts and any("after minus before" in text for text in texts)
    alone = map_figure(on_screen(picture, explained[0].covered), ["a bell"], kinds, explained[:1])
    assert len(alone.axes) == 3 * 3 and not any(text.get_text() == "difference" for text in alone.texts)


def test_scale_is_shared_by_the_maps_of_a_row() -> None:
    assert scale_of([np.array([[0.0, 2.0]]), np.array([[-1.0, 1.0]])]) == (-1, 2)
    low, high = scale_of([np.zeros((2, 2))])
    assert high > low  # a constant map is no division by zero


def test_kinds_follow_the_choice() -> None:
    settings = default_settings(12)
    default = drawn_kinds(MapChoice(), settings, 12)
    assert [(kind.key, kind.layers) for kind in default] == [
        ("attention", (0, 1, 2, 3)),
        ("patches", ()),
        ("guide", (6, 7, 8, 9, 10, 11)),
    ]
    choice = MapChoice(("V-V-V", "vvv", "qkv"), (-1, 0), (3,), rollout=True)
    kinds = drawn_kinds(choice, settings, 12)
    assert [kind.label for kind in kinds] == [
        "attention, layers 0, 11, head 3",
        "rollout, layers 0, 11, head 3",
        "patch tokens",
        "V-V-V, layers 0, 11, head 3",
        "Q-K-V, layers 0, 11, head 3",
    ]
    keys = [kind.key for kind in page_kinds(kinds, 12)]
    assert len(keys) == len(set(keys)) and {"attention@11", "vvv@0", "dv@5", "kkv"} <= set(keys)


def test_runs_share_their_backbone_and_have_unique_names(
    tiny_spec: str, squares_folder: Path, tmp_path: Path
) -> None:
    arguments = [
        "train",
        "--method",
        "erm",
        "--data",
        str(squares_folder),
        "--target",
        "grey",
        "--steps",
        "1",
    ]
    for name in ("a", "b"):
        more = ["--backbone", tiny_spec, "--batch-size", "4", "--out", str(tmp_path / name)]
        assert main([*arguments, *more]) == 0
    image = squares_folder / "grey" / "red_square" / "0.png"
    compare = [str(tmp_path / "b"), tiny_spec, str(tmp_path / "a")]
    files = explain(tmp_path / "a", [image], ["red"], compare=compare, out=tmp_path / "maps", device="cpu")
    with np.load(files[1]) as maps:
        names = {key.rpartition("_")[0] for key in maps if key != "texts"}
    assert names == {"zero-shot", "erm-a", "erm-b"}


def write_header(file: Path, width: int, height: int) -> None:
    """Write a PNG file that claims to have a number of pixels; they need not exist to exceed Pillow's limit."""
    Image.new("1", (1, 1)).save(file)
    content = bytearray(file.read_bytes())
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    file.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("name", "size", "text", "message"),
    [
        ("dot.png", (1, 1), "a bell", None),
        ("tall.png", (2, 30), "a bell", None),
        ("wide.png", (30_000, 2), "a bell", "wide.png: the image has 30000 x 2 pixels, .*--view centre"),
        ("bomb.png", (30_000, 20_000), "a bell", r"bomb.png does not decode .*pixels"),
        ("dot.png", (1, 1), "word " * 100, "truncated"),
    ],
)
def test_extreme_input_gives_one_message_or_a_map(
    tiny_spec: str, tmp_path: Path, name: str, size: tuple[int, int], text: str, message: str | None
) -> None:
    image = tmp_path / name
    write_header(image, *size) if name == "bomb.png" else Image.new("1", size).save(image)
    options: dict[str, Any] = {"out": tmp_path / "maps", "device": "cpu"}
    if message is None:
        assert all(file.is_file() for file in explain(tiny_spec, [image], [text], **options))
    elif message == "truncated":  # a documented fallback
        with pytest.warns(UserWarning, match="more than 77 tokens and were truncated") as warned:
            explain(tiny_spec, [image], [text], **options)
        assert len([w for w in warned if "truncated" in str(w.message)]) == 1
    else:
        with pytest.raises(UserError, match=message) as caught:
            explain(tiny_spec, [image], [text], **options)
        assert "\n" not in str(caught.value) and not (tmp_path / "maps").exists()
        if size[1] == 2:
            assert explain(tiny_spec, [image], [text], view="centre", **options)


def test_tower_without_class_token_is_refused(tmp_path: Path, squares_folder: Path) -> None:
    spec = write_backbone(tmp_path / "pooled", vision={"pool_type": "avg"})
    image = squares_folder / "grey" / "red_square" / "0.png"
    with pytest.raises(UserError, match=r"needs image tokens.*pools by averaging"):
        explain(spec, [image], ["red"], out=tmp_path / "maps", device="cpu")
    assert not (tmp_path / "maps").exists()
