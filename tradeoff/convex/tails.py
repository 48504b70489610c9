"""Minimisers of a loss that is nearly zero, computed from the logarithm of the loss.

The loss of data that one direction separates falls like exp(-margin). It is below the smallest
double far inside the ball. The loss of a data point is softplus(l), with l the log-sum-exp of the
logits of its other responses, less its own logit. For very negative l, softplus(l) is exp(l) up to
a factor between 1 - exp(l)/2 and 1. So up to that factor the loss is

    F(theta) = sum of w_i exp(l_i(theta)).

log F is convex and neither overflows nor underflows. Its Frank-Wolfe gap bounds
log F(theta) - min log F over the ball (T2).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from tradeoff.convex._trust_region import dense_minimiser
from tradeoff.convex.certify import frank_wolfe_gap, into_ball
from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.problem import UNIT

Array = NDArray[np.float64]
NEGLIGIBLE = 1e-13
"""Largest loss, over the smallest weight of a data point, that may be replaced by its tail F."""


@dataclass(frozen=True, eq=False)
class Tail:
    """F of one objective: terms w_i exp(log-sum-exp of ``slopes @ theta + shifts`` in block i).

    Attributes
    ----------
    slopes, shifts
        (A, d) and (A,): one row for each alternative to a demonstrated response, or for each pair.
    starts
        (n,) first row of every data point's block.
    log_weights
        (n,) logarithms of the weights.
    """

    slopes: Float[np.ndarray, "A d"]
    shifts: Float[np.ndarray, " A"]
    starts: NDArray[np.int64]
    log_weights: Float[np.ndarray, " n"]

    @cached_property
    def scale(self) -> float:
        """Largest norm of a slope."""
        return float(np.sqrt(np.max(np.einsum("ad,ad->a", self.slopes, self.slopes))))

    def model(self, theta: Array) -> tuple[float, Array, Array]:
        """Log F, its gradient and its Hessian at theta (d,)."""
        logits = self.slopes @ theta + self.shifts
        sizes = np.diff(np.append(self.starts, len(logits)))
        peaks = np.maximum.reduceat(logits, self.starts)
        inner = np.exp(logits - np.repeat(peaks, sizes))
        sums = np.add.reduceat(inner, self.starts)
        terms = self.log_weights + peaks + np.log(sums)
        top = float(terms.max())
        outer = np.exp(terms - top)
        # log F is one log-sum-exp over all alternatives of all data points.
        share = inner * np.repeat(outer / sums, sizes) / outer.sum()
        gradient = share @ self.slopes
        centred = self.slopes - gradient
        value = top + float(np.log(outer.sum()))
        return value, gradient, centred.T @ (share[:, None] * centred)


def tail_of(problem: LogLinear, objective: int) -> Tail | None:
    """F of one objective (SFT is 0, preference is 1); ``None`` where labels are smoothed."""
    if objective:
        if problem.label_smoothing:
            return None
        used = problem.preference_weights > 0
        slopes = -problem.beta * problem.dense_differences[used]
        shifts = problem.beta * problem.margin_shift[used]
        starts = np.arange(len(shifts))
        return Tail(slopes, shifts, starts, np.log(problem.preference_weights[used]))
    shown = np.flatnonzero(problem.demonstrated > 0)
    phi, blocks, sizes = problem.dense_features, [], []
    for row in shown.tolist():
        x = problem.prompt_of_row[row]
        others = np.arange(problem.offsets[x], problem.offsets[x + 1])
        others = others[others != row]
        blocks.append(phi[others] - phi[row])
        sizes.append(len(others))
    slopes = np.concatenate(blocks)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return Tail(slopes, np.zeros(len(slopes)), starts, np.log(problem.demonstrated[shown]))


@dataclass(frozen=True)
class TailMinimum:
    """The minimiser of a tail, with a bound on its distance from the minimiser of the loss.

    Attributes
    ----------
    theta
        (d,) point of the ball.
    log_value
        log F at ``theta``.
    certificate
        Upper bound on log f(theta) - log f* of the loss itself, rounding included.
    distance
        Upper bound on the distance from ``theta`` to any minimiser of the loss.
    """

    theta: Float[np.ndarray, " d"]
    log_value: float
    certificate: float
    distance: float


def minimise_tail(
    problem: LogLinear, objective: int, start: Array, *, max_iterations: int = 300
) -> TailMinimum | None:
    """Minimise log F over the ball, from a point where the loss is nearly zero.

    The ball starts with radius |start| and doubles. Returns ``None`` where the loss is too large
    for its tail to replace it.

    Notes
    -----
    Distance. With a = -R g/|g| the far point of T2 and c the certificate, every s of the ball has
    g . (s - theta) >= -c + |g| |s - a|^2 / (2 R), because |s| <= R. A minimiser has
    log F(s) <= log F(theta), so |s - a| <= sqrt(2 R c/|g|). |s - theta| is at most the sum of this
    and |a - theta|. Source: ours (T18).
    """
    tail = tail_of(problem, objective)
    if tail is None:
        return None
    theta = into_ball(start, problem.dimension, problem.radius)
    if not np.any(theta):
        return None
    return _certified(tail, _followed(tail, theta, problem.radius, max_iterations), problem.radius)


def smallest_on_ball(tail: Tail, radius: float, *, max_iterations: int = 400) -> Array:
    """Minimise log F over a ball, starting in a small one; F need not be the tail of a loss."""
    dimension = tail.slopes.shape[1]
    first = min(radius, 1 / max(tail.scale, 1e-300))
    gradient = tail.model(np.zeros(dimension))[1]
    start = -first * gradient / max(float(np.linalg.norm(gradient)), 1e-300)
    return _followed(tail, start, radius, max_iterations) if np.any(start) else start


def _followed(tail: Tail, theta: Array, radius: float, left: int) -> Array:
    """Minimise on balls of doubling radius from |theta|; a boundary point moves with the ball."""
    ball = float(np.linalg.norm(theta))
    while True:
        theta, used = _newton(tail, theta, ball, left)
        left -= used
        if ball >= radius or left <= 0:
            return into_ball(theta, len(theta), radius)
        grown = min(2 * ball, radius)
        if np.linalg.norm(theta) >= 0.99 * ball:
            theta = theta * (grown / ball)
        ball = grown


def _newton(tail: Tail, theta: Array, radius: float, left: int) -> tuple[Array, int]:
    """Newton's method for log F on one ball, until its gap is at the level of rounding."""
    value, gradient, hessian = tail.model(theta)
    for used in range(left):
        gap = frank_wolfe_gap(theta, gradient, radius)
        if gap <= 4 * UNIT * tail.scale * radius:
            return theta, used
        step = dense_minimiser(hessian, gradient - hessian @ theta, radius) - theta
        slope, length = float(gradient @ step), 1.0
        while length > 1e-9:
            trial = theta + length * step
            ahead, gradient_there, hessian_there = tail.model(trial)
            if ahead <= value + 0.1 * length * slope:
                break
            length *= 0.5
        else:
            return theta, used + 1
        theta, value, gradient, hessian = trial, ahead, gradient_there, hessian_there
    return theta, left


def _certified(tail: Tail, theta: Array, radius: float) -> TailMinimum | None:
    value, gradient, _ = tail.model(theta)
    # The loss of a data point is at most f / its weight, here and at the minimiser.
    share = float(np.exp(min(0.0, value - tail.log_weights.min())))
    if share > NEGLIGIBLE:
        return None
    terms = len(tail.shifts) + tail.slopes.shape[1] + 8
    largest = tail.scale * radius + float(np.max(np.abs(tail.shifts)))
    error = 2 * UNIT * terms * (largest + 1) * tail.scale  # of the gradient
    norm = float(np.linalg.norm(gradient))
    far = theta + radius / max(norm, 1e-300) * gradient  # theta - a
    apart = float(np.linalg.norm(far))
    change = 2 * error * radius
    if norm > error:
        change = min(change, error * apart + radius * error**2 / (2 * norm))
    rounding = change + UNIT * terms * (largest + 1) * 2
    certificate = frank_wolfe_gap(theta, gradient, radius) + rounding + 2 * share
    distance = 2 * radius
    if norm > 2 * error:
        # The exact far point is within R error/(|g| - error) of the computed one.
        reach = float(np.sqrt(2 * radius * certificate / (norm - error)))
        distance = min(distance, reach + apart + 2 * radius * error / (norm - error))
    return TailMinimum(theta, value, certificate, distance)
