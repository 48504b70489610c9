"""Third measures of a policy: how far it went, which rows it lost, whether it is calibrated."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from tradeoff.convex import LogLinear, minimise

Array = NDArray[np.float64]
BINS = 10
"""Bins of equal width of the confidence, for the calibration error."""
TOLERANCE = 1e-8
"""Certified error of the SFT specialist whose rows are compared with."""


def measures(problem: LogLinear, theta: Float[np.ndarray, "B d"]) -> dict[str, Array]:
    """What neither objective trains, for each of B policies.

    Parameters
    ----------
    problem
        A log-linear problem.
    theta
        (B, d) parameters.

    Returns
    -------
    dict
        ``kl``: KL divergence from the reference policy, mean over prompts, in nats. ``lost`` and
        ``gained``: shares of the demonstrations whose response the SFT specialist ranks first and
        the policy does not, and the other way round. ``flips``: both together over what chance
        gives, 0 if all rows are as the specialist has them and 1 if its rows say nothing of the
        policy's (one less Cohen's kappa). ``calibration``: expected calibration error of the
        confidence in the likeliest response, over the demonstrations.
    """
    every = problem.log_probs(theta)
    right = _right(problem, every)
    specialist = _right(problem, problem.log_probs(_specialist(problem)[None]))
    peaks = np.exp(np.maximum.reduceat(every, problem.offsets[:-1], axis=0))
    confidence = peaks[problem.prompt_of_row[problem.demonstrations]]
    return {
        "kl": _divergence(problem, every),
        **changed_rows(specialist, right, problem.sft_weights),
        "calibration": calibration_error(confidence, right, problem.sft_weights),
    }


def changed_rows(
    before: Bool[np.ndarray, "M #B"],
    after: Bool[np.ndarray, "M B"],
    weights: Float[np.ndarray, " M"],
) -> dict[str, Array]:
    """Rows that are right before and not after, and the other way round.

    Parameters
    ----------
    before, after
        Whether each of M rows is right under the policy that is compared with, and under each of B
        policies.
    weights
        (M,) of the rows; they sum to 1.

    Returns
    -------
    dict
        ``lost``, ``gained`` and ``flips`` (B,), as in :func:`measures`.
    """
    lost, gained = weights @ (before & ~after), weights @ (after & ~before)
    was, now = weights @ before, weights @ after
    chance = was * (1 - now) + now * (1 - was)
    flips = np.divide(lost + gained, chance, out=np.zeros_like(chance), where=chance > 0)
    return {"lost": lost, "gained": gained, "flips": flips}


def calibration_error(
    confidence: Float[np.ndarray, "M B"], right: Array | NDArray[np.bool_],
    weights: Float[np.ndarray, " M"],
) -> Array:  # fmt: skip
    """Expected calibration error (B,): what confidence and accuracy differ by, mean over bins.

    Parameters
    ----------
    confidence
        What each of B policies gives to its answer in each of M rows, in [0, 1].
    right
        (M, B) whether the answer is right, or the probability of that.
    weights
        (M,) of the rows.
    """
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    total = np.zeros((BINS, confidence.shape[1]))
    excess = weights[:, None] * (right - confidence)
    np.add.at(total, (place, np.arange(confidence.shape[1])), excess)
    return np.asarray(np.abs(total).sum(axis=0))


@lru_cache(maxsize=32)
def _specialist(problem: LogLinear) -> Array:
    """(d,) parameters of least SFT loss."""
    return np.asarray(minimise(problem, 0.0, tolerance=TOLERANCE).theta)


def _right(problem: LogLinear, every: Array) -> NDArray[np.bool_]:
    """(M, B) whether the shown response is the likeliest of its prompt."""
    peaks = np.maximum.reduceat(every, problem.offsets[:-1], axis=0)
    shown = problem.demonstrations
    return np.asarray(every[shown] >= peaks[problem.prompt_of_row[shown]])


def _divergence(problem: LogLinear, every: Array) -> Array:
    """(B,) mean over prompts of KL(policy || reference)."""
    given = problem.reference
    base = problem.log_probs(np.zeros(problem.dimension) if given is None else given)
    terms = np.exp(every) * (every - base[:, None])
    return np.asarray(np.add.reduceat(terms, problem.offsets[:-1], axis=0).mean(axis=0))
