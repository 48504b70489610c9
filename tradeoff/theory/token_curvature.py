"""T18: a lower bound on the curvature of DPO over tokens, from the rejected tokens alone.

With margins m_j = log pi(chosen) - log pi(rejected) - (the reference's), the Hessian of f_DPO is
the mean over pairs of

    beta^2 s (1 - s) grad m grad m'  -  beta s Hess m,        s = sigma(-beta m).

Every token's log-probability has the Hessian -Cov (x) h h', Cov = diag(p) - p p' <= I/2. So Hess m
is at most the sum over REJECTED tokens of Cov (x) h h', and

    lambda_min(Hess f_DPO)  >=  -(beta/2) mean_j s_j lambda_max(sum over rejected tokens of h h').

h are the hidden states. The chosen response adds only non-negative curvature. Source: ours.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from tradeoff.theory.autoregressive import Response, TokenProblem
from tradeoff.theory.checked import Checked

Array = NDArray[np.float64]


def dpo_hessian(problem: TokenProblem, theta: ArrayLike) -> Float[np.ndarray, "D D"]:
    """Exact Hessian of f_DPO in W, flattened row by row."""
    weights = np.asarray(theta, dtype=float).reshape(problem.vocabulary, problem.width)
    total = np.zeros((problem.dimension, problem.dimension))
    for chosen, rejected in problem.pairs:
        slope, bend = (
            a - b for a, b in zip(_parts(chosen, weights), _parts(rejected, weights), strict=True)
        )
        s = _doubt(problem, chosen, rejected, weights)
        total += problem.beta**2 * s * (1 - s) * np.outer(slope, slope) - problem.beta * s * bend
    return total / len(problem.pairs)


def curvature_bound(problem: TokenProblem, theta: ArrayLike, *, rejected: bool = True) -> float:
    """The lower bound on the least eigenvalue of :func:`dpo_hessian`.

    ``rejected=False`` takes the chosen tokens instead; the result is then not a bound.
    """
    weights = np.asarray(theta, dtype=float).reshape(problem.vocabulary, problem.width)
    sizes = []
    for pair in problem.pairs:
        hidden = pair[int(rejected)].hidden
        largest = float(np.linalg.eigvalsh(hidden.T @ hidden)[-1])
        sizes.append(_doubt(problem, *pair, weights) * largest)
    return -problem.beta / 2 * float(np.mean(sizes))


def negative_curvature(
    problem: TokenProblem, thetas: Float[np.ndarray, "B D"], *, rejected: bool = True
) -> Checked:
    """lambda_min(Hess f_DPO) >= :func:`curvature_bound` at each of the (B, V k) points."""
    measured = [float(np.linalg.eigvalsh(dpo_hessian(problem, t))[0]) for t in thetas]
    bound = [curvature_bound(problem, t, rejected=rejected) for t in thetas]
    known = {"beta": problem.beta, "least eigenvalue": min(measured)}
    return Checked(np.array(measured), np.array(bound), "lower", known, 1e-10)


def _parts(response: Response, weights: Array) -> tuple[Array, Array]:
    """Gradient and Hessian of log pi(y|x) in W."""
    logits = response.hidden @ weights.T
    p = np.exp(logits - np.logaddexp.reduce(logits, axis=1)[:, None])
    error = np.eye(len(weights))[response.tokens] - p
    slope = np.einsum("tv,tk->vk", error, response.hidden).ravel()
    bend = np.zeros((weights.size, weights.size))
    for row, h in zip(p, response.hidden, strict=True):
        bend -= np.kron(np.diag(row) - np.outer(row, row), np.outer(h, h))
    return slope, bend


def _doubt(problem: TokenProblem, chosen: Response, rejected: Response, weights: Array) -> float:
    """sigma(-beta m), the reference policy being W = 0."""
    zero = np.zeros_like(weights)
    margin = chosen.log_prob(weights) - rejected.log_prob(weights)
    margin -= chosen.log_prob(zero) - rejected.log_prob(zero)
    return float(1 / (1 + np.exp(problem.beta * margin)))
