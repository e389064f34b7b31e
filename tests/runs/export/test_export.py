"""Exports reproduce the features of the model in the other library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from clipalign.backbone import Backbone, load, preprocess_for
from clipalign.backbone.positions import stretch_positions
from clipalign.commands.cli import main
from clipalign.commands.export import export
from clipalign.core.errors import UserError
from clipalign.core.types import Preprocess
from clipalign.data.decode import evaluation_view
from clipalign.methods import get_method
from clipalign.protocols.names_only import NamesOnly, names_episode
from clipalign.runs.export import EXPORTS, to_hf
from clipalign.runs.export.base import ExportedModel, Features, Probe
from clipalign.runs.export.head import head_of
from clipalign.runs.export.to_open_clip import OpenClip
from clipalign.runs.run import open_run

NAMES = ("red square", "green_square", "café au lait", "dog's toy")
TEMPLATES = ("a photo of a {}.", "art of the {}.")


@pytest.fixture(scope="module")
def run(tiny_spec: str, squares_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps of erm with a learning rate that moves the tower."""
    out = tmp_path_factory.mktemp("run") / "erm"
    arguments = ["train", "--method", "erm", "--data", str(squares_folder), "--target", "grey"]
    arguments += ["--backbone", tiny_spec, "--steps", "3", "--batch-size", "4", "--lr", "1e-3"]
    assert main([*arguments, "--out", str(out)]) == 0
    return out


def probe_images(backbone: Backbone) -> torch.Tensor:
    return Probe.draw(backbone, ()).images


@pytest.mark.parametrize("form", ["open_clip", "safetensors", "hf", "onnx"])
def test_export_reproduces_features(run: Path, tmp_path: Path, form: str) -> None:
    if form == "hf":
        pytest.importorskip("transformers", reason="the extra [hf] is not installed")
    if form == "onnx":
        pytest.importorskip("onnxscript", reason="the extra [onnx] is not installed")
        pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    done = export(run, form, tmp_path / "out")
    assert done.image_difference < 1e-5 and done.text_difference < 1e-5 and done.classifier
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    facts = json.loads((done.folder / "classifier.json").read_text())
    assert len(facts["class_names"]) == 4 and facts["unit_image_features"]
    assert json.loads((done.folder / "export.json").read_text())["method"] == "erm"


def test_open_clip_export_with_classifier_reproduces_predictions(run: Path, tmp_path: Path) -> None:
    folder = export(run, "open_clip", tmp_path / "out").folder
    opened = open_run(run)
    images = probe_images(opened.backbone)
    with torch.no_grad():
        expected = opened.method.classifier(opened.class_names)(images)
        before = load(opened.options.config.model.backbone).encode_image(images)
        model = open_clip.create_model(f"local-dir:{folder}").eval()
        features = model.encode_image(images, normalize=True)
    head = load_file(folder / "classifier.safetensors")
    torch.testing.assert_close(
        head["logit_scale"] * features @ head["weight"].T, expected, rtol=1e-4, atol=1e-4
    )
    # The tower that was written is the trained one.
    assert (features - torch.nn.functional.normalize(before, dim=-1)).abs().max() > 1e-3


def test_hf_export_loads_as_a_backbone(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="the extra [hf] is not installed")
    folder = export(run, "hf", tmp_path / "out").folder
    exported, trained = load(f"hf:{folder}"), open_run(run).backbone
    texts, images = ["a red square", "snow"], probe_images(trained)
    assert type(exported.tokenizer) is type(trained.tokenizer)
    with torch.no_grad():
        torch.testing.assert_close(
            exported.encode_text(texts), trained.encode_text(texts), atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(
            exported.encode_image(images), trained.encode_image(images), atol=1e-5, rtol=1e-5
        )
    assert exported.capabilities == trained.capabilities
    assert preprocess_for(exported, "bicubic") == preprocess_for(trained, "bicubic")


def test_hf_processor_matches_tokenizer_and_preprocessing(run: Path, tmp_path: Path) -> None:
    hf = pytest.importorskip("transformers", reason="the extra [hf] is not installed")
    folder = export(run, "hf", tmp_path / "out").folder
    processor = hf.CLIPProcessor.from_pretrained(folder)
    texts = ["A photo of a  café!", "3 dogs, a cat's 'toy'", "x" * 100, "12 o'clock & more..."]
    ours = open_clip.get_tokenizer("ViT-B-32")(texts)
    theirs = processor.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
    assert torch.equal(theirs["input_ids"].where(theirs["attention_mask"] == 1, torch.tensor(0)), ours)

    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((70, 50))
    pixels = processor.image_processor(image, return_tensors="pt")["pixel_values"][0]
    opened = open_run(run).backbone
    preprocess = Preprocess(
        opened.image_size,
        tuple(opened.mean),
        tuple(opened.std),
        "bilinear",  # type: ignore[arg-type]
    )
    expected = preprocess.normalise(evaluation_view(image, preprocess)[None])[0]
    assert (pixels - expected).abs().mean() < 0.02  # resizing rounds to whole pixel values in one of the two


def test_hf_config_detects_quick_gelu(tiny: Backbone) -> None:
    for tower in (tiny.model.visual.transformer, tiny.model.transformer):
        for block in tower.resblocks:
            block.mlp.gelu = open_clip.transformer.QuickGELU()
    text = to_hf.text_tower(tiny.model)
    assert text is not None
    config = to_hf.hf_config(tiny.model.visual, text)
    assert config["vision_config"]["hidden_act"] == config["text_config"]["hidden_act"] == "quick_gelu"


def test_hf_state_names_unknown_tensor() -> None:
    with pytest.raises(UserError, match=r'no tensor for "visual.transformer.resblocks.0.ls_1.gamma"'):
        to_hf.hf_state({"visual.transformer.resblocks.0.ls_1.gamma": torch.ones(3)})


def test_export_with_other_features_writes_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(self: OpenClip, folder: Path, probe: Probe) -> Features:
        return Features(torch.zeros(len(probe.images), 24), torch.zeros(len(probe.texts), 24))

    monkeypatch.setattr(OpenClip, "read", other)
    with pytest.raises(UserError, match="computes other features"):
        export(run, "open_clip", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_export_of_backbone_keeps_features(tiny_spec: str, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\n")
    plain = export(tiny_spec, "open_clip", tmp_path / "plain")
    named = export(tiny_spec, "open_clip", tmp_path / "named", classes_file=names)
    assert not plain.classifier and named.classifier
    again = load(f"local-dir:{named.folder}")
    images = probe_images(again)
    with torch.no_grad():
        assert torch.equal(again.encode_image(images), load(tiny_spec).encode_image(images))


@pytest.mark.parametrize("form", ["open_clip", "safetensors", "hf", "onnx"])
def test_export_keeps_changed_image_size_and_text_length(tiny_spec: str, tmp_path: Path, form: str) -> None:
    """Image size and text length that differ from the configuration the backbone was built from."""
    for name, library in (("hf", "transformers"), ("onnx", "onnxscript"), ("onnx", "onnxruntime")):
        if form == name:
            pytest.importorskip(library, reason=f"the extra [{name}] is not installed")
    writer = EXPORTS.get(form)()
    backbone = load(f"{tiny_spec}@48")
    stretch_positions(backbone, 100)
    state = dict(backbone.model.state_dict())
    probe = Probe.draw(backbone, NAMES)
    writer.write(ExportedModel(backbone, Preprocess((48, 48), (0.5,) * 3, (0.5,) * 3), state), tmp_path)
    assert max(probe.features(backbone).difference(writer.read(tmp_path, probe)).values()) < 1e-5
    if form == "open_clip":
        again = load(f"local-dir:{tmp_path}")
        assert (again.image_size, again.context_length) == ((48, 48), 100)


def test_overwrite_replaces_only_an_export(tiny_spec: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    for extra, message in (({}, "not empty"), ({"overwrite": True}, "something other than an export")):
        with pytest.raises(UserError, match=message):
            export(tiny_spec, "open_clip", out, **extra)
    (out / "thesis.txt").rename(tmp_path / "thesis.txt")
    export(tiny_spec, "open_clip", out)
    export(tiny_spec, "safetensors", out, overwrite=True)
    assert not (out / "open_clip_model.safetensors").exists()


def test_unknown_format_raises_with_known_formats(tiny_spec: str, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"--to: unknown \"open-clip\"; did you mean open_clip\? \(known: open_clip, hf, "
    ):
        export(tiny_spec, "open-clip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_hf_export_of_resnet_raises(resnet_spec: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="the extra [hf] is not installed")
    with pytest.raises(UserError, match="no CLIP class with a resnet tower; use --to open_clip"):
        export(resnet_spec, "hf", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert export(resnet_spec, "open_clip", tmp_path / "out").image_difference < 1e-5


@pytest.mark.parametrize(
    ("name", "kind"),
    [("erm", "text"), ("coop", "prompts"), ("erm-linear-head", "linear"), ("clip-adapter", None)],
)
def test_head_of_returns_linear_classifiers(tiny: Backbone, name: str, kind: str | None) -> None:
    method: Any = get_method(name)()
    torch.manual_seed(0)
    method.setup(tiny, names_episode(NamesOnly("", NAMES, ("a",), TEMPLATES)), TEMPLATES)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    images = probe_images(tiny)
    chosen = [NAMES[2], NAMES[0]]
    head = head_of(method, chosen, TEMPLATES, images[:2])
    if kind is None:
        assert head is None
        return
    assert head is not None and head.kind == kind
    with torch.no_grad():
        found, expected = head.logits(tiny.encode_image(images)), method.classifier(chosen, TEMPLATES)(images)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            features = tiny.encode_image(images)  # [B, d] bfloat16
            autocast = head.logits(features)
        assert features.dtype == torch.bfloat16
        assert torch.equal(autocast, head.logits(features.float())) and autocast.dtype == torch.float32


def test_export_of_adapter_requires_towers_only(tiny_spec: str, squares_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    arguments = ["train", "--method", "clip-adapter", "--data", str(squares_folder), "--target", "grey"]
    arguments += ["--backbone", tiny_spec, "--steps", "2", "--batch-size", "4", "--lr", "0.1"]
    assert main([*arguments, "--out", str(out)]) == 0
    with pytest.raises(UserError, match=r"clip-adapter need more than the two towers .* --towers-only"):
        export(out, "open_clip", tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    assert not export(out, "open_clip", tmp_path / "towers", towers_only=True).classifier
    plain = export(out, "safetensors", tmp_path / "plain")
    assert not plain.classifier
    state = load_file(plain.folder / "model.safetensors")
    assert any(key.startswith("method.") for key in state)
