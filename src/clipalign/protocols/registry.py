"""Registry of protocols, and the episode that options describe.

A protocol is a function `(source, target, seed, *, ...) -> Episode`. Its further parameters are the options that it
accepts (`target_split`, `shots`, `ratios`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ..core.config import SplitOptions
from ..core.errors import UserError
from ..core.registry import Registry
from ..core.types import Episode, Source
from .split_file import read_split

RETRIEVAL, HOLDOUT = "retrieval", "holdout"
_HERE = __package__

PROTOCOLS: Registry[Callable[..., Episode]] = Registry(
    "protocol",
    "clipalign.protocols",
    {
        "domain-shift": f"{_HERE}.domain_shift:domain_shift",
        "base-to-new": f"{_HERE}.base_to_new:base_to_new",
        "in-the-wild": f"{_HERE}.in_the_wild:in_the_wild",
        HOLDOUT: f"{_HERE}.holdout:holdout",
        "few-shot": f"{_HERE}.few_shot:few_shot",
        "imagenet-shift": f"{_HERE}.imagenet_shift:imagenet_shift",
        RETRIEVAL: f"{_HERE}.retrieval:retrieval",
    },
    flag="--protocol",
)


def list_protocols() -> list[str]:
    """Return the names that --protocol takes."""
    return PROTOCOLS.names()


def default_protocol(captions: bool, domains: int | None = None) -> str:
    """Return the protocol that is used if none is given.

    Retrieval for captions; otherwise holdout for data with one domain, and domain-shift for data with several.

    Args:
        captions: whether the method and the data have captions only.
        domains: number of domains of the data; None if they are not open yet, which counts as several.
    """
    if captions:
        return RETRIEVAL
    return HOLDOUT if domains == 1 else "domain-shift"


def build_episode(
    protocol: str, source: Source, target: str | None, seed: int = 0, **options: Any
) -> Episode:
    """Cut a data set into training, validation and test rows.

    Args:
        protocol: one of `list_protocols()`.
        source: the data set.
        target: domain to leave out (domain-shift, in-the-wild), or the only one to test (other protocols).
        seed: seed of the split (DomainBed's trial seed), not of the training. Data sets with splits ignore it.
        options: options of the protocol, such as `target_split`, `shots` and `ratios`; None means its default.

    Raises:
        UserError: unknown protocol or target, an option of another protocol, or a data set that the protocol cannot
            cut.
    """
    build = PROTOCOLS.get(protocol)
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in inspect.signature(build).parameters:
            accepting = [p for p, f in PROTOCOLS.all().items() if name in inspect.signature(f).parameters]
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{flag} is for --protocol {' or '.join(accepting)}, not {protocol}")
    if source.groups is not None and protocol != HOLDOUT:
        raise UserError(f"--group-column is for --protocol {HOLDOUT}, not {protocol}")
    return build(source, target, seed, **given)


def episode_from(options: SplitOptions, source: Source) -> Episode:
    """Build the episode that options describe; without a split file, `protocol` must be set."""
    if options.split_file is not None:
        return read_split(options.split_file, source)
    return build_episode(
        str(options.protocol),
        source,
        options.target,
        options.split_seed,
        target_split=options.target_split,
        shots=options.shots,
        ratios=options.ratios or None,
    )
