"""Values of trials: search spaces, random search, and TPE of Optuna."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.errors import UserError
from ...core.search import COMMON_SPACE, Choice, Distribution, LogUniform, Multiples, Uniform, Value, rounded
from ...data.splits import seed_hash
from ...runs.options import TrainOptions
from .trials import Trial

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Space = Mapping[str, Distribution]


def search_space(options: TrainOptions, fixed: Collection[str]) -> dict[str, Distribution]:
    """Return the options to search: the common ones and those of the method, without those that are given.

    Args:
        options: of the run without a search; `Multiples` refer to them.
        fixed: names of options that are given.

    Raises:
        UserError: there is nothing to search.
    """
    method = options.method
    declared = {**(COMMON_SPACE if method.iterates else {}), **method.search}
    values = options.flat()
    if values["epochs"] is not None and "steps" in declared:  # the recipe states the length in epochs
        declared = {("epochs" if name == "steps" else name): of for name, of in declared.items()}
        fixed = {*fixed, *({"epochs"} if "steps" in fixed else ())}
    elif "epochs" in fixed:
        fixed = {*fixed, "steps"}
    space: dict[str, Distribution] = {}
    for name, distribution in declared.items():
        if name not in fixed:
            if isinstance(distribution, Multiples):
                distribution = _multiples(distribution, values[name])
            space[name] = distribution
    if not space:
        raise UserError(
            f"tune: --method {method.name} has no options to search, or all of them are given; "
            "use `clipalign train`"
        )
    return space


def random_values(space: Space, seed: int, number: int) -> dict[str, Value]:
    """Return the values of a trial of random search.

    They depend on (seed, number, option), so an option that two methods share has the same values in both searches.
    """
    return {
        name: distribution.sample(np.random.default_rng([seed, number, zlib.crc32(name.encode())]))
        for name, distribution in space.items()
    }


def tpe_values(space: Space, seed: int, number: int, earlier: Iterable[Trial]) -> dict[str, Value]:
    """Return the values that the tree-structured Parzen estimator of Optuna proposes (Bergstra et al., 2011).

    They depend on (seed, number) and the earlier trials only, so that no state of Optuna needs to be stored.

    Raises:
        UserError: Optuna is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise UserError('--sampler tpe needs Optuna: pip install "clipalign[tune]"') from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {name: _for_optuna(distribution) for name, distribution in space.items()}
    sampler = optuna.samplers.TPESampler(seed=seed_hash(seed, number, "tpe"))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for trial in earlier:
        if trial.score is not None:
            study.add_trial(
                optuna.trial.create_trial(
                    params=dict(trial.values), distributions=distributions, value=trial.score
                )
            )
    proposed: Mapping[str, Any] = study.ask(distributions).params
    return {name: rounded(v) if isinstance(v, float) else v for name, v in proposed.items()}


def _multiples(multiples: Multiples, value: int | float) -> Choice:
    """Return the multiples of a value; integers stay integers of at least 1."""
    scaled = [factor * value for factor in multiples.factors]
    if isinstance(value, int):
        scaled = [max(1, round(number)) for number in scaled]
    return Choice(tuple(dict.fromkeys(scaled)))


def _for_optuna(distribution: Distribution) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    match distribution:
        case Choice(values):
            return CategoricalDistribution(values)
        case LogUniform(low, high):
            return FloatDistribution(low, high, log=True)
        case Uniform(low, high):
            return FloatDistribution(low, high)
