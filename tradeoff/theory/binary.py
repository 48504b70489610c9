"""T3's worked example in closed form: one parameter, two responses."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq

from tradeoff.convex.instances import binary_example
from tradeoff.settings import Positive, Share, checked
from tradeoff.theory.checked import Checked
from tradeoff.theory.sequential import First, limit_gap


@checked
def binary_optimum(lam: Share, beta: Positive, radius: Positive) -> float:
    """Minimiser of f_lambda in the binary example: lam beta sigma(-beta t) = (1-lam) sigma(t).

    The difference of the two sides falls strictly in t, so there is one root, clipped to [-R, R].
    """

    def pull(t: float) -> float:
        return float(
            lam * beta * np.exp(-np.logaddexp(0, beta * t))
            - (1 - lam) * np.exp(-np.logaddexp(0, -t))
        )

    if pull(radius) >= 0:
        return radius
    return -radius if pull(-radius) <= 0 else float(brentq(pull, -radius, radius, xtol=1e-14))


@checked
def binary_gap(lam: Share, beta: Positive, radius: Positive, first: First = "sft") -> float:
    """Limit gap of the binary example in closed form; log cosh(R/2) at beta = 1, lambda = 1/2.

    f_lambda = lam log(1 + exp(-beta t)) + (1 - lam) log(1 + exp(t)). The second stage ends at R
    (DPO last) or -R (SFT last). At beta = 1, lambda = 1/2, f_lambda is log(2 cosh(t/2)).
    Source: ours.
    """
    points = np.array([radius if first == "sft" else -radius, binary_optimum(lam, beta, radius)])
    values = lam * np.logaddexp(0, -beta * points) + (1 - lam) * np.logaddexp(0, points)
    return float(values[0] - values[1])


@checked
def binary_limit(
    lam: Share = 0.5, beta: Positive = 1.0, radius: Positive = 4.0, first: First = "sft"
) -> Checked:
    """Check that the solver's limit gap of the binary example equals the closed form.

    It does for any beta and R: in the flat tail of the logistic loss the solver minimises the
    logarithm of the loss.
    """
    limit = limit_gap(binary_example(radius, beta), lam, first)
    exact = binary_gap(lam, beta, radius, first)
    known = {"optimum": binary_optimum(lam, beta, radius), "log cosh(R/2)": _log_cosh(radius / 2)}
    return Checked(limit.gap, exact, "exact", known, 1e-9 + float(np.max(limit.lower.tolerance)))


def _log_cosh(z: float) -> float:
    return float(np.logaddexp(z, -z) - np.log(2))
