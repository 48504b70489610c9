"""Claims of the theory that no figure carries: constants, certificates, RLHF, forgetting, proofs.

Each is evaluated on random instances drawn anew for the ledger; the first counterexample would
show there.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from tradeoff.convex import LogLinear, pareto_front, random_log_linear
from tradeoff.convex.rlhf import Rlhf, population_dpo
from tradeoff.schedules import PREFERENCE, SFT
from tradeoff.theory import autoregressive, certificates, constants, forgetting, fronts, rlhf
from tradeoff.theory.checked import Checked


def claim_gradient_bounds(fast: bool = False) -> Checked:
    """T1: no data point's gradient is longer than its constant."""
    return together(
        [c for p in instances(fast) for c in constants.gradient_norms(p, points(p))], "upper"
    )


def claim_smoothness_bounds(fast: bool = False) -> Checked:
    """T1: no Hessian of f_lambda exceeds L_lambda."""
    return together(
        [
            constants.smoothness(p, lam, points(p))
            for p in instances(fast)
            for lam in (0.0, 0.5, 1.0)
        ],
        "upper",
    )


def claim_upper_certificate(fast: bool = False) -> Checked:
    """T2: the Frank-Wolfe gap bounds the gap from above."""
    return together(
        [certificates.upper_certificate(p, 0.5, t) for p in instances(fast) for t in points(p)],
        "upper",
    )


def claim_lower_certificate(fast: bool = False) -> Checked:
    """T2: one projected gradient step bounds the gap from below."""
    return together(
        [certificates.lower_certificate(p, 0.5, t) for p in instances(fast) for t in points(p)],
        "lower",
    )


def claim_front_encloses(fast: bool = False) -> Checked:
    """T9: independent solves at other weights stay within the certified error of the front."""
    lams = np.linspace(0.02, 0.98, 9)
    return together(
        [fronts.certified_error(p, pareto_front(p, solves=5), lams) for p in instances(fast)],
        "upper",
    )


def claim_front_rate(fast: bool = False) -> Checked:
    """T9: n solves give an error of order 1/n^2."""
    return together([fronts.front_rate(p) for p in instances(fast)[:3]], "upper")


def claim_dpo_is_rlhf(fast: bool = False) -> Checked:
    """T11: population DPO under Bradley-Terry labels has RLHF's optimum."""
    checks = []
    for seed in range(3 if fast else 8):
        rng = np.random.default_rng(seed)
        reference = np.log(rng.dirichlet(2 * np.ones(4), size=3))
        checks.append(rlhf.dpo_matches_rlhf(rng.normal(size=(3, 4)), reference, beta=0.7))
    return together(checks, "exact")


def claim_rlhf_is_not_convex(fast: bool = False) -> Checked:
    """T11: RLHF's loss violates convexity on random segments."""
    rng = np.random.default_rng(0)
    reward, reference = rng.normal(size=(2, 3)), np.log(rng.dirichlet(2 * np.ones(3), size=2))
    policy = population_dpo(reward, reference, beta=0.5, radius=6.0)
    loss = Rlhf(policy, reward.ravel(), reference.ravel())
    found = rlhf.rlhf_convexity(loss, segments=300 if fast else 2000)
    return Checked(found.depth, 0.01, "lower", {"share": found.share}, 0.0)


def claim_forgetting_rate(fast: bool = False) -> Checked:
    """T12: along the gradient flow of one loss the other grows by minus the inner product."""
    return together(
        [
            forgetting.forgetting_rate(p, t, trained)
            for p in instances(fast)
            for t in points(p)[:2]
            for trained in (SFT, PREFERENCE)
        ],
        "exact",
    )


def claim_tokens_break_convexity(fast: bool = False) -> Checked:
    """The caution: DPO over two tokens violates the midpoint inequality, at every beta tried."""
    del fast
    found = [autoregressive.midpoint_violation(beta, 0.2) for beta in (0.1, 0.5, 1.0, 1.9)]
    return together(found, found[0].kind)


def claim_single_tokens_are_convex(fast: bool = False) -> Checked:
    """The caution: SFT over tokens, and DPO over one token, violate it on no segment."""
    shares = []
    for seed in range(2 if fast else 4):
        tokens = autoregressive.random_tokens(seed, beta=0.2)
        single = autoregressive.single_token(tokens)
        for loss, of in ((tokens.sft, tokens), (single.dpo, single)):
            tested = autoregressive.midpoint_violations(loss, of.dimension, 4.0, segments=80)
            shares.append(tested.share)
    return Checked(np.array(shares), np.zeros(len(shares)), "exact", {}, 0.0)


def claim_closed_forms_are_proved(fast: bool = False) -> Checked:
    """Every symbolic derivation goes through; a step that fails raises."""
    from tradeoff.theory import proofs

    derivations = proofs.PROOFS[:3] if fast else proofs.PROOFS
    verified = [len(derive().steps) > 0 for derive in derivations]
    return Checked(float(sum(verified)), float(len(derivations)), "exact", {}, 0.0)


def instances(fast: bool) -> list[LogLinear]:
    """Random problems of different conflict, radius and temperature."""
    return [
        random_log_linear(
            seed,
            prompts=6,
            responses=4,
            dimension=5,
            conflict=0.15 * (seed + 1),
            radius=1.0 + seed,
            beta=(0.1, 0.5, 2.0)[seed % 3],
        )
        for seed in range(3 if fast else 6)
    ]


def points(problem: LogLinear, count: int = 6) -> np.ndarray:
    """Random parameters, from the centre to the edge of the ball."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(count, problem.dimension))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return directions * np.linspace(0.05, 1.0, count)[:, None] * problem.radius


def together(checks: Sequence[Checked], kind: str) -> Checked:
    """Many checks of one kind as a single one."""
    if any(a.kind != b.kind for a, b in pairwise(checks)) or checks[0].kind != kind:
        raise ValueError(f"expected checks of kind {kind!r}, got {[c.kind for c in checks]}")

    def stack(field: str) -> np.ndarray:
        parts = [
            np.broadcast_to(getattr(c, field), np.shape(c.measured)).ravel().astype(float)
            for c in checks
        ]
        return np.concatenate(parts)

    return Checked(stack("measured"), stack("bound"), checks[0].kind, {}, stack("tolerance"))
