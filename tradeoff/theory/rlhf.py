"""T11: population DPO and KL-regularised reward maximisation have the same optimum.

Proof: a margin m between y and y' costs sigma(D) log(1+exp(-beta m)) + sigma(-D) log(1+exp(beta m))
where D = r(y) - r(y') and m is measured against the reference. This cross-entropy is least at
beta m = D. If that holds for all pairs, log pi/pi_ref = r/beta + constant, so pi is pi*. And
beta KL(pi || pi_ref) - E_pi r = beta KL(pi || pi*) + constant is least at pi* too.
Source: Rafailov et al. 2023, Section 4 and Appendix A.

Both steps need a class that can realise pi*, such as one parameter per response (tabular), and
comparisons of all pairs. In a smaller class the two projections of pi* differ:
:func:`unrealisable_counterexample`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from tradeoff.convex.log_linear import LogLinear
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

    The ball of ``radius`` must contain the optimum. The default is twice the norm of its logits,
    plus 1.

    Raises
    ------
    InputError
        If the ball excludes the optimum; the two problems then differ.
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
    # The curvature of every margin at the optimum turns the certificate into a distance.
    gap = problem.logits(logits.ravel())[problem.chosen] - problem.margin_shift
    gap -= problem.logits(logits.ravel())[problem.rejected]
    p = 1 / (1 + np.exp(-beta * gap))
    bend = float(np.min(problem.preference_weights * beta**2 * p * (1 - p)))
    known = {"certificate": found.certificate, "beta": beta, "norm": needed}
    tolerance = 1e-8 + 4 * float(np.sqrt(found.certificate / bend))
    return Checked(problem.log_probs(found.theta), target, "exact", known, tolerance)


def unrealisable_counterexample(
    features: Float[np.ndarray, " n"] | None = None,
    reward: Float[np.ndarray, " n"] | None = None,
    *,
    beta: float = 1.0,
    radius: float = 20.0,
) -> Checked:
    """Check that population DPO and RLHF have different optima in a class without pi*.

    The example has one prompt, a uniform reference and one parameter; all pairs are compared.
    ``measured`` is |theta_DPO - theta_RLHF|, and ``bound`` a difference above the errors of the
    solvers. With phi = (0, 1, 3), r = (0, 2, 1), beta = 1: theta is .178 for DPO and .150 for RLHF.
    Where phi is proportional to r, the class contains pi* and the two agree. Source: ours.
    """
    phi = np.array([0.0, 1.0, 3.0]) if features is None else np.asarray(features, dtype=float)
    r = np.array([0.0, 2.0, 1.0]) if reward is None else np.asarray(reward, dtype=float)
    ordered = [(i, j) for i in range(len(r)) for j in range(len(r)) if i != j]
    problem = LogLinear.from_prompts(
        [phi[:, None]],
        [(0, 0)],
        [(0, i, j) for i, j in ordered],
        radius=radius,
        beta=beta,
        pair_weights=np.array([1 / (1 + np.exp(r[j] - r[i])) for i, j in ordered]),
    )
    dpo = float(minimise(problem, 1.0, tolerance=1e-15).theta[0])
    loss = Rlhf(problem, r, np.full(len(r), -np.log(len(r)))).loss
    found = minimize_scalar(
        lambda theta: loss(np.array([theta])), bounds=(dpo - 2, dpo + 2), method="bounded",
        options={"xatol": 1e-10},
    )  # fmt: skip
    known = {"DPO": dpo, "RLHF": float(found.x), "beta": beta}
    return Checked(abs(dpo - float(found.x)), 1e-3, "lower", known, 0.0)


def optimum_is_least(problem: Rlhf, thetas: Float[np.ndarray, "B d"]) -> Checked:
    """Check that pi* is optimal: loss(theta) >= -beta mean log sum pi_ref exp(r/beta)."""
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
    """Measure how far the RLHF loss is from convex in theta; the convex theory excludes it."""
    policy = problem.policy
    return midpoint_violations(
        problem.loss, policy.dimension, policy.radius, segments=segments, seed=seed
    )
