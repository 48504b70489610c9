"""T15: the least preference loss under an upper limit on the SFT loss.

At each update follow DPO if f_S(theta_t) <= c + tau, else SFT, along unweighted gradients with the
step r/(G sqrt T), G = max(G_SFT, G_DPO), tau = r G/sqrt T. Let B be the updates that follow DPO and
f_D^c the least f_D on {f_S <= c}. Average the iterates of B. Then

    f_S(average) <= c + tau          in every run,
    E |B| (f_D(average) - f_D^c)  <=  tau E |B| .

Proof. Every iterate of B meets the first inequality, so by convexity their average does. Let
theta^c attain f_D^c. The expansion of T4 bounds the sum over B of E(f_D(theta_t) - f_D^c) plus the
sum over the other updates of E(f_S(theta_t) - c) by r G sqrt T = tau T. Each term of the second sum
is above tau; subtract. ∎
(Lan and Zhou, arXiv 1604.03887; the two-sided form, and exact values of f_S: ours.)

The front's duality certifies the constrained minimum: for every weight l > 0 and every theta with
f_S <= c, f_D >= (V(l) - (1-l) c)/l, V(l) the least f_l.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from tradeoff.convex.certify import Minimum
from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.simulate import trajectories
from tradeoff.convex.solve import minimise
from tradeoff.display import outward
from tradeoff.errors import InputError
from tradeoff.schedules import PREFERENCE, SFT, Constrained, Schedule
from tradeoff.settings import NotNegative, Updates, Within, checked
from tradeoff.theory.checked import Checked
from tradeoff.theory.constants import Horizon, constants
from tradeoff.theory.joint import reach
from tradeoff.theory.measured import mean_below

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ConstrainedMinimum:
    """The least preference loss among policies whose SFT loss is at most ``limit``.

    Attributes
    ----------
    theta
        (d,) a policy that meets the limit.
    value, lower
        Its preference loss, and a certified lower bound on the least one.
    limit
        c, in nats of SFT loss.
    lam
        Weight whose f_lambda the policy nearly minimises: the price of the limit.
    """

    theta: Float[np.ndarray, " d"]
    value: float
    lower: float
    limit: float
    lam: float


@checked
def constrained_minimum(
    problem: LogLinear, limit: float, *, solves: Annotated[int, Within(0, 1000)] = 40
) -> ConstrainedMinimum:
    """Minimise the preference loss under a limit on the SFT loss, by bisection on the weight.

    The last step moves along the segment between the two policies that enclose the limit.

    Parameters
    ----------
    problem
        Two convex objectives.
    limit
        c: largest SFT loss allowed, in nats. It is the loss itself, not its excess over the
        minimum.
    solves
        Number of bisections.

    Raises
    ------
    InputError
        If no policy on the ball meets the limit.
    """
    low, high = minimise(problem, 0.0, tolerance=1e-12), minimise(problem, 1.0, tolerance=1e-12)
    if low.losses[SFT] > limit:
        raise InputError(
            "no policy on the ball meets this limit of the SFT loss",
            field="limit",
            value=limit,
            remedy=f"Use at least {outward(float(low.losses[SFT]), 6, up=True):.6g}.",
        )
    if high.losses[SFT] <= limit:
        return ConstrainedMinimum(high.theta, high.value, high.lower, limit, 1.0)
    lower = high.lower
    for _ in range(solves):
        middle = minimise(problem, (low.lam + high.lam) / 2, tolerance=1e-12, start=high.theta)
        lower = max(lower, (middle.lower - (1 - middle.lam) * limit) / middle.lam)
        low, high = (middle, high) if middle.losses[SFT] <= limit else (low, middle)
    theta = _moved(problem, low, high, limit)
    value = float(problem.losses(theta)[PREFERENCE])
    return ConstrainedMinimum(theta, value, min(lower, value), limit, low.lam)


def _moved(problem: LogLinear, low: Minimum, high: Minimum, limit: float) -> Array:
    """The last point of the segment from low to high that meets the limit."""
    inside, outside = 0.0, 1.0
    for _ in range(40):
        share = (inside + outside) / 2
        theta = (1 - share) * low.theta + share * high.theta
        meets = problem.losses(theta)[SFT] <= limit
        inside, outside = (share, outside) if meets else (inside, share)
    return np.asarray((1 - inside) * low.theta + inside * high.theta)


@checked
def allowance(problem: LogLinear, updates: Horizon, start: ArrayLike | None = None) -> float:
    """Tau = r G/sqrt T: slack of the limit, and bound on both errors."""
    longest = max(constants(problem).gradients)
    return reach(problem, start) * longest / float(np.sqrt(updates))


@dataclass(frozen=True)
class ConstrainedRun:
    """Both halves of T15 for one run of replicas.

    Attributes
    ----------
    violation
        Largest SFT loss of the average over replicas, above c: at most tau.
    preference
        E |B| (f_D(average) - f_D^c) / E |B|: at most tau.
    minimum
        The certified constrained minimum.
    """

    violation: Checked
    preference: Checked
    minimum: ConstrainedMinimum

    @property
    def holds(self) -> bool:
        """Whether both hold."""
        return self.violation.holds and self.preference.holds


@checked
def constrained_gap(
    problem: LogLinear,
    loss: NotNegative,
    updates: Updates,
    *,
    instead: Schedule | None = None,
    **run: Any,
) -> ConstrainedRun:
    """Measure both halves of T15 on simulated runs.

    Parameters
    ----------
    problem, updates
        The problem, and the number T of updates.
    loss
        Excess of the SFT loss over its minimum that is allowed, in nats: c = f_S* + loss.
    instead
        Schedule to run in place of the constrained one, with its step and against both bounds.
    **run
        For :func:`~tradeoff.convex.simulate.trajectories` (replicas, seed, engine, start).
    """
    start = run.get("start")
    tau, longest = allowance(problem, updates, start), max(constants(problem).gradients)
    least = minimise(problem, 0.0, tolerance=1e-12)
    found = constrained_minimum(problem, least.value + loss)
    # Without a gradient any step is right.
    step = tau / longest**2 if longest > 0 else reach(problem, start)
    runs = trajectories(
        problem, instead or Constrained(limit=loss + tau), steps=updates,
        step_size=step, checkpoints=[updates], **run,
    )  # fmt: skip
    losses = runs.losses(problem, "average")[0, :, 0]
    followed = runs.counts[0, :, 0, PREFERENCE].astype(float)
    excess = followed * (losses[:, PREFERENCE] - found.lower) / followed.mean()
    known = {"tau": tau, "T": float(updates), "share": float(followed.mean()) / updates,
             "f_D^c": found.value, "doubt": found.value - found.lower}  # fmt: skip
    slack = least.certificate + 1e-9
    worst = float(losses[:, SFT].max()) - found.limit
    return ConstrainedRun(
        Checked(worst, tau, "upper", known, slack),
        mean_below(excess, tau, known, found.value - found.lower),
        found,
    )
