"""T9: the error of a computed Pareto front is within its certificate, which falls as 1/n^2.

n is the number of intervals between solved weights. V(l) = min f_l is concave, and
V'(l) = f_DPO - f_SFT at its minimiser. Take two solved weights at distance h whose slopes differ by
s. Tangents and chord enclose V within h s/4, since a triangle of base h whose sides differ in slope
by s is highest when symmetric. Over the whole front the h add to 1 and the s to R_SFT + R_DPO. In
units of the ranges that sum is 2, so n intervals that equalise h s leave at most
2/(4 n^2) = 1/(2 n^2). The chord rule does not know those intervals beforehand. By Rote's theorem
(Computing 48, 1992) it keeps the order 1/n^2. Our constant for it, 2/n^2, allows every interval to
be twice too wide and twice too steep. The constant is checked, not proved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from tradeoff.convex.front import Front, pareto_front
from tradeoff.convex.solve import minimise
from tradeoff.theory.checked import Checked


def enclosure(problem: Any, front: Front, lam: float | ArrayLike) -> tuple[Checked, Checked]:
    """V(lam) lies between the front's certified bounds, at any weights (K,).

    Upper: each computed point is attained, so V(l) <= f_l there. Lower: each solve certifies
    V(l_k) >= value - certificate, and a concave function lies above its chords. Source: ours.
    """
    weights = np.atleast_1d(np.asarray(lam, dtype=float))
    solved = [minimise(problem, float(w), tolerance=1e-13) for w in weights]
    values = np.array([m.value for m in solved])
    low, high = front.value_bounds(weights)
    tolerance = max(m.certificate for m in solved) + 1e-12
    known = {"solves": float(len(front.minima)), "error": front.error}
    above = Checked(values, high, "upper", known, tolerance)
    return above, Checked(values, low, "lower", known, tolerance)


def certified_error(problem: Any, front: Front, lam: float | ArrayLike) -> Checked:
    """Distance between the inner hull and the true front, in units of the ranges.

    At every weight it is at most the error that the front certifies, even if the inner solves
    stopped early. Source: ours.
    """
    weights = np.atleast_1d(np.asarray(lam, dtype=float))
    solved = [minimise(problem, float(w), tolerance=1e-13) for w in weights]
    values = np.array([m.value for m in solved])
    scale = (1 - weights) * front.ranges[0] + weights * front.ranges[1]
    measured = (front.value_bounds(weights)[1] - values) / scale
    tolerance = float(np.max([m.certificate for m in solved] / scale)) + 1e-9
    known = {"solves": float(len(front.minima))}
    return Checked(measured, np.full(len(weights), front.error), "upper", known, tolerance)


def front_rate(problem: Any, solves: Sequence[int] = (3, 5, 9, 17, 33)) -> Checked:
    """Certified error after n + 1 solves is at most 2/n^2, in units of the ranges.

    1/(2 n^2) with the best intervals is proved; 2/n^2 is checked. See the module.
    """
    fronts = [
        pareto_front(problem, accuracy=1e-12, solves=n, tolerance=1e-11, interpolate=False)
        for n in solves
    ]
    errors = np.array([front.error for front in fronts])
    # More solves do not reduce the certificates of the inner solves.
    inner = max(
        m.certificate / ((1 - m.lam) * front.ranges[0] + m.lam * front.ranges[1])
        for front in fronts
        for m in front.minima
    )
    intervals = np.asarray(solves, dtype=float) - 1
    known = {"proved for the best intervals": 0.5, "asserted": 2.0, "inner": float(inner)}
    return Checked(errors, 2 / intervals**2, "upper", known, 1e-9 + 2 * float(inner))


def value_slope(problem: Any, lam: Float[np.ndarray, " K"], step: float = 1e-3) -> Checked:
    """V'(l) = f_DPO - f_SFT at the minimiser (Danskin), by central differences of V."""
    values = np.array(
        [
            [minimise(problem, float(w) + h, tolerance=1e-13).value for h in (-step, step)]
            for w in lam
        ]
    )
    measured = (values[:, 1] - values[:, 0]) / (2 * step)
    losses = np.stack([minimise(problem, float(w), tolerance=1e-13).losses for w in lam])
    ahead = np.stack([minimise(problem, float(w) + step).losses for w in lam])
    behind = np.stack([minimise(problem, float(w) - step).losses for w in lam])
    # V' falls, so the quotient lies between the slopes at the two ends.
    slack = np.abs(np.diff(ahead) - np.diff(behind))[:, 0] + 1e-6
    return Checked(measured, np.diff(losses)[:, 0], "exact", {"step": step}, slack)
