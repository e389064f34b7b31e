"""The text tower alone, as transformers' text-to-image pipelines load it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clipalign.backbone import Backbone, load
from clipalign.backbone.positions import stretch_positions
from clipalign.commands.cli import main
from clipalign.commands.export import export
from clipalign.core.errors import UserError
from clipalign.core.types import Preprocess
from clipalign.methods.zeroshot import ZeroShot
from clipalign.runs.export.base import ExportedModel, Features, Probe, check_features
from clipalign.runs.export.to_hf_text import HuggingFaceText
from clipalign.runs.run import open_run, zeroshot

hf = pytest.importorskip("transformers", reason="the extra [hf] is not installed")

TEXTS = ("a photo of a dog", "three kites above a red house, and a bell", "word " * 300)


class Masked(ZeroShot):
    """A method that has masks."""

    def caption_masks(self, texts: Sequence[str]) -> Tensor:
        return torch.ones(len(texts), self.backbone.embed_dim)


@pytest.fixture
def run(tiny_spec: str, squares_folder: Path, tmp_path: Path) -> Path:
    """A run whose text tower moved: flyp trains both towers."""
    out = tmp_path / "flyp"
    arguments = ["train", "--method", "flyp", "--data", str(squares_folder), "--target", "grey"]
    arguments += ["--protocol", "domain-shift", "--backbone", tiny_spec, "--steps", "2"]
    assert main([*arguments, "--batch-size", "4", "--lr", "1e-3", "--out", str(out)]) == 0
    return out


def written(backbone: Backbone, folder: Path) -> dict[str, float]:
    """Differences after loading."""
    folder.mkdir()
    HuggingFaceText().write(ExportedModel(backbone, Preprocess((32, 32), (0.5,) * 3, (0.5,) * 3), {}), folder)
    probe = Probe.draw(backbone, TEXTS)
    return check_features(
        HuggingFaceText().features(backbone, probe), HuggingFaceText().read(folder, probe), "transformers"
    )


def test_text_export_of_run_reproduces_text_features(run: Path, tiny_spec: str, tmp_path: Path) -> None:
    done = export(run, "hf-text", tmp_path / "text")
    assert done.image_difference is None and done.text_difference < 1e-5 and not done.classifier
    assert done.state_difference is not None and done.state_difference < 1e-5
    facts = json.loads((done.folder / "export.json").read_text())
    assert facts["format"] == "hf-text" and set(facts["largest_difference_of_unit_features"]) == {"texts"}
    assert facts["largest_relative_difference_of_hidden_states"] == done.state_difference

    tokens = hf.CLIPTokenizer.from_pretrained(done.folder)(
        list(TEXTS), padding="max_length", truncation=True, return_tensors="pt"
    )["input_ids"]
    assert tokens.shape == (3, 77)
    plain = hf.CLIPTextModel.from_pretrained(done.folder)
    projected = hf.CLIPTextModelWithProjection.from_pretrained(done.folder)
    backbone = open_run(run).backbone
    with torch.no_grad():
        ours = backbone.encode_text(backbone.tokenize(TEXTS).ids)
        theirs = projected(tokens).text_embeds
        end = plain(tokens).pooler_output
        before = load(tiny_spec).encode_text(backbone.tokenize(TEXTS).ids)
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(projected.text_projection(end), ours, rtol=1e-4, atol=1e-5)
    assert (F.normalize(ours, dim=-1) - F.normalize(before, dim=-1)).abs().max() > 1e-3  # the trained tower
    names = {name for name, _ in plain.named_parameters()} | {
        name for name, _ in projected.named_parameters()
    }
    assert not any("vision" in name for name in names)
    assert "CLIPTextModelWithProjection" in (done.folder / "config.json").read_text()


def test_text_export_keeps_stretched_length(tiny: Backbone, tmp_path: Path) -> None:
    stretch_positions(tiny, 248)
    differences = written(tiny, tmp_path / "text")
    assert max(differences.values()) < 1e-5 and set(differences) == {"texts", "hidden states"}
    config = json.loads((tmp_path / "text" / "config.json").read_text())
    assert config["max_position_embeddings"] == 248
    tokenizer = hf.CLIPTokenizer.from_pretrained(tmp_path / "text")
    assert tokenizer.model_max_length == 248
    ids = tokenizer(TEXTS[2], truncation=True)["input_ids"]
    assert ids == tiny.tokenize([TEXTS[2]]).ids[0].tolist() and len(ids) == 248


def test_text_export_compares_every_block(tiny: Backbone, tmp_path: Path) -> None:
    written(tiny, tmp_path / "text")
    probe = Probe.draw(tiny, TEXTS)
    states = HuggingFaceText().features(tiny, probe).states
    assert states is not None and len(states) == tiny.text_shape[0] + 1
    # Penultimate states are what SDXL reads: an error in one block alone is seen.
    ours, theirs = HuggingFaceText().features(tiny, probe), HuggingFaceText().read(tmp_path / "text", probe)
    assert theirs.states is not None
    wrong = theirs.states.clone()
    wrong[0, 3, 1] += 0.1 * wrong[0].abs().max()
    with pytest.raises(UserError, match=r"hidden states 0\.1"):
        check_features(ours, Features(None, theirs.texts, wrong), "transformers")


def test_text_export_ignores_image_tower(resnet_spec: str, tmp_path: Path) -> None:
    done = export(resnet_spec, "hf-text", tmp_path / "text")
    assert done.text_difference < 1e-5
    assert "vision" not in (done.folder / "config.json").read_text()


def test_card_mentions_dropped_mask_network_and_length(tiny: Backbone, tmp_path: Path) -> None:
    method = Masked()
    method.__dict__.update(zeroshot(tiny).__dict__)
    (tmp_path / "README.md").write_text("# A run\n")
    HuggingFaceText().write_card(method, tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("# A run\n\n## Text tower only") and "mask network is left out" in card
    assert "reads 77 tokens" in card and "limit raised" not in card
    assert "no mask network" in HuggingFaceText().notes(method)[0]
    (tmp_path / "README.md").unlink()
    stretch_positions(tiny, 100)
    HuggingFaceText().write_card(zeroshot(tiny), tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("## Text tower only") and "mask network" not in card and "reads 100" in card
    assert "limit raised" in card


def test_text_export_of_prompt_learner_requires_towers_only(
    tiny_spec: str, squares_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "coop"
    arguments = ["train", "--method", "coop", "--data", str(squares_folder), "--target", "grey"]
    arguments += ["--protocol", "domain-shift", "--backbone", tiny_spec, "--steps", "1"]
    assert main([*arguments, "--batch-size", "4", "--out", str(out)]) == 0
    with pytest.raises(UserError, match=r"coop adds learned vectors .* --towers-only"):
        export(out, "hf-text", tmp_path / "text")
    assert not (tmp_path / "text").exists()
    assert export(out, "hf-text", tmp_path / "text", towers_only=True).text_difference < 1e-5


def test_text_export_with_classifier_options_raises(tiny_spec: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="drop --classes-file and --template"):
        export(tiny_spec, "hf-text", tmp_path / "text", template=("a {}.",))
    assert not (tmp_path / "text").exists()
