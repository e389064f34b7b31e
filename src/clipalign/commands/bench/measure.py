"""What one method costs on one backbone, measured in this process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from ...backbone import Backbone, load, preprocess_for
from ...core.precision import select_device
from ...core.types import Episode
from ...data.batches import CaptionTrainBatches, TrainBatches
from ...data.registry import load_source
from ...engine.averaging import make_average
from ...engine.optimiser import build_optimizer
from ...protocols import build_episode
from ...runs.options import train_options_from
from .cost import Cost
from .machine import forget_peak, peak, resident


def measure(
    method: str, backbone: str, *, steps: int, batch_size: int, classes: int, device: str, clock: str
) -> Cost:
    """Time one method in this process.

    Raises:
        UserError: the method does not work on this backbone.
    """
    place = select_device(device)
    scored = first_classes(classes)
    warm_up(load("pocket:random", place))
    before = resident()
    tower = load(backbone, place)
    # "unused" is never written: nothing here makes a run.
    options = train_options_from({"method": method, "backbone": backbone, "out": "unused"})
    subject = options.method(options.hyper)
    torch.manual_seed(0)
    if subject.learns_from == "captions":
        episode = scenes()
        subject.setup(tower, episode, scored.source.templates)
        use = subject.config.captions
        batch = CaptionTrainBatches(episode, batch_size, 0, preprocess_for(tower), use=use)[0].to(place)
    else:
        subject.setup(tower, scored, scored.source.templates)
        batch = TrainBatches(scored, batch_size, 0, preprocess_for(tower))[0].to(place)
    parameters = subject.parameters()
    now: Callable[[], float] = time.perf_counter if clock == "wall" else time.process_time

    def seconds(work: Callable[[], None]) -> float:
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        began = now()
        work()
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        return now() - began

    def memory() -> int:
        return torch.cuda.max_memory_allocated(place) if place.type == "cuda" else peak() - before

    step = None
    if subject.iterates:
        kind = options.config.average.average or subject.average
        optimizer = build_optimizer(subject.param_groups(), options.config.optimiser)
        average = make_average(kind, parameters, steps + 1)
        done = 0

        def one_step() -> None:
            nonlocal done
            done += 1
            optimizer.zero_grad(set_to_none=True)
            terms = subject.loss(batch)
            torch.stack([value for name, value in terms.items() if name.startswith("loss")]).sum().backward()
            optimizer.step()
            average.update(done)
            subject.after_step(done)

        one_step()  # optimiser state, caches, threads
        forget_peak()
        step = statistics.median(seconds(one_step) for _ in range(steps))
        most = memory()
    classifier = subject.classifier(scored.class_names)

    def predict() -> None:
        with torch.no_grad():
            classifier(batch.images)

    predict()
    if step is None:
        forget_peak()
    predicted = statistics.median(seconds(predict) for _ in range(steps))
    if step is None:
        most = memory()
    return Cost(method, backbone, sum(p.numel() for p in parameters), step, most, predicted)


def warm_up(tower: Backbone) -> None:
    """Use both towers once: libraries take some hundred MiB when they first run, which no method is to pay."""
    tower.encode_text(["a"]).sum().backward()
    tower.encode_image(tower.model.logit_scale.new_zeros(1, 3, *tower.image_size)).sum().backward()


def scenes() -> Episode:
    """Pictoscenes and their captions."""
    return build_episode("retrieval", load_source("pictoscenes"), None)


def first_classes(count: int) -> Episode:
    """Domain shift on pictograms, with the first classes only."""
    source = load_source("pictograms")
    episode = build_episode("domain-shift", source, source.domain_names[0], 0)
    kept = episode.train_classes[:count]
    rows = episode.train_rows[np.isin(source.labels[episode.train_rows], kept)]
    return replace(episode, train_classes=kept, train_rows=rows)
