"""The judge of written responses: a reward fitted to the training pairs, and to nothing else.

It is what reward modelling does: Bradley-Terry labels, and a linear reward of features of prompt
and response.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

SPREAD = 3.0
"""Standard deviation in nats of the log-odds of a label, under the prior of the reward."""
ITERATIONS, HALVINGS, TOLERANCE = 100, 40, 1e-24
"""Most steps of Newton's method, most halvings of one step, and the decrement at which it ends."""


def fitted_reward(
    differences: Float[np.ndarray, "J d"], weights: Float[np.ndarray, " J"]
) -> Float[np.ndarray, " d"]:
    """Parameters w (d,) of the reward ``w . phi(x, y)`` that explains pairs best.

    Parameters
    ----------
    differences
        phi(x, chosen) - phi(x, rejected) of each pair.
    weights
        Of the pairs, not negative; only their ratios count.

    Returns
    -------
    ndarray
        The minimum of the logistic loss plus a penalty on squared parameters. The penalty is that
        of a normal prior under which labels have log-odds of standard deviation :data:`SPREAD`; it
        vanishes as pairs become many. Zeros where all pairs are of equal responses.

    Examples
    --------
    Three of four labels of many say that a response is better: log-odds of log 3.

    >>> apart = np.tile([[1.0], [1.0], [1.0], [-1.0]], (1000, 1))
    >>> fitted_reward(apart, np.ones(4000)).round(2)
    array([1.1])
    """
    mass = weights / weights.sum()
    # Weighted pairs count as many as pairs of equal weights whose mean is as exact.
    penalty = float(mass @ (differences**2).sum(axis=1)) * float(mass @ mass) / SPREAD**2
    found = np.zeros(differences.shape[1])
    if penalty == 0:
        return found

    def value(at: Float[np.ndarray, " d"]) -> float:
        return float(mass @ np.logaddexp(0, -differences @ at) + penalty / 2 * at @ at)

    for _ in range(ITERATIONS):
        missed = np.exp(-np.logaddexp(0, differences @ found))
        slope = penalty * found - differences.T @ (mass * missed)
        curved = differences.T @ ((mass * missed * (1 - missed))[:, None] * differences)
        step = np.linalg.solve(curved + penalty * np.eye(len(found)), slope)
        if slope @ step <= TOLERANCE:
            break
        before, size = value(found), 1.0
        for _ in range(HALVINGS):
            if value(found - size * step) <= before - size * (slope @ step) / 4:
                break
            size /= 2
        else:  # No step lowers a value that is exact up to rounding.
            break
        found = found - size * step
    return found
