"""T18: generalisation, a bound on how far the losses on n sampled rows are from those on new rows.

Let f_i be an objective over a population of rows and F_i its mean over n rows drawn from it, on
the ball of radius R. Then both E sup (f_i - F_i) and E sup (F_i - f_i), over the ball, are at most

    DPO:  2 beta R sqrt(E |delta|^2 / J),
    SFT:  2 sqrt(2) R sqrt(E sum over y of |phi_y - phi_shown|^2 / M).

Proof. Symmetrisation gives twice the Rademacher mean E sup (1/n) sum of e_j loss_j(theta). A DPO
loss is beta-Lipschitz in theta.delta_j, so by contraction that is at most beta R E|sum e_j delta_j|
/ J, and Jensen bounds the norm. An SFT loss is log sum exp of u_y = theta.(phi_y - phi_shown). Its
gradient in the u_y of the responses not shown is a part of a distribution, so it is 1-Lipschitz,
and vector contraction (Maurer, arXiv 1605.00251) costs sqrt 2. For sup |f - F| the two sides add
up. (The constant 2 for the absolute value, without the doubling, does not follow from this proof.)

Take any policy chosen from the sampled rows, such as one on their front. In expectation, its loss
on the population exceeds its loss on the sampled rows by at most this band. Constants for these
losses: ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.solve import minimise
from tradeoff.schedules import PREFERENCE
from tradeoff.settings import Count, Seed, Share, checked
from tradeoff.theory.checked import Checked
from tradeoff.theory.constants import Objective, blocks, distances
from tradeoff.theory.measured import standard_error

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """Bounds, in nats, on how far the losses on sampled rows are from those on the population.

    Attributes
    ----------
    sft, preference
        Bounds on the expected largest deviation, in one direction, of each loss.
    """

    sft: float
    preference: float

    def of(self, lam: float) -> float:
        """The band of f_lambda."""
        return (1 - lam) * self.sft + lam * self.preference


@checked
def band(problem: LogLinear, demonstrations: Count, pairs: Count) -> Band:
    """The band for samples of M demonstrations and J pairs from the rows of a problem.

    Parameters
    ----------
    problem
        The population: samples are drawn from its weighted rows.
    demonstrations, pairs
        M and J, the sizes of the sample.
    """
    delta = problem.pair_differences
    squares = delta.multiply(delta) if hasattr(delta, "multiply") else np.square(delta)
    pair_size = float(problem.preference_weights @ np.asarray(squares.sum(axis=1)).ravel())
    shown = 0.0
    for prompt, rows in blocks(problem):
        own = slice(problem.offsets[prompt], problem.offsets[prompt + 1])
        shown += float(problem.demonstrated[own] @ (distances(rows) ** 2).sum(axis=1))
    twice = 2 * problem.radius
    return Band(
        sft=float(twice * np.sqrt(2 * shown / demonstrations)),
        preference=float(twice * problem.beta * np.sqrt(pair_size / pairs)),
    )


def resampled(problem: LogLinear, demonstrations: int, pairs: int, seed: int) -> LogLinear:
    """A sample of the problem's rows, drawn with replacement."""
    rng = np.random.default_rng(seed)
    shown = rng.choice(len(problem.demonstrations), demonstrations, p=problem.sft_weights)
    compared = rng.choice(len(problem.chosen), pairs, p=problem.preference_weights)
    margins = problem.reference_margins
    return replace(
        problem,
        demonstrations=problem.demonstrations[shown],
        chosen=problem.chosen[compared],
        rejected=problem.rejected[compared],
        demonstration_weights=None,
        pair_weights=None,
        reference_margins=None if margins is None else margins[compared],
    )


@checked
def uniform_deviation(
    problem: LogLinear,
    objective: Objective,
    rows: Count,
    *,
    samples: Count = 64,
    points: Count = 2000,
    seed: Seed = 0,
    claimed_rows: Count | None = None,
) -> Checked:
    """Compare the mean largest deviation on the ball, in each direction, with :func:`band`.

    Parameters
    ----------
    problem, objective
        Population, and SFT (0) or PREFERENCE (1).
    rows
        Rows of each sample.
    samples
        Number of samples.
    points
        Points of the ball at which deviations are evaluated. The supremum over the ball can only
        be larger.
    seed
        Seed of samples and points.
    claimed_rows
        Sample size for which the bound is computed, if not ``rows``: to see the statement fail.
    """
    thetas = _points(problem, points, seed)
    truth = problem.losses(thetas)[:, objective]
    found = np.empty((samples, 2))
    for s in range(samples):
        seen = resampled(problem, rows, rows, seed + s).losses(thetas)[:, objective]
        found[s] = np.max(truth - seen), np.max(seen - truth)
    size = claimed_rows or rows
    limits = band(problem, size, size)
    limit = limits.preference if objective == PREFERENCE else limits.sft
    error = standard_error(found)
    worst = float(found.mean(axis=0).max())
    known = {"rows": float(rows), "bound over measured": limit / worst if worst > 0 else np.inf}
    return Checked(found.mean(axis=0), np.full(2, limit), "upper", known, 3 * error)


@checked
def front_excess(
    problem: LogLinear, lam: Share, rows: Count, *, samples: Count = 32, seed: Seed = 0
) -> Checked:
    """Compare the optimism of the sample's optimum with the band of f_lambda.

    Optimism is the mean of f_lambda on the population less f_lambda on the sample, both at the
    minimiser of the latter. ``constants`` also has the mean regret on the population.
    """
    weights, limit = np.array([1 - lam, lam]), band(problem, rows, rows).of(lam)
    best = minimise(problem, lam).value
    losses = []
    for s in range(samples):
        found = minimise(resampled(problem, rows, rows, seed + s), lam)
        losses.append((weights @ problem.losses(found.theta), found.value))
    pairs = np.array(losses)
    optimism = pairs[:, 0] - pairs[:, 1]
    known = {"regret": float(pairs[:, 0].mean()) - best, "rows": float(rows), "lam": lam}
    error = float(standard_error(optimism))
    return Checked(float(optimism.mean()), limit, "upper", known, 3 * error)


def _points(problem: Any, count: int, seed: int) -> Float[np.ndarray, "n d"]:
    """Points of the ball, half of them on its boundary, where deviations are largest."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(count, problem.dimension))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    inside = rng.random(count) ** (1 / problem.dimension)
    inside[::2] = 1.0
    return np.asarray(problem.radius * inside[:, None] * directions)
