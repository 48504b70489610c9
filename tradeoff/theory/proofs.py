"""Symbolic derivations of the closed forms, each step verified by sympy.

Every function returns a :class:`Proof` whose steps are LaTeX. A step that sympy cannot confirm
raises :class:`ProofError`. Only the proof modules import sympy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tradeoff.extras import needing
from tradeoff.theory.derivations import Derivation, Proof, ProofError
from tradeoff.theory.rate_proofs import (
    fast_rate,
    game_without_minima,
    interleaving,
    last_iterate,
    slow_instance,
    token_curvature,
)

with needing("proofs"):
    import sympy as sp

__all__ = [
    "PROOFS",
    "Proof",
    "ProofError",
    "ball_certificate",
    "binary_example",
    "dpo_equals_rlhf",
    "fast_rate",
    "game_without_minima",
    "interleaving",
    "last_iterate",
    "optimal_probability",
    "quadratic_recursion",
    "slow_instance",
    "softmax_curvature",
    "token_counterexample",
    "token_curvature",
    "variance_identity",
]


def binary_example() -> Proof:
    """T3's worked example: optimum at 0, gap log cosh(R/2), growth linear in R."""
    d = Derivation()
    t = sp.Symbol("theta", real=True)
    radius = sp.Symbol("R", positive=True)
    lam, beta = sp.Symbol("lambda", positive=True), sp.Symbol("beta", positive=True)
    general = lam * sp.log(1 + sp.exp(-beta * t)) + (1 - lam) * sp.log(1 + sp.exp(t))
    slope = (1 - lam) / (1 + sp.exp(-t)) - lam * beta / (1 + sp.exp(beta * t))
    d.equal("stationarity: lambda beta sigma(-beta theta) = (1-lambda) sigma(theta)",
            sp.diff(general, t), slope)  # fmt: skip
    f = general.subs({beta: 1, lam: sp.Rational(1, 2)})
    # Twice the value is the log of (1+e^-t)(1+e^t) = (2 cosh(t/2))^2.
    d.equal("product of the two arguments",
            (1 + sp.exp(-t)) * (1 + sp.exp(t)), (2 * sp.cosh(t / 2)) ** 2)  # fmt: skip
    d.equal("slope of f at beta = 1, lambda = 1/2", sp.diff(f, t), sp.tanh(t / 2) / 2)
    d.equal("optimum at 0", sp.diff(f, t).subs(t, 0), sp.Integer(0))
    d.equal("value at the optimum", f.subs(t, 0), sp.log(2))
    gap = sp.log(sp.cosh(radius / 2))
    d.equal("gap at R grows with slope tanh(R/2)/2, as the loss does",
            sp.diff(gap, radius), sp.diff(f, t).subs(t, radius))  # fmt: skip
    d.equal("gap at R = 0", gap.subs(radius, 0), sp.Integer(0))
    remainder = sp.log((1 + sp.exp(-radius)) / 2)
    d.equal("linear growth: cosh(R/2) = exp(R/2)(1 + exp(-R))/2",
            sp.cosh(radius / 2), sp.exp(radius / 2) * (1 + sp.exp(-radius)) / 2)  # fmt: skip
    d.equal("gap - R/2 tends to -log 2", sp.limit(remainder, radius, sp.oo), -sp.log(2))
    return Proof("binary example", r"\mathrm{gap}(R) = \log\cosh(R/2)", tuple(d.steps))


def variance_identity() -> Proof:
    """T5: the cost of alternating per update, for two components (hence for any number)."""
    d = Derivation()
    lam = sp.Symbol("lambda", real=True)
    a, b = sp.Matrix(sp.symbols("a_1:3", real=True)), sp.Matrix(sp.symbols("b_1:3", real=True))
    mixed = lam * a + (1 - lam) * b
    d.equal(
        "pointwise, component by component",
        lam * a.dot(a) + (1 - lam) * b.dot(b) - mixed.dot(mixed),
        lam * (1 - lam) * (a - b).dot(a - b),
    )
    return Proof(
        "price of alternating",
        r"\mathbb E|g_{ALRIGHT}|^2 - \mathbb E|g_{Mix}|^2"
        r" = \lambda(1-\lambda)\,\mathbb E|g_D - g_S|^2",
        tuple(d.steps),
    )


def optimal_probability() -> Proof:
    """T6: stationarity, convexity and the least value of (cost) x (second moment)."""
    d = Derivation()
    p = sp.Symbol("p", positive=True)
    # a = lam sqrt V_D, b = (1 - lam) sqrt V_S, k = sqrt c_D, m = sqrt c_S
    a, b, k, m = sp.symbols("a b k m", positive=True)
    product = (p * k**2 + (1 - p) * m**2) * (a**2 / p + b**2 / (1 - p))
    best = (a / k) / (a / k + b / m)
    d.equal("stationary", sp.diff(product, p).subs(p, best), sp.Integer(0))
    d.equal("least value", product.subs(p, best), (a * k + b * m) ** 2)
    curvature = 2 * a**2 * m**2 / p**3 + 2 * b**2 * k**2 / (1 - p) ** 3
    d.equal("second derivative, positive for 0 < p < 1: convex", sp.diff(product, p, 2), curvature)
    q = sp.Symbol("q", positive=True)  # 1 - p = q / (1 + q) runs over (0, 1)
    d.positive("which shows at p = 1/(1+q)", sp.factor(curvature.subs(p, 1 / (1 + q))))
    return Proof(
        "budget-optimal probability",
        r"p^* = \frac{\lambda\sqrt{V_D/c_D}}{\lambda\sqrt{V_D/c_D}+(1-\lambda)\sqrt{V_S/c_S}}",
        tuple(d.steps),
    )


def quadratic_recursion() -> Proof:
    """T8 in one dimension: mean and second moment after one update of ALRIGHT and of Mix."""
    d = Derivation()
    x, alpha, lam = sp.symbols("theta alpha lambda", real=True)
    h, a, n = sp.symbols("h_0:2", real=True), sp.symbols("a_0:2", real=True), sp.symbols("n_0:2")
    mean, second = sp.symbols("m M", real=True)
    s = sp.symbols("s_0:2", real=True)

    def expect(expression: Any) -> Any:
        """Noise has mean 0 and variance s; theta has moments m and M and is independent of it."""
        poly = sp.expand(expression)
        for noise, variance in zip(n, s, strict=True):
            poly = sp.expand(poly).subs(noise**2, variance).subs(noise, 0)
        return sp.expand(poly).subs(x**2, second).subs(x, mean)

    def update(c: tuple[Any, Any]) -> Any:
        return x - alpha * sum(c[i] * (h[i] * (x - a[i]) + n[i]) for i in (0, 1))

    def claim(c: tuple[Any, Any]) -> tuple[Any, Any]:
        contraction = 1 - alpha * (c[0] * h[0] + c[1] * h[1])
        b = alpha * (c[0] * h[0] * a[0] + c[1] * h[1] * a[1])
        noise = alpha**2 * (c[0] ** 2 * s[0] + c[1] ** 2 * s[1])
        first = contraction * mean + b
        return first, contraction**2 * second + 2 * contraction * mean * b + b**2 + noise

    zero, one = sp.Integer(0), sp.Integer(1)
    mix = (1 - lam, lam)
    for k, moment in enumerate(("mean", "second moment")):
        d.equal(f"Mix, {moment}", expect(update(mix) ** (k + 1)), claim(mix)[k])
        drawn = lam * update((zero, one)) ** (k + 1) + (1 - lam) * update((one, zero)) ** (k + 1)
        stated = lam * claim((zero, one))[k] + (1 - lam) * claim((one, zero))[k]
        d.equal(f"ALRIGHT, {moment}", expect(drawn), stated)
    return Proof("quadratic recursion", r"M_{t+1} = \mathbb E_c[A^2 M_t + 2 A m_t b + b^2"
                 r" + \alpha^2 \sum_i c_i^2 s_i]", tuple(d.steps))  # fmt: skip


def softmax_curvature() -> Proof:
    """T1 for two responses: the Hessian is p (1-p) Delta^2, at most Delta^2/4 (Popoviciu)."""
    d = Derivation()
    t, delta = sp.symbols("theta Delta", real=True)
    loss = sp.log(1 + sp.exp(t * delta))  # responses with features Delta (not shown) and 0 (shown)
    p = 1 / (1 + sp.exp(-t * delta))
    d.equal("gradient", sp.diff(loss, t), p * delta)
    d.equal("Hessian is the variance of the feature", sp.diff(loss, t, 2), p * (1 - p) * delta**2)
    q = sp.Symbol("p", real=True)
    d.equal("what is left is a square", delta**2 / 4 - q * (1 - q) * delta**2,
            delta**2 * (q - sp.Rational(1, 2)) ** 2)  # fmt: skip
    third = sp.diff(loss, t, 3)
    d.equal("third derivative is (1-2p) Delta times the second: at most Delta times it",
            third, (1 - 2 * p) * delta * sp.diff(loss, t, 2))  # fmt: skip
    return Proof("softmax curvature", r"0 \le p(1-p)\Delta^2 \le \Delta^2/4", tuple(d.steps))


def ball_certificate() -> Proof:
    """T2: g.(theta - s) over the ball is largest at s = -R g/|g|, in the plane of g and s."""
    d = Derivation()
    g, radius, r = sp.Symbol("g", positive=True), sp.Symbol("R", positive=True), sp.Symbol("r")
    angle = sp.Symbol("phi", real=True)
    value = -g * r * sp.cos(angle)  # -g.s for |s| = r at angle phi to g
    best = value.subs({r: radius, angle: sp.pi})
    d.equal("value at s = -R g/|g|", best, g * radius)
    d.equal("what any other point loses (Cauchy-Schwarz: 1 + cos phi >= 0, r <= R)",
            best - value, g * (radius - r) + g * r * (1 + sp.cos(angle)))  # fmt: skip
    d.equal("a sum of two non-negative terms, since", 1 + sp.cos(angle), 2 * sp.cos(angle / 2) ** 2)
    smooth, step = sp.symbols("L x", positive=True)
    won = g * step - smooth / 2 * step**2
    d.equal("inside the ball one step of length g/L wins", won.subs(step, g / smooth),
            g**2 / (2 * smooth))  # fmt: skip
    return Proof(
        "certificate on a ball", r"f(\theta) - f^* \le g\cdot\theta + R|g|", tuple(d.steps)
    )


def dpo_equals_rlhf() -> Proof:
    """T11: population DPO is least at the margins of RLHF's optimum."""
    d = Derivation()
    m, reward = sp.symbols("m D", real=True)
    beta = sp.Symbol("beta", positive=True)
    share = 1 / (1 + sp.exp(-reward))
    loss = share * sp.log(1 + sp.exp(-beta * m)) + (1 - share) * sp.log(1 + sp.exp(beta * m))
    d.equal("slope is beta (sigma(beta m) - sigma(D))", sp.diff(loss, m),
            beta * (1 / (1 + sp.exp(-beta * m)) - share))  # fmt: skip
    d.equal("zero at beta m = D", sp.diff(loss, m).subs(m, reward / beta), sp.Integer(0))
    p, q = sp.symbols("p q", positive=True)  # policy and reference probability of one response
    r, z = sp.symbols("r Z", positive=True)
    tilted = q * sp.exp(r / beta) / z
    d.equal(
        "term by term, beta KL(pi||ref) - E r = beta KL(pi||pi*) - beta log Z",
        p * (beta * (sp.log(p) - sp.log(q)) - r),
        beta * p * (sp.log(p) - sp.expand_log(sp.log(tilted), force=True)) - beta * p * sp.log(z),
    )
    return Proof("DPO and RLHF", r"\pi^* \propto \pi_{ref}\, e^{r/\beta}", tuple(d.steps))


def token_counterexample() -> Proof:
    """Non-convexity over tokens: f_DPO''(0) = beta (beta - 2)/16 in the counterexample."""
    d = Derivation()
    w, beta = sp.Symbol("w", real=True), sp.Symbol("beta", positive=True)
    margin = sp.log(1 + sp.exp(w)) - sp.log(2)
    loss = sp.log(1 + sp.exp(-beta * margin))
    d.equal("margin at 0", margin.subs(w, 0), sp.Integer(0))
    d.equal("second derivative at 0", sp.diff(loss, w, 2).subs(w, 0), beta * (beta - 2) / 16)
    return Proof(
        "DPO over tokens is not convex", r"f''_{DPO}(0) = \beta(\beta-2)/16", tuple(d.steps)
    )


PROOFS: tuple[Callable[[], Proof], ...] = (
    binary_example,
    variance_identity,
    optimal_probability,
    quadratic_recursion,
    softmax_curvature,
    ball_certificate,
    dpo_equals_rlhf,
    token_counterexample,
    last_iterate,
    interleaving,
    fast_rate,
    slow_instance,
    game_without_minima,
    token_curvature,
)
"""Every derivation; each verifies itself when called."""
