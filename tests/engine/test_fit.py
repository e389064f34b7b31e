"""The training loop: one step by hand, resuming, metrics, and everything that a step depends on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clipalign.backbone import Backbone, preprocess_for
from clipalign.core.config import TrainConfig
from clipalign.core.errors import UserError
from clipalign.core.parsing import make_config
from clipalign.core.types import Batch
from clipalign.data.batches import TrainBatches
from clipalign.data.sources.folder import ImageFolder
from clipalign.engine.averaging import make_average
from clipalign.engine.optimiser import lr_factor
from clipalign.methods import Method, get_method
from clipalign.protocols import build_episode
from clipalign.runs.folder import RunFolder
from tests.helpers.training import fit_quietly

CPU = torch.device("cpu")


@pytest.fixture
def run(tiny: Backbone, squares: ImageFolder, tmp_path: Path) -> Callable[..., Method]:
    """Trains the initial tiny backbone and returns the method.

    Attributes: `average` and `metrics` as returned by `fit`, `batches` the class of the batches.
    """
    initial = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}

    def go(folder: str = "run", method: str = "erm", average: str = "none", **options: Any) -> Method:
        tiny.model.load_state_dict(initial)
        episode = build_episode("domain-shift", squares, "grey", 0)
        given = {"out": tmp_path / folder, "steps": 6, "batch_size": 7, "lr": 1e-3, "log_every": 2}
        config = make_config(TrainConfig, {**given, "average": average, **options})
        config.run.out.mkdir(exist_ok=True)
        fitted = get_method(method)()
        torch.manual_seed(config.run.seed)
        fitted.setup(tiny, episode, ("a {}.",))
        go.average, go.metrics = fit_quietly(fitted, config, episode, go.batches)  # type: ignore[attr-defined]
        return fitted

    go.batches = TrainBatches  # type: ignore[attr-defined]
    return go


def weights(method: Method) -> Tensor:
    return torch.cat([p.detach().flatten() for p in method.parameters()])


def test_one_step_equals_the_optimiser_by_hand(run: Callable[..., Method], tiny: Backbone) -> None:
    method = run(steps=1, validate_every=0)
    found, episode = weights(method), method.episode
    start = run(steps=3, folder="other", schedule="constant", lr=0.0)
    optimizer = torch.optim.AdamW(start.parameters(), lr=1e-3, weight_decay=0.1)
    batch = TrainBatches(episode, 7, 0, preprocess_for(tiny))[0]
    optimizer.zero_grad()
    start.loss(batch)["loss_ce"].backward()
    optimizer.step()
    assert torch.allclose(weights(start), found, atol=1e-7)


@pytest.mark.parametrize(
    ("method", "average", "precision"),
    [
        ("alignclip", "none", "fp32"),
        ("alignclip", "ema", "fp32"),
        ("alignclip", "bma", "fp32"),
        ("alignclip", "bma", "released-fp16"),
        ("alignclip", "swad", "fp32"),
        ("tip-adapter-f", "none", "fp32"),  # `start` fills its cache
    ],
)
@pytest.mark.parametrize("stop", [1, 3, 4])
def test_resumed_run_equals_uninterrupted_run_bit_for_bit(
    run: Callable[..., Method],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    method: str,
    average: str,
    precision: str,
    stop: int,
) -> None:
    options = {"method": method, "average": average, "checkpoint_every": 2, "micro_batch_size": 3}
    options["precision"] = precision
    whole = weights(run("whole", **options))
    whole_average = [tensor.clone() for tensor in run.average.average]  # type: ignore[attr-defined]

    class Crash(Exception):
        pass

    class Crashing(TrainBatches):
        def __getitem__(self, step: int) -> Batch:
            if step == stop:
                raise Crash
            return super().__getitem__(step)

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(run, "batches", Crashing)
        run("interrupted", **options)
    resumed = weights(run("interrupted", resume=True, **options))
    assert torch.equal(whole, resumed)
    assert all(map(torch.equal, whole_average, run.average.average))  # type: ignore[attr-defined]

    def metrics(folder: str) -> list[dict[str, float]]:
        lines = (tmp_path / folder / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if k != "images_per_second"} for line in lines]

    assert metrics("whole") == metrics("interrupted")


def test_micro_batches_give_the_gradient_of_the_whole_batch(run: Callable[..., Method]) -> None:
    whole, parts = (weights(run(str(size), micro_batch_size=size, optimizer="sgd")) for size in (None, 2))
    moved = (whole - weights(run("still", lr=0.0))).abs().max()
    assert float((whole - parts).abs().max()) < 1e-3 * float(moved)


def test_metrics_lines_have_terms_validation_and_lr(run: Callable[..., Method], tmp_path: Path) -> None:
    run(method="alignclip", average="bma", steps=5, log_every=2, validate_every=5)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 5]
    wanted = "loss_al loss_as loss_sls attention_entropy guide_entropy guide_kl_uniform grad_norm lr"
    assert all(name in lines[0] for name in wanted.split())
    assert "validation_accuracy" in lines[2] and "validation_accuracy" not in lines[0]
    assert lines[0]["lr"] == pytest.approx(1e-3 * lr_factor(1, 5, 0, "cosine"))


def test_non_finite_loss_stops_the_run_and_names_step_and_rows(
    run: Callable[..., Method], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    method = get_method("erm")
    original, calls = method.loss, []

    def bad(self: Method, batch: Batch) -> dict[str, Tensor]:
        calls.append(batch.rows.tolist())
        terms = original(self, batch)
        return terms | {"loss_extra": terms["loss_ce"] * (math.nan if len(calls) == 3 else 1)}

    monkeypatch.setattr(method, "loss", bad)
    with pytest.raises(UserError, match=r"step 3: loss_extra is not finite \(rows") as caught:
        run(checkpoint_every=1)
    assert ", ".join(map(str, calls[2])) in str(caught.value)
    assert RunFolder(tmp_path / "run").checkpoint.is_file()


def test_weights_depend_on_the_seed_only(run: Callable[..., Method]) -> None:
    first, again, other = (weights(run(f"{i}", seed=seed)) for i, seed in enumerate((0, 0, 1)))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_random_numbers_of_a_loss_depend_on_seed_and_step(
    run: Callable[..., Method], monkeypatch: pytest.MonkeyPatch
) -> None:
    method, drawn = get_method("erm"), []
    original = method.loss

    def noisy(self: Method, batch: Batch) -> dict[str, Tensor]:
        drawn.append(float(torch.rand(())))
        return original(self, batch)

    monkeypatch.setattr(method, "loss", noisy)
    run("a", steps=4)
    torch.rand(5)
    run("b", steps=4)
    assert drawn[:4] == drawn[4:] and len(set(drawn)) == 4


def test_bf16_training_keeps_float32_weights(run: Callable[..., Method]) -> None:
    method = run(precision="bf16", steps=2)
    assert all(p.dtype == torch.float32 and bool(p.isfinite().all()) for p in method.parameters())


def test_clipping_bounds_the_update(run: Callable[..., Method]) -> None:
    free, clipped = (
        weights(run(str(i), optimizer="sgd", steps=1, weight_decay=0.0, **options))
        for i, options in enumerate(({}, {"clip_grad_norm": 1e-3}))
    )
    start = weights(run("still", lr=0.0, steps=1))
    assert float((clipped - start).norm()) == pytest.approx(1e-6, rel=0.2)
    assert float((free - start).norm()) > 1e-4


def test_fit_returns_the_average_and_leaves_the_last_weights(run: Callable[..., Method]) -> None:
    assert make_average("bma", [torch.zeros(1)], 6).kind == "bma"
    last = weights(run("a", average="bma"))
    average = torch.cat([tensor.flatten() for tensor in run.average.average])  # type: ignore[attr-defined]
    assert average.shape == last.shape and not torch.equal(average, last)
