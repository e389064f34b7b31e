"""Contrastive losses: the same gradient from micro-batches, from several processes and from the whole batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clipalign.backbone import Backbone, preprocess_for
from clipalign.commands.cli import main
from clipalign.core.checkpoint import load_weights
from clipalign.core.config import OptimiserOptions
from clipalign.core.distributed import Ranks
from clipalign.core.errors import UserError
from clipalign.core.precision import Precision
from clipalign.core.types import Batch, Episode
from clipalign.data.batches import CaptionTrainBatches
from clipalign.data.registry import load_source
from clipalign.engine.accumulation import contrastive_backward, micro_batches
from clipalign.evaluation.results import read_results
from clipalign.methods import Method, get_method
from clipalign.methods.shared.contrastive import ContrastiveMethod
from clipalign.protocols import build_episode
from tests.helpers.processes import run_processes

PRECISION = Precision("fp32", torch.device("cpu"))


@pytest.fixture
def episode(captions_csv: Path, squares_folder: Path) -> Episode:
    options = {"root": squares_folder, "captions": True}
    return build_episode("retrieval", load_source(str(captions_csv), **options), None)


def batches_of(episode: Episode, tiny: Backbone, batch_size: int = 7, **options: Any) -> CaptionTrainBatches:
    return CaptionTrainBatches(episode, batch_size, 0, preprocess_for(tiny), **options)


def options_of(batch: Batch, size: int) -> OptimiserOptions:
    return OptimiserOptions(batch_size=len(batch), micro_batch_size=size)


def gradients(method: Method) -> dict[str, Tensor]:
    found = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    for _, p in method.named_parameters():
        p.grad = None
    return {name: gradient.clone() for name, gradient in found.items()}


def set_up(name: str, tiny: Backbone, episode: Episode, **options: Any) -> Method:
    method = get_method(name)
    fitted = method(method.Config(**options))
    torch.manual_seed(0)
    fitted.setup(tiny.double(), episode, ("a {}.",))
    fitted.extra.double()
    return fitted


@pytest.mark.parametrize("name", ["smartclip", "infonce", "long-clip"])
@pytest.mark.parametrize("size", [1, 3])
def test_micro_batches_give_the_gradient_of_the_whole_batch(
    name: str, size: int, tiny: Backbone, episode: Episode
) -> None:
    options = {"components": 3} if name == "long-clip" else {}
    method = set_up(name, tiny, episode, **options)
    batch = batches_of(episode, tiny)[0]
    batch = type(batch)(**{**vars(batch), "images": batch.images.double()})
    terms = method.loss(batch)
    sum(value for key, value in terms.items() if key.startswith("loss")).backward()  # type: ignore[union-attr]
    whole = gradients(method)
    found = contrastive_backward(method, batch, options_of(batch, size), PRECISION, Ranks())
    parts = gradients(method)
    assert set(parts) == set(whole) and len(whole) > 10
    for key, gradient in whole.items():
        # Features are float32, which bounds the agreement of sums in different order.
        assert float((parts[key] - gradient).abs().max()) <= 1e-4 * float(gradient.abs().max()) + 1e-6, key
    for key, value in terms.items():
        assert float(found[key]) == pytest.approx(float(value.detach()), rel=1e-4), key


def test_micro_batches_partition_the_rows() -> None:
    batch = Batch(torch.arange(7.0), torch.arange(7), torch.arange(7), torch.arange(7), tuple("abcdefg"))
    parts = list(micro_batches(batch, 3))
    assert [len(part) for part in parts] == [3, 3, 1]
    assert torch.cat([part.rows for part in parts]).tolist() == list(range(7))
    assert "".join("".join(part.captions or ()) for part in parts) == "abcdefg"
    assert list(micro_batches(batch, None)) == [batch]


class Noisy(ContrastiveMethod):
    """Draws random numbers in `features`, which `contrastive_backward` computes twice."""

    name = "noisy"

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        self.train_image_tower()
        self.drawn: list[float] = []

    def features(self, batch: Any) -> dict[str, Tensor]:
        noise = torch.rand(len(batch), 1)
        self.drawn.append(float(noise.sum()))
        return {"image": self.image_features(batch.images) * noise, "row": batch.rows}

    def loss_from_features(self, local: Any, everyone: Any, first: int = 0) -> dict[str, Tensor]:
        assert local["row"].tolist() == everyone["row"][first : first + len(local["row"])].tolist()
        return {"loss": (local["image"] @ everyone["image"].T).mean()}


def test_second_pass_repeats_the_random_numbers_of_the_first(tiny: Backbone, episode: Episode) -> None:
    method = Noisy()
    method.setup(tiny, episode, ("a {}.",))
    batch = batches_of(episode, tiny)[0]
    torch.manual_seed(3)
    contrastive_backward(method, batch, options_of(batch, 3), PRECISION, Ranks())
    assert method.drawn[:3] == method.drawn[3:] and len(set(method.drawn)) == 3


def test_micro_batches_cover_the_captions_of_a_batch(tiny: Backbone, episode: Episode) -> None:
    batch = batches_of(episode, tiny)[0]
    parts = list(micro_batches(batch, 3))
    assert [len(part) for part in parts] == [3, 3, 1]
    assert sum((part.captions for part in parts), ()) == batch.captions  # type: ignore[misc, arg-type]


def test_epoch_has_every_image_once(tiny: Backbone, episode: Episode) -> None:
    batches = batches_of(episode, tiny, batch_size=9)
    first, second = ([batches.plan(step)[0] for step in range(start, start + 4)] for start in (0, 4))
    for epoch in (first, second):
        assert sorted(row for rows in epoch for row in rows) == episode.train_rows.tolist()
    assert [rows.tolist() for rows in first] != [rows.tolist() for rows in second]
    again = batches_of(episode, tiny, batch_size=9)
    assert again.plan(6)[0].tolist() == second[2].tolist()  # a resumed run has not seen the earlier steps


def test_processes_share_one_batch(tiny: Backbone, episode: Episode) -> None:
    whole = batches_of(episode, tiny, use="prefix")[5]
    shares = [batches_of(episode, tiny, use="prefix", ranks=Ranks(rank, 3))[5] for rank in range(3)]
    assert [len(share) for share in shares] == [2, 2, 3]
    assert torch.equal(torch.cat([share.images for share in shares]), whole.images)
    assert sum((share.captions for share in shares), ()) == whole.captions  # type: ignore[misc, arg-type]


def test_batch_larger_than_an_epoch_raises(tiny: Backbone, episode: Episode) -> None:
    with pytest.raises(UserError, match="--batch-size 37: only 36 images"):
        batches_of(episode, tiny, batch_size=37)


ARGUMENTS = ["--steps", "4", "--batch-size", "7", "--micro-batch-size", "2"]
ARGUMENTS += ["--lr", "1e-3", "--optimizer", "sgd", "--log-every", "2"]


@pytest.mark.parametrize(("method", "world"), [("smartclip", 2), ("smartclip", 3), ("infonce", 3)])
def test_caption_training_in_several_processes_equals_one_process(
    method: str, world: int, tiny_spec: str, captions_csv: Path, squares_folder: Path, tmp_path: Path
) -> None:
    """Seven captions per step in micro-batches of two: neither two nor three processes have equal shares."""
    data = ["--data", str(captions_csv), "--data-root", str(squares_folder)]
    arguments = ["train", "--backbone", tiny_spec, "--method", method, *data, *ARGUMENTS]
    if method == "smartclip":
        arguments += ["--mask", "soft", "--mask-lr", "0.01"]  # a hard mask can flip on a rounding difference
    assert main([*arguments, "--out", str(tmp_path / "one")]) == 0
    run_processes(world, [*arguments, "--out", str(tmp_path / "many")], tmp_path / "log")
    one, many = (load_weights(tmp_path / run / "last.safetensors") for run in ("one", "many"))
    start = load_weights(Path(tiny_spec.removeprefix("local-dir:")) / "open_clip_model.safetensors")
    moved = max(
        float((one[name] - start[name]).abs().max())
        for name in start
        if name in one and one[name].shape == start[name].shape and one[name].is_floating_point()
    )
    assert moved > 1e-4
    for name, tensor in one.items():
        torch.testing.assert_close(many[name], tensor, rtol=1e-3, atol=1e-3 * moved)
    for a, b in zip(read_results(tmp_path / "one"), read_results(tmp_path / "many"), strict=True):
        assert a.test == b.test and a.protocol == b.protocol == "retrieval" and a.accuracy is None
        for key, value in a.extra.items():
            if "recall" in key:
                assert math.isclose(value, b.extra[key], abs_tol=1e-6), key
