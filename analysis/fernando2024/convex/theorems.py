"""Claims of the theory that belong to no figure: constants, certificates, RLHF, forgetting.

Each is evaluated on random instances drawn for the ledger, so that a counterexample can occur.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np

from analysis.dossier.evidence import NEARLY_ALL, holds_on
from analysis.dossier.mutations import SWAPPED, WRONG_OBJECTIVE, mutate, reject_unknown
from tradeoff.convex import LogLinear, minimise, pareto_front, random_log_linear
from tradeoff.convex.rlhf import Rlhf, population_dpo
from tradeoff.schedules import PREFERENCE, SFT
from tradeoff.theory import autoregressive, certificates, constants, forgetting, fronts, rlhf
from tradeoff.theory.checked import Checked


def claim_gradient_bounds(fast: bool = False, mutation: str | None = None) -> Checked:
    """T1: no data point's gradient is longer than its constant."""
    reject_unknown(mutation, (SWAPPED,))
    checks = []
    for p in instances(fast):
        pair = constants.gradient_norms(p, points(p))
        bounds = [check.bound for check in (pair[::-1] if mutation == SWAPPED else pair)]
        checks += [replace(c, bound=limit) for c, limit in zip(pair, bounds, strict=True)]
    return together(checks, "upper")


def claim_smoothness_bounds(fast: bool = False, mutation: str | None = None) -> Checked:
    """T1: no Hessian of f_lambda exceeds L_lambda."""
    checks = []
    for p in instances(fast):
        for lam in (0.0, 0.5, 1.0):
            told = mutate(mutation, lam, {WRONG_OBJECTIVE: 1 - lam})
            found = constants.smoothness(p, lam, points(p))
            limit = np.full(len(points(p)), constants.constants(p).smoothness(told))
            checks.append(replace(found, bound=limit))
    return together(checks, "upper")


def claim_upper_certificate(fast: bool = False, mutation: str | None = None) -> Checked:
    """T2: the Frank-Wolfe gap bounds the gap from above."""
    return certified(certificates.upper_certificate, "upper", fast, mutation)


def claim_lower_certificate(fast: bool = False, mutation: str | None = None) -> Checked:
    """T2: one projected gradient step bounds the gap from below."""
    return certified(certificates.lower_certificate, "lower", fast, mutation)


def certified(
    certificate: Callable[[LogLinear, float, np.ndarray], Checked],
    kind: str,
    fast: bool,
    mutation: str | None,
) -> Checked:
    """Check a certificate at random parameters and at the optimum of a nearby weight."""
    checks = []
    for p in instances(fast):
        near = minimise(p, 0.3).theta
        for theta in (*points(p), near):
            told = mutate(mutation, 0.35, {WRONG_OBJECTIVE: 0.9})
            bound = certificate(p, told, theta).bound
            checks.append(replace(certificate(p, 0.35, theta), bound=bound))
    return together(checks, kind)


def claim_front_encloses(fast: bool = False, mutation: str | None = None) -> Checked:
    """T9: solves at other weights stay within the certified error of the front."""
    reject_unknown(mutation, ("finer-front",))
    lams, checks = np.linspace(0.02, 0.98, 9), []
    for p in instances(fast):
        found = fronts.certified_error(p, pareto_front(p, solves=5, interpolate=False), lams)
        if mutation:  # The certified error of a front of 33 solves, used for one of 5.
            finer = pareto_front(p, solves=33, accuracy=1e-9)
            found = replace(found, bound=np.full(len(lams), finer.error))
        checks.append(found)
    return together(checks, "upper")


def claim_front_rate(fast: bool = False, mutation: str | None = None) -> Checked:
    """T9: n solves give an error of order 1/n^2."""
    reject_unknown(mutation, ("three-solves",))
    checks = [fronts.front_rate(p) for p in instances(fast)[: 3 if fast else 20]]
    if mutation:
        checks = [replace(c, measured=np.full(5, np.ravel(c.measured)[0])) for c in checks]
    return together(checks, "upper")


def claim_dpo_is_rlhf(fast: bool = False, mutation: str | None = None) -> Checked:
    """T11: population DPO under Bradley-Terry labels has RLHF's optimum."""
    beta = mutate(mutation, 0.7, {"wrong-temperature": 1.0})
    checks = []
    for seed in range(3 if fast else 20):
        rng = np.random.default_rng(seed)
        reference = np.log(rng.dirichlet(2 * np.ones(4), size=3))
        reward = rng.normal(size=(3, 4))
        found = rlhf.dpo_matches_rlhf(reward, reference, beta=0.7)
        told = rlhf.dpo_matches_rlhf(reward, reference, beta=beta)
        checks.append(replace(found, bound=told.bound))
    return together(checks, "exact")


def claim_rlhf_is_not_convex(fast: bool = False, mutation: str | None = None) -> Checked:
    """T11: RLHF's loss violates convexity by 0.01 nats on nearly all instances."""
    reject_unknown(mutation, (WRONG_OBJECTIVE,))
    depths = []
    for seed in range(24):
        rng = np.random.default_rng(seed)
        reward, reference = rng.normal(size=(2, 3)), np.log(rng.dirichlet(2 * np.ones(3), size=2))
        policy = population_dpo(reward, reference, beta=0.5, radius=6.0)
        segments = 100 if fast else 500
        if mutation == WRONG_OBJECTIVE:
            found = autoregressive.midpoint_violations(
                partial(dpo_loss, policy), policy.dimension, 6.0, segments=segments
            )
        else:
            loss = Rlhf(policy, reward.ravel(), reference.ravel())
            found = rlhf.rlhf_convexity(loss, segments=segments)
        depths.append(found.depth)
    return holds_on(np.array(depths) > 0.01, NEARLY_ALL, {"least depth": min(depths)})


def dpo_loss(problem: LogLinear, theta: np.ndarray) -> float:
    """The preference loss at one point."""
    return float(problem.losses(theta[None])[0, PREFERENCE])


def claim_forgetting_rate(fast: bool = False, mutation: str | None = None) -> Checked:
    """T12: along the gradient flow of one loss the other changes by minus the inner product."""
    reject_unknown(mutation, (WRONG_OBJECTIVE,))
    checks = []
    for p in instances(fast):
        for theta in points(p)[:2]:
            for trained in (SFT, PREFERENCE):
                found = forgetting.forgetting_rate(p, theta, trained)
                if mutation:  # The rate at which the trained loss itself falls.
                    slope = float(np.sum(p.gradients(theta)[trained] ** 2))
                    found = replace(found, bound=-slope)
                checks.append(found)
    return together(checks, "exact")


def claim_tokens_break_convexity(fast: bool = False, mutation: str | None = None) -> Checked:
    """The caution: DPO over two tokens violates the midpoint inequality at every beta tried."""
    del fast
    checks = []
    for beta in (0.1, 0.5, 1.0, 1.9):
        tokens = autoregressive.counterexample(beta)
        problem = mutate(mutation, tokens, {"one-token": autoregressive.single_token(tokens)})
        ends = [problem.dpo(np.array([-w / 2, w / 2])) for w in (-0.2, 0.2)]
        depth = problem.dpo(np.zeros(2)) - float(np.mean(ends))
        checks.append(depth)
    # The second derivative is beta (beta - 2)/16; half of it times 0.2 squared is the least depth.
    least = [beta * (2 - beta) / 32 * 0.2**2 / 2 for beta in (0.1, 0.5, 1.0, 1.9)]
    return Checked(np.array(checks), np.array(least), "lower", {}, 0.0)


def claim_single_tokens_are_convex(fast: bool = False, mutation: str | None = None) -> Checked:
    """The caution: SFT over tokens, and DPO over one token, satisfy it on all segments."""
    reject_unknown(mutation, ("two-tokens",))
    shares = []
    for seed in range(4 if fast else 20):
        tokens = autoregressive.random_tokens(seed, beta=0.2)
        single = tokens if mutation else autoregressive.single_token(tokens)
        for loss, of in ((tokens.sft, tokens), (single.dpo, single)):
            tested = autoregressive.midpoint_violations(loss, of.dimension, 4.0, segments=80)
            shares.append(tested.share)
    return Checked(np.array(shares), np.zeros(len(shares)), "exact", {}, 0.0)


def instances(fast: bool) -> list[LogLinear]:
    """Random problems of different conflict, radius and temperature; six of them, or twenty."""
    count = 6 if fast else 20
    return [
        random_log_linear(
            seed,
            prompts=6,
            responses=4,
            dimension=5,
            conflict=(seed + 1) / count,
            radius=1.0 + seed % 6,
            beta=(0.1, 0.5, 2.0)[seed % 3],
        )
        for seed in range(count)
    ]


def points(problem: LogLinear, count: int = 6) -> np.ndarray:
    """Random parameters, from the centre to the edge of the ball."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(count, problem.dimension))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return directions * np.linspace(0.05, 1.0, count)[:, None] * problem.radius


def together(checks: Sequence[Checked], kind: str) -> Checked:
    """Combine many checks of one kind into a single one."""
    if any(a.kind != b.kind for a, b in pairwise(checks)) or checks[0].kind != kind:
        raise ValueError(f"expected checks of kind {kind!r}, got {[c.kind for c in checks]}")

    def stack(field: str) -> np.ndarray:
        parts = [
            np.broadcast_to(getattr(c, field), np.shape(c.measured)).ravel().astype(float)
            for c in checks
        ]
        return np.concatenate(parts)

    return Checked(stack("measured"), stack("bound"), checks[0].kind, {}, stack("tolerance"))
