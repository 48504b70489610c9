"""A certified front of 17 solves, compared with cvxpy and Clarabel at 17 of its weights.

cvxpy is timed twice: with a new model for each weight, as a script would do it, and with one model
whose weight is a parameter, so that it is compiled only once. The bar is for the first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.measure import interleave, summary
from tradeoff.convex.front import pareto_front
from tradeoff.convex.instances import random_log_linear
from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.solve import minimise

SOLVES, BAR, ACCURACY = 17, 20.0, 1e-3


def main(repetitions: int = 5) -> dict[str, Any]:
    try:
        import cvxpy  # noqa: F401
    except ImportError:
        return {"note": "cvxpy is not installed: nothing to compare with"}
    # A very small tolerance makes it use all 17 solves.
    front = pareto_front(random_log_linear(0), accuracy=1e-12, solves=SOLVES)
    weights = [float(w) for w in front.weights]

    def ours() -> Any:
        return pareto_front(random_log_linear(0), accuracy=1e-12, solves=SOLVES)

    def fresh() -> list[float]:
        return [_cvxpy(random_log_linear(0), [lam])[0] for lam in _spread(weights)]

    def compiled_once() -> list[float]:
        return _cvxpy(random_log_linear(0), _spread(weights))

    problem = random_log_linear(0)
    known = np.array([minimise(problem, w).value for w in _spread(weights)])
    difference = float(np.max(np.abs(np.array(compiled_once()) - known)))
    rivals = {"cvxpy_fresh_models": fresh, "cvxpy_compiled_once": compiled_once}
    seconds = interleave({"ours": ours, **rivals}, repetitions)
    ratios = {name: summary(np.divide(seconds[name], seconds["ours"])) for name in rivals}
    reached = ratios["cvxpy_fresh_models"]["median"]
    return {
        "solves": SOLVES,
        "minima": len(weights),
        "certified_error": float(front.error),
        "largest_difference_from_cvxpy": difference,
        "seconds": {name: summary(values) for name, values in seconds.items()},
        "ratios": ratios,
        "bar": BAR,
        "bar_met": reached >= BAR and front.error <= ACCURACY,
    }


def _spread(weights: list[float]) -> list[float]:
    """Choose 17 of the front's weights, which may include interpolated ones."""
    return [weights[i] for i in np.linspace(0, len(weights) - 1, SOLVES).round().astype(int)]


def _cvxpy(problem: LogLinear, weights: list[float]) -> list[float]:
    """Minimise f_lambda by an independent model and solver; the model is compiled once."""
    import cvxpy as cp

    theta, lam = cp.Variable(problem.dimension), cp.Parameter(2, nonneg=True)
    z = problem.features @ theta
    spans = zip(problem.offsets[:-1], problem.offsets[1:], problem.prompt_weights, strict=True)
    normalisers = cp.sum([w * cp.log_sum_exp(z[a:b]) for a, b, w in spans if w > 0])
    sft = normalisers - problem.demonstrated @ z
    margins = problem.pair_differences @ theta - problem.margin_shift
    preference = problem.preference_weights @ cp.logistic(-problem.beta * margins)
    objective = cp.Minimize(lam[0] * sft + lam[1] * preference)
    model = cp.Problem(objective, [cp.norm(theta) <= problem.radius])
    values = []
    for weight in weights:
        lam.value = np.array([1 - weight, weight])
        values.append(float(model.solve(solver=cp.CLARABEL)))
    return values
