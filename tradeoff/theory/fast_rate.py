"""T18: rate 1/T where the target grows quadratically about its minimiser.

Let f_lambda - f_lambda* >= (mu/2) |theta - theta*|^2 on the ball. With steps 4/(mu (t+1)) and the
iterates averaged with weights t,

    E gap(average)  <=  8 G^2 / (mu (T + 1)).

Proof. With d_t = E|theta_t - theta*|^2 and e_t the expected gap, the usual expansion gives
d_{t+1} <= d_t - 2 a e_t + a^2 G^2, and e_t >= e_t/2 + (mu/4) d_t. So with a = 4/(mu (t+1))

    t e_t  <=  (mu/4) (t (t-1) d_t - t (t+1) d_{t+1}) + 4 G^2 t/(mu (t+1)).

The bracket telescopes to at most 0, the rest sums to at most 4 G^2 T/mu; divide by T (T+1)/2.
The proof uses growth about one point only. Where f is mu-strongly convex, steps 2/(mu (t+1)) give
half the bound (Lacoste-Julien et al., arXiv 1212.2002). But the strong-convexity constant of a
log-linear loss on a ball is exponentially small in R Delta. The form for growth, and mu: ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tradeoff.convex.certify import Minimum
from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.simulate import StepSize, trajectories
from tradeoff.convex.solve import minimise
from tradeoff.errors import InputError
from tradeoff.schedules import Plan, Schedule
from tradeoff.settings import Updates, checked
from tradeoff.theory.checked import Checked
from tradeoff.theory.constants import Horizon, constants
from tradeoff.theory.measured import gradient_bound, mean_below, target


@dataclass(frozen=True)
class HarmonicStep(StepSize):
    """Step size ``scale / (clock + 1)``."""

    def of(self, plan: Plan) -> NDArray[np.float64]:
        """(T,) step size of every update of a plan."""
        return np.asarray(self.scale / (plan.clock + 1.0))


@dataclass(frozen=True)
class WeightedGrowth:
    """Quadratic growth of f_lambda about its minimiser on the ball.

    Attributes
    ----------
    minimum
        The certified minimiser.
    mu
        f_lambda - f_lambda* >= (mu/2) |theta - theta*|^2 on the ball.
    """

    minimum: Minimum
    mu: float


def weighted_growth(problem: LogLinear, lam: float) -> WeightedGrowth:
    """Growth constant of f_lambda; :func:`tradeoff.theory.growth.growth` is that of one loss.

    Along a line the third derivative of f_lambda is at most M |v| times its second, M the larger
    of Delta and beta Delta_w. So mu = 2 l (exp(-z) + z - 1)/z^2 with l the least eigenvalue at the
    minimiser and z = M (R + |theta*|). A minimiser on the boundary adds |grad f_lambda|/R to mu.

    Raises
    ------
    InputError
        Where mu is zero: the minimiser is interior and its Hessian singular.
    """
    found = minimise(problem, lam, tolerance=1e-13)
    model = problem.local_model(found.theta, np.array([1 - lam, lam]))
    values, norm = np.linalg.eigvalsh(model.hessian()), float(np.linalg.norm(found.theta))
    least = max(0.0, float(values[0]) - 1e-14 * len(values) * float(values[-1]))
    c = constants(problem)
    z = max(c.delta, problem.beta * c.delta_w) * (problem.radius + norm)
    damping = 0.5 - z / 6 if z < 1e-4 else float((np.expm1(-z) + z) / z**2)
    on_ball = norm >= problem.radius * (1 - 1e-9)
    boundary = float(np.linalg.norm(model.gradient)) / problem.radius if on_ball else 0.0
    mu = 2 * least * damping + boundary
    if not mu > 0:
        raise InputError(
            "the minimiser is interior, and the Hessian is singular there",
            field="lam",
            value=lam,
            remedy="Give more data than parameters, or a smaller radius.",
        )
    return WeightedGrowth(found, mu)


@checked
def fast_bound(problem: LogLinear, schedule: Schedule, steps: Horizon) -> float:
    """The bound 8 G^2/(mu (T+1)), for ALRIGHT or Mix."""
    mu = weighted_growth(problem, schedule.lam).mu
    return 8 * gradient_bound(problem, schedule) ** 2 / (mu * (steps + 1))


@checked
def fast_gap(
    problem: LogLinear, schedule: Schedule, steps: Updates, *, instead: Schedule | None = None,
    **run: Any,
) -> Checked:  # fmt: skip
    """Compare the mean gap of the average with weights t with :func:`fast_bound`.

    Parameters
    ----------
    problem, schedule, steps
        The problem, ALRIGHT or Mix, and the number T of updates.
    instead
        Schedule to run in place of ``schedule``, against its bound.
    **run
        For :func:`~tradeoff.convex.simulate.trajectories` (replicas, seed, engine).
    """
    mu = weighted_growth(problem, schedule.lam).mu
    runs = trajectories(
        problem, instead or schedule, steps=steps, step_size=HarmonicStep(4 / mu),
        checkpoints=np.arange(steps), **run,
    )  # fmt: skip
    weights = np.arange(1.0, steps + 1)
    average = np.einsum("rtd,t->rd", runs.last[0], weights / weights.sum())
    goal, limit = target(problem, schedule), fast_bound(problem, schedule, steps)
    known = {"mu": mu, "G": gradient_bound(problem, schedule), "T": float(steps)}
    return mean_below(goal.excess(problem.losses(average)), limit, known, goal.certificate)
