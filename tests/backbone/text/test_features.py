"""Class names, prompts and class text features."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.nn import functional as F

from clipalign.backbone import Backbone, load
from clipalign.backbone.text.features import (
    check_templates,
    class_text_features,
    clean_class_names,
    fill_templates,
    text_features,
)
from clipalign.backbone.text.prompts import ClassPrompts
from clipalign.core.errors import UserError

NAMES = [
    "red_apple",
    "t-shirt",
    "guitar",
    "a very long name of a thing that needs many more tokens than others",
]
TEMPLATES = ["a photo of a {}.", "itap of the {}", "{}"]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load("pocket:random")


def test_fill_templates_puts_clean_names_into_templates() -> None:
    assert clean_class_names(["red_apple", "t-shirt", "  a  b "]) == ("red apple", "t shirt", "a b")
    assert fill_templates(["red_apple", "cat"]) == [["a photo of a red apple."], ["a photo of a cat."]]
    assert fill_templates(["cat"], TEMPLATES) == [["a photo of a cat.", "itap of the cat", "cat"]]
    assert fill_templates(["{x}"], ["a {}"]) == [["a {x}"]]
    assert check_templates("only {}") == ("only {}",)


def test_plain_names_keep_hyphens(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    assert clean_class_names(["737-200", "red_apple", " a  b "], "plain") == ("737-200", "red apple", "a b")
    assert fill_templates(["737-200"], ["{}"], "plain") == [["737-200"]]
    paper = class_text_features(backbone, ["737-200", "cat"], ["{}"])
    prompts = ClassPrompts(backbone, ["737-200", "cat"], 2).rest
    monkeypatch.setattr(backbone, "names", "plain")
    plain = class_text_features(backbone, ["737-200", "cat"], ["{}"])
    torch.testing.assert_close(plain, text_features(backbone, ["737-200", "cat"]))
    torch.testing.assert_close(paper, text_features(backbone, ["737 200", "cat"]))
    # "-" is a token of its own, so prompts with learned context are one token longer.
    assert ClassPrompts(backbone, ["737-200", "cat"], 2).rest.shape[1] == prompts.shape[1] + 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "none given"),
        (["cat", ""], "number 1 is empty"),
        (["cat", "_-"], "number 1 is empty"),
        (["cat", "cat"], "the same"),
        (["hot_dog", "Hot-Dog"], '"Hot-Dog" and "hot_dog" are the same'),
    ],
)
def test_invalid_class_names_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        clean_class_names(names)


@pytest.mark.parametrize("templates", [[], ["a photo"], ["{} and {}"]])
def test_invalid_templates_are_refused(templates: list[str]) -> None:
    with pytest.raises(UserError, match="--template"):
        fill_templates(["cat"], templates)


@pytest.mark.parametrize("batch_size", [2, 256])
def test_template_ensemble_matches_clips_zero_shot_evaluation(backbone: Backbone, batch_size: int) -> None:
    actual = class_text_features(backbone, NAMES, TEMPLATES, batch_size=batch_size)
    assert actual.shape == (4, backbone.embed_dim) and not actual.requires_grad
    for row, texts in zip(actual, fill_templates(NAMES, TEMPLATES), strict=True):
        # open_clip's own encoder, all 77 positions, one text at a time.
        unit = [F.normalize(backbone.model.encode_text(backbone.tokenizer([t]))[0], dim=0) for t in texts]
        expected = F.normalize(torch.stack(unit).mean(dim=0), dim=0)
        torch.testing.assert_close(row, expected, atol=2e-6, rtol=1e-5)


def test_one_template_gives_normalised_text_features(backbone: Backbone) -> None:
    actual = class_text_features(backbone, ["cat", "dog"])
    expected = F.normalize(backbone.encode_text(["a photo of a cat.", "a photo of a dog."]), dim=-1)
    torch.testing.assert_close(actual, expected)


def test_class_text_features_follow_the_weights(backbone: Backbone) -> None:
    before = class_text_features(backbone, ["cat"])
    weight = backbone.model.ln_final.weight
    original = weight.detach().clone()
    with torch.no_grad():
        weight.mul_(torch.linspace(0.5, 2, len(weight)))
        changed = class_text_features(backbone, ["cat"])
        weight.copy_(original)
    assert not torch.allclose(before, changed, atol=1e-3)
    assert torch.equal(before, class_text_features(backbone, ["cat"]))


def test_truncation_is_tokensed_and_warned_about(backbone: Backbone) -> None:
    short, long = "a cat", "word " * 90
    tokens = backbone.tokenize([short, long, "!?! yes!"])
    assert tokens.num_truncated == 1 and tokens.longest == 92 and tokens.lengths[0] == 4
    exactly = backbone.tokenize(["word " * 75])
    assert exactly.num_truncated == 0 and exactly.longest == 77
    with pytest.warns(UserWarning, match="1 of 2 texts have more than 77 tokens.*the longest has 92"):
        backbone.encode_text([short, long])
    with pytest.warns(UserWarning, match="1 of 1 texts"):
        class_text_features(backbone, [long])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        class_text_features(backbone, NAMES, TEMPLATES)
