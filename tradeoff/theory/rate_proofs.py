"""Symbolic derivations of the proof steps of T13 to T18, collected in `proofs`."""

from __future__ import annotations

from tradeoff.extras import needing
from tradeoff.theory.derivations import Derivation, Proof

with needing("proofs"):
    import sympy as sp


def last_iterate() -> Proof:
    """T13: the telescoping sum over comparison points, and the step that minimises the bound."""
    d = Derivation()
    big, s, c = (sp.Symbol(name, positive=True) for name in ("T", "s", "c"))
    r, g = sp.symbols("r G", positive=True)

    def v(t: sp.Expr) -> sp.Expr:
        return big / (big - t)

    d.equal("eta_t v_t is the same for all t", c * (big - s) / big * v(s), c)
    d.equal("e_s keeps no weight for s < T", v(s - 1) - (v(s) - v(s - 1)) * (big - s),
            sp.Integer(0))  # fmt: skip
    d.equal("and e_T the weight v_{T-1} = T", v(big - 1), big)
    a, b, u, w = sp.symbols("v_{t-1} v_t theta_t y_{t-1}", positive=True)
    y = (a * w + (b - a) * u) / b
    d.equal("distances telescope: v_t (theta_t - y_t)", b * (u - y), a * (u - w))
    bound = r**2 / (2 * c * big) + c * g**2 / 2
    best = r / (g * sp.sqrt(big))
    d.equal("the bound at c = r/(G sqrt T)", bound.subs(c, best), r * g / sp.sqrt(big))
    m = sp.Symbol("m", positive=True)
    d.equal("a step m times as long", bound.subs(c, m * best),
            r * g / sp.sqrt(big) * (m + 1 / m) / 2)  # fmt: skip
    return Proof("last iterate", r"\mathbb E\,\mathrm{gap}(\theta_{N+1}) \le rG/\sqrt{N+1}",
                 tuple(d.steps))  # fmt: skip


def interleaving() -> Proof:
    """T14: the drift within a round completes the square, in any order of updates."""
    d = Derivation()
    g = sp.symbols("G_1:5", positive=True)
    drift = sum((g[i] * g[j] for j in range(4) for i in range(j)), sp.Integer(0))
    squares = sum((x**2 for x in g), sp.Integer(0))
    total = sum(g, sp.Integer(0))
    d.equal("squares and drift of a round (four updates)", squares + 2 * drift, total**2)
    alpha, b, k, r, mean = sp.symbols("alpha B K r G", positive=True)
    bound = r**2 / (2 * alpha * b * k) + alpha * b * mean**2 / 2
    best = r / (b * mean * sp.sqrt(k))
    d.equal("stationary", sp.diff(bound, alpha).subs(alpha, best), sp.Integer(0))
    d.equal("least value, without B", bound.subs(alpha, best), r * mean / sp.sqrt(k))
    return Proof("interleaving", r"\mathbb E\,\mathrm{gap}(\text{average of round starts})"
                 r" \le rG/\sqrt K", tuple(d.steps))  # fmt: skip


def fast_rate() -> Proof:
    """T18: with steps 4/(mu (t+1)) and weights t the distances telescope."""
    d = Derivation()
    t, mu, g, here, after = sp.symbols("t mu G d_t d_{t+1}", positive=True)
    a = 4 / (mu * (t + 1))
    # d_{t+1} <= (1 - a mu/2) d_t - a e_t + a^2 G^2, solved for e_t and times t
    gap = t * (here * (1 - a * mu / 2) - after + a**2 * g**2) / a
    bracket = t * (t - 1) * here - t * (t + 1) * after
    noise = 4 * g**2 * t / (mu * (t + 1))
    d.equal("t e_t is at most", gap, mu / 4 * bracket + noise)
    d.positive("what is left of 4 G^2/mu", 4 * g**2 / mu - noise)
    n = sp.Symbol("T", positive=True)
    d.equal("divided by the sum of the weights", 4 * g**2 * n / mu / (n * (n + 1) / 2),
            8 * g**2 / (mu * (n + 1)))  # fmt: skip
    return Proof("fast rate", r"\mathbb E\,\mathrm{gap} \le 8G^2/(\mu(T+1))", tuple(d.steps))


def slow_instance() -> Proof:
    """T17: the number of updates that the slow instance needs to cross the ball."""
    d = Derivation()
    t, n, radius = (sp.Symbol(name, positive=True) for name in ("t", "T", "R"))
    ends = 2 * sp.sqrt(n)
    area = sp.integrate(radius * (1 - t / ends), (t, 0, ends))
    d.equal("the sum of distances exceeds the integral", area, radius * sp.sqrt(n))
    a = sp.Symbol("a", positive=True)
    loss = sp.log(1 + sp.exp(-a * t))
    d.equal("slope at R", sp.diff(loss, t).subs(t, radius), -a / (1 + sp.exp(a * radius)))
    share = 1 / (1 + sp.exp(a * radius))
    d.equal("a s times the mean distance, over R G / sqrt T with G = a",
            a * share * area / n / (radius * a / sp.sqrt(n)), share)  # fmt: skip
    d.equal("as a R falls", sp.limit(share, a, 0), sp.Rational(1, 2))
    return Proof("slow instance", r"\mathrm{gap} \ge \sigma(-aR)\, RG/\sqrt T", tuple(d.steps))


def game_without_minima() -> Proof:
    """T18: the step size of the ascent, and the second moment of its payoffs."""
    d = Derivation()
    eta, b, n = sp.symbols("eta b T", positive=True)
    regret = 2 * (sp.Rational(1, 4) / (2 * eta) + eta * n * b**2 / 2)
    best = 1 / (2 * b * sp.sqrt(n))
    d.equal("stationary", sp.diff(regret, eta).subs(eta, best), sp.Integer(0))
    d.equal("payoffs and ghost together", regret.subs(eta, best), b * sp.sqrt(n))
    radius, x, y = sp.symbols("R x_S x_D", positive=True)  # x_i = w_i G_i
    moment = ((2 * x * 2 * radius) ** 2 + (2 * y * 2 * radius) ** 2) / 2
    d.equal("second moment of a payoff, at most", moment, 8 * radius**2 * (x**2 + y**2))
    return Proof("game without minima", r"\mathbb E F - F^* \le (RG + b)/\sqrt T + Rc/\sqrt{T_0}",
                 tuple(d.steps))  # fmt: skip


def token_curvature() -> Proof:
    """T18: the Hessian of DPO along a line of margins, and the variance of two tokens."""
    d = Derivation()
    t, beta = sp.Symbol("t", real=True), sp.Symbol("beta", positive=True)
    m = sp.Function("m")(t)
    doubt = 1 / (1 + sp.exp(beta * m))
    loss = sp.log(1 + sp.exp(-beta * m))
    d.equal("second derivative", sp.diff(loss, t, 2),
            beta**2 * doubt * (1 - doubt) * sp.diff(m, t) ** 2
            - beta * doubt * sp.diff(m, t, 2))  # fmt: skip
    p = sp.Symbol("p", real=True)
    cov = sp.Matrix([[p - p**2, -p * (1 - p)], [-p * (1 - p), (1 - p) - (1 - p) ** 2]])
    d.equal("largest eigenvalue of two tokens' covariance (the other is 0)", cov.trace(),
            2 * p * (1 - p))  # fmt: skip
    d.equal("at most 1/2", sp.Rational(1, 2) - 2 * p * (1 - p), 2 * (p - sp.Rational(1, 2)) ** 2)
    return Proof(
        "token curvature",
        r"\lambda_{min} \ge -\tfrac{\beta}{2}\,\mathbb E\,"
        r"\sigma(-\beta m)\,\lambda_{max}(\textstyle\sum hh')",
        tuple(d.steps),
    )
