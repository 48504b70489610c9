"""T10: scores that do not depend on the units of the losses, and one that does.

Replacing f_i by c_i f_i + s_i (c_i > 0) changes neither the policies nor the trade-offs, so it
should change no score. A weight l becomes l' with odds l'/(1-l') = (l / c_D)/((1-l) / c_S).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from tradeoff.convex.certify import Minimum
from tradeoff.convex.front import Front
from tradeoff.convex.problem import UNIT
from tradeoff.convex.solve import minimise
from tradeoff.errors import InputError
from tradeoff.scores import ideal_distance, weighted_loss
from tradeoff.theory.checked import Checked

Array = NDArray[np.float64]
Pair = Sequence[float] | Array


def rescaled_weight(lam: float | ArrayLike, scale: Pair) -> Array:
    """The weight that means the same trade-off once losses are multiplied by ``scale`` (2,)."""
    weights, (sft, preference) = np.asarray(lam, dtype=float), np.asarray(scale, dtype=float)
    own, other = weights / preference, (1 - weights) / sft
    return np.asarray(own / (own + other))


def rescaled(front: Front, scale: Pair, shift: Pair = (0.0, 0.0)) -> Front:
    """The same front with losses in other units: c_i f_i + s_i."""
    factor, offset = np.asarray(scale, dtype=float), np.asarray(shift, dtype=float)

    def convert(minimum: Minimum) -> Minimum:
        lam = float(rescaled_weight(minimum.lam, factor))
        losses = factor * minimum.losses + offset
        # f'_{l'} = f_l / (l / c_D + (1 - l) / c_S) + constant.
        shrink = minimum.lam / factor[1] + (1 - minimum.lam) / factor[0]
        value = float(np.array([1 - lam, lam]) @ losses)
        # Scaling and shifting round once more.
        rounding = factor * minimum.rounding + 2 * UNIT * (factor * minimum.losses + np.abs(losses))
        return replace(
            minimum, lam=lam, losses=losses, value=value, rounding=rounding,
            certificate=minimum.certificate / float(shrink) + float(rounding.max()),
        )  # fmt: skip

    sft, preference = (factor * front.end_bounds + offset).tolist()
    return Front(tuple(convert(m) for m in front.minima), (sft, preference))


def _with_range(front: Front) -> Front:
    """A front of which no range is so small that a floor takes its place."""
    found = front.nadir - front.ideal
    if np.any(found < front.ranges):
        raise InputError(
            "the front has no range of a loss, in which gaps could be measured",
            field="front",
            value=found,
            remedy="Use objectives that conflict, or larger units.",
        )
    return front


def front_gap_invariance(
    front: Front, losses: Float[np.ndarray, "B 2"], scale: Pair, shift: Pair = (0.0, 0.0)
) -> Checked:
    """Check that the front gap of every policy is the same in any units of the losses.

    Proof: with weights u >= 0 of any sum, the quotient [u.f - min u.f] / [u.R] has degree 0 in u;
    scaling f and R by c turns it into the same quotient at u c, and u ranges over the same cone.
    Shifts cancel in the numerator. Source: ours.

    Raises
    ------
    InputError
        If the front has no range, in which gaps could be measured.
    """
    other = _with_range(rescaled(_with_range(front), scale, shift))
    moved = losses * np.asarray(scale) + np.asarray(shift)
    before = front.score(losses)["front_gap"].to_numpy()
    after = other.score(moved)["front_gap"].to_numpy()
    return Checked(after, before, "exact", {"error": front.error}, 1e-7 * (1 + before))


def matched_weight_covariance(
    front: Front, losses: Float[np.ndarray, "B 2"], scale: Pair
) -> Checked:
    """Check that the matched weight is covariant: in other units it means the same trade-off.

    The raw number depends on units, as lambda itself does; l R_D / ((1-l) R_S + l R_D) does not.
    Regret is unchanged only if the requested weight is converted too. At a vertex of the front
    several weights match, so the check compares the quotients: the matched weight in the new
    units, converted back, attains the front gap. Source: ours.

    Raises
    ------
    InputError
        If the front has no range, in which gaps could be measured.
    """
    factor = np.asarray(scale, dtype=float)
    matched = (
        _with_range(rescaled(_with_range(front), factor))
        .score(losses * factor)["matched_weight"]
        .to_numpy()
    )
    back = rescaled_weight(matched, 1 / factor)
    regrets = front.score(losses, back)["regret"].to_numpy()
    gaps = front.score(losses)["front_gap"].to_numpy()
    return Checked(regrets, gaps, "exact", {"error": front.error}, 1e-9 * (1 + gaps))


def ideal_distance_flip(
    losses: Float[np.ndarray, "2 2"], ideal: Float[np.ndarray, " 2"], scale: Pair
) -> tuple[float, float]:
    """Ideal distance of the first policy minus that of the second, before and after scaling.

    Two numbers of opposite sign show that the ranking of the paper's score depends on the units.
    """
    factor = np.asarray(scale, dtype=float)
    before = ideal_distance(losses, ideal)
    after = ideal_distance(losses * factor, ideal * factor)
    return float(before[0] - before[1]), float(after[0] - after[1])


def on_front(problem: Any, front: Front, lam: float | ArrayLike) -> Checked:
    """Policies that minimise some f_lambda have front gap 0, up to the front's certified error.

    Proof: gap <= quotient at that lambda, where f_l(theta) = V(l). Source: ours.
    """
    weights = np.atleast_1d(np.asarray(lam, dtype=float))
    solved = [minimise(problem, float(w), tolerance=1e-12) for w in weights]
    gaps = front.score(np.stack([m.losses for m in solved]))["front_gap_upper"].to_numpy()
    inexact = [m.certificate for m in solved] / weighted_loss(front.ranges, weights)
    slack = front.error + inexact + 1e-8
    return Checked(gaps, np.zeros(len(gaps)), "upper", {"error": front.error}, slack)


def off_front(problem: Any, front: Front, thetas: Float[np.ndarray, "B d"]) -> Checked:
    """A policy behind the front has a positive gap: at least its distance from the front.

    If the gap is g, losses moved by -g R meet the front, so a policy whose losses exceed a front
    point's by e R in both coordinates has gap >= e. ``bound`` is the largest such e over the
    points found, ``measured`` the upper end of the enclosed gap. Source: ours.
    """
    losses = problem.losses(thetas)
    excess = (losses[:, None, :] - front.points) / front.ranges
    bound = np.maximum(excess.min(axis=-1).max(axis=-1), 0.0)
    gaps = front.score(losses)["front_gap_upper"].to_numpy()
    return Checked(gaps, bound, "lower", {"error": front.error}, 1e-9)
