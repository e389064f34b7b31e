"""Protocols by name, and the episode that a command's options describe."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ..core.config import SplitOptions
from ..core.errors import UserError
from ..core.types import Episode, Source
from . import base_to_new, domain_shift, few_shot, imagenet_shift, in_the_wild, retrieval
from .retrieval import RETRIEVAL
from .split_file import read_split

PROTOCOLS: dict[str, Callable[..., Episode]] = {
    "domain-shift": domain_shift.episode,
    "base-to-new": base_to_new.episode,
    "in-the-wild": in_the_wild.episode,
    "few-shot": few_shot.episode,
    "imagenet-shift": imagenet_shift.episode,
    RETRIEVAL: retrieval.episode,
}


def usual_protocol(captions: bool) -> str:
    """The protocol where none is told: retrieval where captions are learned from, or all there is."""
    return RETRIEVAL if captions else "domain-shift"


def list_protocols() -> list[str]:
    """Names for `--protocol`."""
    return list(PROTOCOLS)


def build_episode(
    protocol: str, source: Source, target: str | None, seed: int = 0, **options: Any
) -> Episode:
    """Decide which rows train and which test.

    Args:
        protocol: one of `list_protocols()`.
        source: the data set.
        target: domain to leave out (domain-shift, in-the-wild) or to test alone (base-to-new).
        seed: of the split (DomainBed's trial seed), not of the training. Data sets with splits of their own
            ignore it.
        options: `target_split` ("all", "in", "out") and `shots`, for the protocols that take them; None for
            their default.

    Raises:
        UserError: unknown protocol or target, an option of another protocol, or a data set that the protocol
            cannot cut.
    """
    known = PROTOCOLS
    if protocol not in known:
        raise UserError(f'--protocol: unknown "{protocol}"; choose one of: {", ".join(known)}')
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        owners = [p for p, function in known.items() if name in inspect.signature(function).parameters]
        if protocol not in owners:
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{flag} is for --protocol {' or '.join(owners)}, not {protocol}")
    return known[protocol](source, target, seed, **given)


def episode_from(options: SplitOptions, source: Source) -> Episode:
    """Return the episode that options describe; `protocol` has to be resolved unless there is a split file."""
    if options.split_file is not None:
        return read_split(options.split_file, source)
    return build_episode(
        str(options.protocol),
        source,
        options.target,
        options.split_seed,
        target_split=options.target_split,
        shots=options.shots,
    )
