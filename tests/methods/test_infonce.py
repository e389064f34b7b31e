from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from open_clip.loss import ClipLoss
from torch.nn import functional as F

from clipalign.backbone import Backbone
from clipalign.backbone.text.features import text_features
from clipalign.core.errors import UserError
from clipalign.core.types import CaptionSource, Episode
from clipalign.data.sources.folder import ImageFolder
from clipalign.methods import get_method
from clipalign.methods.infonce import InfoNceConfig
from tests.helpers.captions import captioned, gradient, in_shards, ready_unstretched
from tests.helpers.methods import ready, total_loss

METHODS = ["infonce", "long-clip", "smartclip"]


@CaptionSource.register
class Captions:
    """A source with captions of increasing length."""

    def __init__(self, source: ImageFolder) -> None:
        self.source = source
        self.texts = [(f"{'very ' * row}red.",) for row in range(len(source.labels))]

    def __getattr__(self, name: str) -> object:
        return getattr(self.source, name)


@pytest.mark.parametrize("scale", [None, 30.0])
def test_loss_equals_open_clip_loss(tiny: Backbone, episode: Episode, scale: float | None) -> None:
    method = ready_unstretched("infonce", tiny, episode, fixed_scale=scale)
    batch = captioned(episode, tiny)
    image, text = tiny.encode_image(batch.images), tiny.encode_text(batch.captions)
    factor = tiny.logit_scale if scale is None else torch.tensor(scale)
    expected = ClipLoss()(F.normalize(image, dim=-1), F.normalize(text, dim=-1), factor)
    terms = method.loss(batch)
    torch.testing.assert_close(total_loss(terms), expected)
    names = {id(p) for p in method.parameters()}
    assert (id(method.backbone.model.logit_scale) in names) is (scale is None)
    assert terms["captions_cut"] == 0 and terms["tokens_cut"] == 0


@pytest.mark.parametrize("name", [*METHODS, "flyp"])
@pytest.mark.parametrize("cuts", [(4, 8), (1, 3, 8)])
def test_loss_and_gradient_of_several_processes_equal_those_of_one(
    tiny: Backbone, episode: Episode, name: str, cuts: tuple[int, ...]
) -> None:
    method = ready(name, tiny, episode)
    batch = captioned(episode, tiny)
    torch.manual_seed(0)
    whole = total_loss(method.loss(batch))
    torch.manual_seed(0)
    many = in_shards(method, batch, cuts)
    torch.testing.assert_close(many, whole)
    one = gradient(method, whole)
    assert (gradient(method, many) - one).norm() < 1e-4 * one.norm()


def test_logit_scale_is_clipped_at_100(tiny: Backbone, episode: Episode) -> None:
    method = ready("infonce", tiny, episode)
    with torch.no_grad():
        method.backbone.model.logit_scale.fill_(6.0)
        method.after_step(1)
        assert float(method.backbone.logit_scale.detach()) == pytest.approx(100, rel=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_stretched_text_window_keeps_first_positions_and_is_restored(
    tiny: Backbone, episode: Episode, name: str
) -> None:
    method = ready(name, tiny, episode)
    assert method.resolved()["context_length"] == 248 == method.backbone.context_length
    table = method.backbone.model.positional_embedding
    before = table.detach().clone()
    optimizer = torch.optim.AdamW(method.param_groups(), lr=1e-2, weight_decay=0.5)
    batch = replace(
        captioned(episode, tiny), captions=tuple(f"a {'very ' * i * 9}red fox." for i in range(8))
    )
    total_loss(method.loss(batch)).backward()
    optimizer.step()
    method.after_step(1)
    assert torch.equal(table[:20], before[:20]) and not torch.equal(table[20:], before[20:])

    state = {key: value.clone() for key, value in method.state_dict().items()}
    assert state["positional_embedding"].shape == (248, 24)
    other = ready_unstretched(name, tiny, episode)  # as in a run whose window came from its captions
    other.load_state_dict(state)
    texts = ["a red fox. " * 30, "red"]
    with torch.no_grad():
        assert torch.equal(*(text_features(m.backbone, texts) for m in (other, method)))
    total_loss(other.loss(batch)).backward()
    assert not other.backbone.model.positional_embedding.grad[:20].any()


def test_unstretched_text_window_trains_all_positions(tiny: Backbone, episode: Episode) -> None:
    method = ready_unstretched("infonce", tiny, episode)
    total_loss(method.loss(captioned(episode, tiny))).backward()
    assert method.backbone.model.positional_embedding.grad[:5].any()


def test_too_long_truncates_raises_or_stretches(tiny: Backbone, episode: Episode) -> None:
    source = Captions(episode.source)
    there = replace(episode, source=source)
    longest = (
        int(episode.train_rows.max()) + 4
    )  # start token, one "very" per row number, "red", full stop, end token

    cut = ready("infonce", tiny, there, context_length=30, too_long="truncate")
    share = (episode.train_rows + 4 > 30).mean()
    assert cut.resolved() == {"context_length": 30, "captions_cut": pytest.approx(share, abs=1e-4)}
    batch = replace(captioned(episode, tiny, 2), captions=("very " * 46 + "red.", "red."))
    terms = cut.loss(batch)
    assert terms["captions_cut"] == 0.5 and terms["tokens_cut"].item() == pytest.approx(20 / 54)

    with pytest.raises(UserError, match=f"has {longest} tokens, --context-length is 30"):
        ready("infonce", tiny, there, context_length=30, too_long="error")
    assert ready("infonce", tiny, there, context_length=longest, too_long="error").captions_cut == 0
    wide = ready("infonce", tiny, there, context_length=30, too_long="stretch")
    assert wide.backbone.context_length == longest and wide.captions_cut == 0


def test_tower_with_a_longer_window_keeps_it(tiny: Backbone, episode: Episode) -> None:
    first = ready("infonce", tiny, episode)
    assert ready("infonce", first.backbone, episode).backbone.context_length == 248


@pytest.mark.parametrize("name", METHODS)
def test_missing_or_empty_captions_raise(tiny: Backbone, episode: Episode, name: str) -> None:
    method = ready(name, tiny, episode)
    batch = captioned(episode, tiny)
    with pytest.raises(UserError, match=f"--method {name} learns from captions"):
        method.loss(replace(batch, captions=None))
    empty = replace(batch, captions=(*batch.captions[:-1], " "))
    with pytest.raises(UserError, match=f"the caption of row {int(batch.rows[-1])} is empty"):
        method.loss(empty)


def test_options_out_of_range_raise() -> None:
    with pytest.raises(UserError, match="--keep-positions must be at least 0"):
        InfoNceConfig(keep_positions=-1)
    with pytest.raises(UserError, match="--fixed-scale must be above 0"):
        InfoNceConfig(fixed_scale=0.0)
    for options, match in (
        ({"components": 0}, "--components"),
        ({"short_weight": -1.0}, "--short-weight"),
        ({"label_smoothing": 1.0}, "--label-smoothing"),
    ):
        with pytest.raises(UserError, match=match):
            get_method("long-clip").Config(**options)
