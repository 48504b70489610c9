"""Problems of the arena: convex ones whose best trade-offs are certified."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from types import MappingProxyType

import numpy as np

from tradeoff.convex import Front, LogLinear, pareto_front, random_log_linear
from tradeoff.errors import InputError

ACCURACY = 1e-4
"""Certified error that is asked of each front, in units of its ranges."""


@dataclass(frozen=True)
class Instance:
    """A problem with a name.

    Attributes
    ----------
    name
        Unique name.
    varies
        In what it differs from the instance of middle conflict.
    make
        Makes the problem; the same one at every call.
    """

    name: str
    varies: str
    make: Callable[[], LogLinear]


def redundant_features(problem: LogLinear, dimension: int, seed: int) -> LogLinear:
    """The same problem with more parameters than its features have ranks.

    Parameters
    ----------
    problem
        Any with d parameters.
    dimension
        Number of parameters, larger than d.
    seed
        Of the isometry that embeds the features.
    """
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(dimension, problem.dimension)))
    return replace(problem, features=problem.features @ basis.T)


def noisy_demonstrations(problem: LogLinear, share: float, seed: int) -> LogLinear:
    """Replace a share of the demonstrations by responses drawn uniformly to the same prompts."""
    rng = np.random.default_rng(seed)
    rows, offsets = problem.demonstrations.copy(), np.asarray(problem.offsets)
    bad = np.flatnonzero(rng.random(len(rows)) < share)
    prompts = problem.prompt_of_row[rows[bad]]
    rows[bad] = rng.integers(offsets[prompts], offsets[prompts + 1])
    return replace(problem, demonstrations=rows)


def flipped_pairs(problem: LogLinear, share: float, seed: int) -> LogLinear:
    """Exchange chosen and rejected in a share of the pairs."""
    rng = np.random.default_rng(seed)
    flipped = rng.random(len(problem.chosen)) < share
    chosen = np.where(flipped, problem.rejected, problem.chosen)
    rejected = np.where(flipped, problem.chosen, problem.rejected)
    return replace(problem, chosen=chosen, rejected=rejected)


def _redundant() -> LogLinear:
    return redundant_features(random_log_linear(5, conflict=0.5), 64, seed=5)


def _noisy() -> LogLinear:
    return noisy_demonstrations(random_log_linear(6, conflict=0.5), 0.25, seed=6)


def _flipped() -> LogLinear:
    return flipped_pairs(random_log_linear(7, conflict=0.5), 0.25, seed=7)


_SUITE = (
    Instance("aligned", "conflict 1/10", partial(random_log_linear, 1, conflict=0.1)),
    Instance("mild", "conflict 1/4", partial(random_log_linear, 2, conflict=0.25)),
    Instance("middle", "conflict 1/2", partial(random_log_linear, 0, conflict=0.5)),
    Instance("strong", "conflict 3/4", partial(random_log_linear, 3, conflict=0.75)),
    Instance("opposed", "conflict 1", partial(random_log_linear, 4, conflict=1.0)),
    Instance("redundant", "64 parameters for features of rank 16", _redundant),
    Instance("noisy", "a quarter of the demonstrations is random", _noisy),
    Instance("flipped", "a quarter of the pairs is exchanged", _flipped),
    Instance(
        "few-demonstrations", "16 demonstrations, 256 pairs",
        partial(random_log_linear, 8, conflict=0.5, demonstrations=16, pairs=256),
    ),
    Instance(
        "few-pairs", "256 demonstrations, 16 pairs",
        partial(random_log_linear, 9, conflict=0.5, demonstrations=256, pairs=16),
    ),
    Instance(
        "unequal-scale", "beta 5, so that the preference loss is steep",
        partial(random_log_linear, 10, conflict=0.5, beta=5.0),
    ),
    Instance(
        "separable", "labels and demonstrations almost without noise",
        partial(random_log_linear, 11, conflict=0.5, sharpness=12.0),
    ),
    Instance(
        "boundary", "radius 1, so that the optima are on the boundary",
        partial(random_log_linear, 12, conflict=0.5, radius=1.0),
    ),
)  # fmt: skip
SUITE: Mapping[str, Instance] = MappingProxyType({each.name: each for each in _SUITE})
"""All instances by name."""


def instance(name: str) -> Instance:
    """The instance of a name.

    Raises
    ------
    InputError
        If there is none.
    """
    if name not in SUITE:
        remedy = f"Use some of {', '.join(SUITE)}."
        raise InputError("no such problem", field="problem", value=name, remedy=remedy)
    return SUITE[name]


@cache
def front(name: str) -> Front:
    """The certified front of an instance."""
    return pareto_front(instance(name).make(), accuracy=ACCURACY)
