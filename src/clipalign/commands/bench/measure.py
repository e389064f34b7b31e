"""Time and memory of one method on one backbone, measured in this process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from ...backbone import Backbone, load, preprocess_for
from ...core.precision import select_device
from ...core.types import Batch, Episode
from ...data.batches import CaptionTrainBatches, TrainBatches
from ...data.registry import load_source
from ...engine.averaging import make_average
from ...engine.optimiser import build_optimizer
from ...methods import Method, SupportsCaptions
from ...methods.capabilities import SupportsRunningAverage
from ...protocols import build_episode
from ...runs.options import TrainOptions, train_options_from
from .cost import Cost
from .machine import peak, reset_peak, resident


class Meter:
    """Clock and memory of a device.

    Args:
        device: where the work is done.
        clock: "wall" (elapsed time) or "cpu" (processor time of this process).
        before: bytes of resident memory that are not counted.
    """

    def __init__(self, device: torch.device, clock: str, before: int) -> None:
        self.device, self.before = device, before
        self.now: Callable[[], float] = time.perf_counter if clock == "wall" else time.process_time

    def seconds(self, work: Callable[[], None]) -> float:
        """Return the duration of `work`, kernels that it launched on a GPU included."""
        self._synchronize()
        start = self.now()
        work()
        self._synchronize()
        return self.now() - start

    def memory(self) -> int:
        """Return the peak of memory in bytes since `reset_peak`."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return peak() - self.before

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def measure(
    method: str,
    backbone: str,
    *,
    steps: int,
    batch_size: int,
    classes: int,
    device: str,
    clock: str,
    guide: str | None = None,
) -> Cost:
    """Measure one method with the options it was published with.

    Args:
        method: name of the method.
        backbone: as in `clipalign train`.
        steps: number of steps and predictions that are timed, after one that is not.
        batch_size: images per step.
        classes: number of classes.
        device: "auto", "cpu", "cuda" or "cuda:N".
        clock: "wall" or "cpu"; see `Meter`.
        guide: value of --guide, for methods with that option; None for the default.

    Raises:
        UserError: the method does not support the backbone.
    """
    place = select_device(device)
    episode = first_classes(classes)
    warm_up(load("pocket:random", place))
    meter = Meter(place, clock, resident())
    tower = load(backbone, place)
    # --out is required, but no run is written.
    given = {"method": method, "backbone": backbone, "out": "unused"}
    options = train_options_from(given if guide is None else {**given, "guide": guide})
    subject = options.method(options.hyper)
    torch.manual_seed(0)
    batch = _set_up(subject, tower, episode, batch_size).to(place)
    step = memory = None
    if subject.iterates:
        one_step = _stepper(subject, options, batch, steps)
        one_step()  # allocates optimiser state and caches, and starts threads
        reset_peak()
        step = statistics.median(meter.seconds(one_step) for _ in range(steps))
        memory = meter.memory()
    classifier = subject.classifier(episode.class_names)

    def predict() -> None:
        with torch.no_grad():
            classifier(batch.images)

    predict()
    if memory is None:
        reset_peak()
    seconds = statistics.median(meter.seconds(predict) for _ in range(steps))
    if memory is None:
        memory = meter.memory()
    parameters = sum(parameter.numel() for parameter in subject.parameters())
    return Cost(method, backbone, parameters, step, memory, seconds, guide=guide)


def _set_up(method: Method, backbone: Backbone, episode: Episode, batch_size: int) -> Batch:
    """Set a method up on an episode of classes or, if it learns from captions, of captions; return a batch."""
    templates = episode.source.templates
    if not isinstance(method, SupportsCaptions):
        method.setup(backbone, episode, templates)
        return TrainBatches(episode, batch_size, 0, preprocess_for(backbone))[0]
    captions = build_episode("retrieval", load_source("pictoscenes"), None)
    method.setup(backbone, captions, templates)
    use = method.caption_use
    return CaptionTrainBatches(captions, batch_size, 0, preprocess_for(backbone), use=use)[0]


def _stepper(method: Method, options: TrainOptions, batch: Batch, steps: int) -> Callable[[], None]:
    """Return a function that takes one optimiser step on a batch, with optimiser and average as published."""
    kind = options.config.average.average or method.average
    optimizer = build_optimizer(method.param_groups(), options.config.optimiser)
    average = make_average(kind, method.parameters(), steps + 1)
    if isinstance(method, SupportsRunningAverage):
        method.use_average(average)
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        optimizer.zero_grad(set_to_none=True)
        terms = method.loss(batch)
        torch.stack([value for name, value in terms.items() if name.startswith("loss")]).sum().backward()
        optimizer.step()
        average.update(done)
        method.after_step(done)

    return step


def warm_up(backbone: Backbone) -> None:
    """Run both towers once, so that one-off allocations of libraries (some 100 MiB) are not charged to a method."""
    backbone.encode_text(["a"]).sum().backward()
    image = backbone.model.logit_scale.new_zeros(1, 3, *backbone.image_size)  # [1, 3, H, W]
    backbone.encode_image(image).sum().backward()


def first_classes(count: int) -> Episode:
    """Return a domain-shift episode of Pictograms with the first `count` classes."""
    source = load_source("pictograms")
    episode = build_episode("domain-shift", source, source.domain_names[0], 0)
    classes = episode.train_classes[:count]
    rows = episode.train_rows[np.isin(source.labels[episode.train_rows], classes)]
    return replace(episode, train_classes=classes, train_rows=rows)
