"""Problems of the arena: convex ones whose best trade-offs are certified."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from types import MappingProxyType
from typing import Any

import numpy as np

from tradeoff.arena.scenarios import SCENARIOS, is_scenario, scenario
from tradeoff.convex import Front, LogLinear, pareto_front, random_log_linear
from tradeoff.convex.instances import log_linear_population
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
    law
        Makes the problem of infinitely many rows without label noise; None where it is not known.
    rows
        Hash of the rows where they are a user's own, see :mod:`tradeoff.arena.theirs`; else empty.
    """

    name: str
    varies: str
    make: Callable[[], LogLinear]
    law: Callable[[], LogLinear] | None = None
    rows: str = ""


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


def _redundant(make: Callable[..., LogLinear]) -> LogLinear:
    return redundant_features(make(5, conflict=0.5), 64, seed=5)


def _noisy() -> LogLinear:
    return noisy_demonstrations(random_log_linear(6, conflict=0.5), 0.25, seed=6)


def _flipped() -> LogLinear:
    return flipped_pairs(random_log_linear(7, conflict=0.5), 0.25, seed=7)


def _generated(
    name: str, varies: str, seed: int, rows: tuple[int, int] = (64, 64), **settings: float
) -> Instance:
    """An instance of so many demonstrations and pairs, drawn from a known law."""
    known: dict[str, Any] = {"conflict": 0.5, **settings}
    make = partial(random_log_linear, seed, demonstrations=rows[0], pairs=rows[1], **known)
    return Instance(name, varies, make, partial(log_linear_population, seed, **known))


_SUITE = (
    _generated("aligned", "conflict 1/10", 1, conflict=0.1),
    _generated("mild", "conflict 1/4", 2, conflict=0.25),
    _generated("middle", "conflict 1/2", 0),
    _generated("strong", "conflict 3/4", 3, conflict=0.75),
    _generated("opposed", "conflict 1", 4, conflict=1.0),
    Instance(
        "redundant", "64 parameters for features of rank 16",
        partial(_redundant, random_log_linear), partial(_redundant, log_linear_population),
    ),
    Instance(
        "noisy", "a quarter of the demonstrations is random",
        _noisy, partial(log_linear_population, 6, conflict=0.5),
    ),
    Instance(
        "flipped", "a quarter of the pairs is exchanged",
        _flipped, partial(log_linear_population, 7, conflict=0.5),
    ),
    _generated("few-demonstrations", "16 demonstrations, 256 pairs", 8, (16, 256)),
    _generated("few-pairs", "256 demonstrations, 16 pairs", 9, (256, 16)),
    _generated("unequal-scale", "beta 5, so that the preference loss is steep", 10, beta=5.0),
    _generated("separable", "labels and demonstrations almost without noise", 11, sharpness=12.0),
    _generated("boundary", "radius 1, so that the optima are on the boundary", 12, radius=1.0),
)  # fmt: skip
SUITE: Mapping[str, Instance] = MappingProxyType({each.name: each for each in _SUITE})
"""All instances by name."""


def instance(name: str) -> Instance:
    """The instance of a name: of the suite, of a scenario, or of a user's rows.

    See :mod:`tradeoff.arena.scenarios` and :func:`tradeoff.arena.theirs.theirs`.

    Raises
    ------
    InputError
        If there is none.
    """
    from tradeoff.arena.theirs import is_theirs, theirs  # it makes an Instance

    if is_theirs(name):
        return theirs(name)
    if is_scenario(name):
        found = scenario(name)
        return Instance(name, SCENARIOS[name.partition(":")[0]], lambda: found.problem)
    if name not in SUITE:
        known = ", ".join((*SUITE, *SCENARIOS))
        remedy = f"Use some of {known}, or your rows as sft.jsonl,preferences.jsonl."
        raise InputError("no such problem", field="problem", value=name, remedy=remedy)
    return SUITE[name]


@cache
def front(name: str) -> Front:
    """The certified front of an instance."""
    return pareto_front(problem_of(name), accuracy=ACCURACY)


@cache
def law_front(name: str) -> Front | None:
    """The certified front of the law behind an instance; None where it is not known."""
    law = law_of(name)
    return None if law is None else pareto_front(law, accuracy=ACCURACY)


@cache
def problem_of(name: str) -> LogLinear:
    """The problem of an instance, made once."""
    return instance(name).make()


@cache
def law_of(name: str) -> LogLinear | None:
    """The law behind an instance, made once; None where it is not known."""
    known = instance(name).law
    return None if known is None else known()
