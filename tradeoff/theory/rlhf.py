"""T11: population DPO and KL-regularised reward maximisation have the same optimum.

Proof: a margin m between y and y' costs sigma(D) log(1+exp(-beta m)) + sigma(-D) log(1+exp(beta m))
where D = r(y) - r(y') and m is measured against the reference; this cross-entropy is least at
beta m = D. Asking it of all pairs says log pi/pi_ref = r/beta + constant, which is pi*. And
beta KL(pi || pi_ref) - E_pi r = beta KL(pi || pi*) + constant is least at pi* too.
Source: Rafailov et al. 2023, Section 4 and Appendix A.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from tradeoff.convex.rlhf import Rlhf, population_dpo
from tradeoff.convex.solve import minimise
from tradeoff.errors import InputError
from tradeoff.theory.autoregressive import Convexity, midpoint_violations
from tradeoff.theory.checked import Checked

Array = NDArray[np.float64]


def dpo_matches_rlhf(
    reward: Float[np.ndarray, "P n"],
    reference: Float[np.ndarray, "P n"],
    *,
    beta: float,
    radius: float | None = None,
) -> Checked:
    """Log-probabilities of the population DPO minimiser equal log pi* of RLHF.

    ``radius`` must admit the optimum; by default it is twice the norm of its logits.

    Raises
    ------
    InputError
        If the ball excludes the optimum, where the two problems do differ.
    """
    logits = reference + reward / beta
    needed = float(np.linalg.norm(logits - logits.mean(axis=1, keepdims=True)))
    if radius is not None and radius < needed:
        remedy = f"Use at least {needed:.3g}."
        raise InputError(
            "the ball excludes the optimum", field="radius", value=radius, remedy=remedy
        )
    problem = population_dpo(reward, reference, beta=beta, radius=radius or 2 * needed + 1)
    found = minimise(problem, 1.0, tolerance=1e-15)
    target = Rlhf(problem, reward.ravel(), reference.ravel()).optimal_log_probs
    # Curvature of every margin at the optimum turns the certificate into a distance.
    gap = problem.logits(logits.ravel())[problem.chosen] - problem.margin_shift
    gap -= problem.logits(logits.ravel())[problem.rejected]
    p = 1 / (1 + np.exp(-beta * gap))
    bend = float(np.min(problem.preference_weights * beta**2 * p * (1 - p)))
    known = {"certificate": found.certificate, "beta": beta, "norm": needed}
    tolerance = 1e-8 + 4 * float(np.sqrt(found.certificate / bend))
    return Checked(problem.log_probs(found.theta), target, "exact", known, tolerance)


def optimum_is_least(problem: Rlhf, thetas: Float[np.ndarray, "B d"]) -> Checked:
    """No policy does better than pi*: loss(theta) >= -beta mean log sum pi_ref exp(r/beta)."""
    losses = np.array([problem.loss(theta) for theta in thetas])
    return Checked(losses, np.full(len(losses), problem.optimum), "lower", {}, 1e-10)


def excess_is_kl(problem: Rlhf, theta: ArrayLike) -> Checked:
    """loss(theta) - optimum = beta KL(pi_theta || pi*), averaged over prompts."""
    log_p = problem.policy.log_probs(theta)
    apart = np.exp(log_p) * (log_p - problem.optimal_log_probs)
    starts = problem.policy.offsets[:-1]
    weights = problem.prompt_weights
    divergence = np.average(np.add.reduceat(apart, starts), weights=weights)
    excess = problem.loss(theta) - problem.optimum
    return Checked(excess, problem.policy.beta * float(divergence), "exact", {}, 1e-10)


def rlhf_convexity(problem: Rlhf, segments: int = 2000, seed: int = 0) -> Convexity:
    """How far the RLHF loss is from convex in theta; theory for convex pairs does not cover it."""
    policy = problem.policy
    return midpoint_violations(
        problem.loss, policy.dimension, policy.radius, segments=segments, seed=seed
    )
