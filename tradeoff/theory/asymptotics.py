"""T16: the asymptotic gap of averaged iterates, which ranks the methods at equal compute.

Let theta* be the interior minimiser of f_lambda, H its Hessian there and S the covariance of one
update direction at theta*. For averages of iterates with steps a/t^gamma, 1/2 < gamma < 1,

    T E gap(average)  ->  tr(H^-1 S)/2

(Polyak and Juditsky 1992; see also arXiv 1612.05612, and 1303.6149 for finite T). The application
to Fernando et al.'s problem and to the methods below is ours. Let A_i = tr(H^-1 E g_i g_i'), w the
weights and b = w_D^2 grad f_D' H^-1 grad f_D, all at theta*:

- alternation that draws DPO with probability p:  tr(H^-1 S) = w_D^2 A_D/p + w_S^2 A_S/(1-p);
- Mix on independent samples:                     tr(H^-1 S) = w_D^2 A_D + w_S^2 A_S - 2 b.

A budget C buys C/cost updates, so E gap ~ (mean cost) x tr(H^-1 S)/(2 C): that product ranks the
methods. Alternation's product is least at the p* of T6 with A_i in place of V_i = E|g_i|^2. T6's
own p*, with V_i, is exact where H is a multiple of the identity, and a rule of thumb elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float
from numpy.typing import NDArray

from tradeoff.convex.certify import Minimum
from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.quadratic import Quadratic
from tradeoff.convex.simulate import StepSize, trajectories
from tradeoff.convex.solve import minimise
from tradeoff.display import Shown
from tradeoff.errors import InputError
from tradeoff.schedules import PREFERENCE, SFT, Mix, Schedule
from tradeoff.settings import Positive, Share, Updates, Within, checked, fit
from tradeoff.theory._alike import kinds_of
from tradeoff.theory.checked import Checked
from tradeoff.theory.constants import sample_gradients
from tradeoff.theory.joint import optimal_probability
from tradeoff.theory.measured import standard_error, target

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sharpness:
    """The constants of T16 at the optimum of one f_lambda, in nats.

    Attributes
    ----------
    lam
        Weight of the preference objective.
    sft, preference
        A_S and A_D: tr(H^-1 E g g') of one sample gradient at the optimum.
    bias
        b = lam^2 grad f_D' H^-1 grad f_D, which equals (1-lam)^2 grad f_S' H^-1 grad f_S.
    """

    lam: float
    sft: float
    preference: float
    bias: float

    def alternating(self, probability: float) -> float:
        """tr(H^-1 S) of alternation that draws the preference objective with ``probability``."""
        pairs = ((self.lam, probability, self.preference),
                 (1 - self.lam, 1 - probability, self.sft))  # fmt: skip
        return sum(w**2 / q * a for w, q, a in pairs if w > 0)

    @property
    def mixed(self) -> float:
        """tr(H^-1 S) of Mix on independent samples."""
        own = self.lam**2 * self.preference + (1 - self.lam) ** 2 * self.sft
        return own - 2 * self.bias

    def of(self, schedule: Schedule) -> float:
        """tr(H^-1 S) of ALRIGHT, budgeted alternation or Mix."""
        kinds = kinds_of(schedule, "T16")
        return self.mixed if len(kinds) == 1 else self.alternating(kinds[PREFERENCE][0])

    def equal_compute(self, sft_cost: float = 1.0, preference_cost: float = 1.0) -> EqualCompute:
        """Rank the methods for given costs of one gradient; see :func:`equal_compute`."""
        best = optimal_probability(
            self.lam, self.sft, self.preference, sft_cost, preference_cost
        )  # fmt: skip
        products = {
            name: (p * preference_cost + (1 - p) * sft_cost) * self.alternating(p)
            for name, p in (("alright", self.lam), ("alright-budget", best))
        }
        products["mix"] = (sft_cost + preference_cost) * self.mixed
        return EqualCompute(best, products)


def sharpness(problem: LogLinear | Quadratic, lam: float) -> Sharpness:
    """A_S, A_D and b at the minimiser of f_lambda, exactly, over all data points.

    Raises
    ------
    InputError
        If the minimiser lies on the ball's boundary or the Hessian there is singular.
    """
    found = minimise(problem, lam, tolerance=1e-13)
    hessian = _hessian(problem, found)
    size = [float(np.trace(np.linalg.solve(hessian, m))) for m in _moments(problem, found.theta)]
    slope = lam * problem.gradients(found.theta)[PREFERENCE]
    bias = float(slope @ np.linalg.solve(hessian, slope))
    return Sharpness(lam, size[SFT], size[PREFERENCE], bias)


def _hessian(problem: Any, found: Minimum) -> Array:
    if np.linalg.norm(found.theta) >= problem.radius * (1 - 1e-6):
        raise InputError(
            "the minimiser lies on the boundary, where averages have another limit",
            field="radius",
            value=problem.radius,
            remedy="Use a larger radius, or data that conflict.",
        )
    weights = np.array([1 - found.lam, found.lam])
    hessian = problem.local_model(found.theta, weights).hessian()
    values = np.linalg.eigvalsh(hessian)
    if values[0] <= 1e-12 * values[-1]:
        raise InputError(
            "the Hessian is singular at the minimiser",
            field="lam",
            value=found.lam,
            remedy="Give more data than parameters.",
        )
    return np.asarray(hessian)


def _moments(problem: Any, theta: Array) -> list[Array]:
    """E g g' of the SFT and of the preference objective at theta."""
    if isinstance(problem, Quadratic):
        mean = problem.gradients(theta)
        return [np.outer(g, g) + noise for g, noise in zip(mean, problem.noise, strict=True)]
    found = []
    for objective in (SFT, PREFERENCE):
        g, weights = sample_gradients(problem, objective, theta)
        dense = np.asarray(g.toarray() if sp.issparse(g) else g)
        found.append(dense.T @ (weights[:, None] * dense))
    return found


# ------------------------------------------------------------------ the limit, checked


@checked
def asymptotic_gap(
    problem: LogLinear | Quadratic,
    schedule: Schedule,
    steps: Updates,
    *,
    step_size: StepSize,
    slack: float = 0.2,
    instead: Schedule | None = None,
    **run: Any,
) -> Checked:
    """Compare T times the mean gap of the average with its limit tr(H^-1 S)/2.

    Both agree within ``slack`` times the limit plus three standard errors.

    Parameters
    ----------
    problem, schedule, steps
        The problem, the schedule and the number T of updates.
    step_size
        ``StepSize(a, gamma)`` with 1/2 < gamma < 1.
    slack
        Relative tolerance for the difference that a finite T leaves; declared, not fitted.
    instead
        Schedule to run in place of ``schedule``; its covariance differs, so the check must fail.
    **run
        For :func:`~tradeoff.convex.simulate.trajectories` (replicas, seed, engine).

    Raises
    ------
    InputError
        If the steps decay otherwise, as then the limit is another one or there is none.
    """
    decay = step_size.decay if isinstance(step_size, StepSize) else 0.0
    fit(Annotated[float, Within(0.5, 1, "()")], decay, "decay")
    found = sharpness(problem, schedule.lam)
    limit = found.of(schedule) / 2
    runs = trajectories(
        problem, instead or schedule, steps=steps, step_size=step_size, checkpoints=[steps], **run
    )
    gaps = steps * target(problem, schedule).excess(runs.losses(problem, "average")[0, :, 0])
    error = float(standard_error(gaps))
    known = {"A_S": found.sft, "A_D": found.preference, "b": found.bias, "T": float(steps),
             "SE": error, "ratio": float(gaps.mean()) / limit}  # fmt: skip
    return Checked(float(gaps.mean()), limit, "exact", known, slack * limit + 3 * error)


def exact_average_gap(
    problem: Quadratic, schedule: Schedule, steps: int, step_size: StepSize
) -> float:
    """E gap of the averaged iterate on a quadratic pair, computed without Monte Carlo.

    The run starts from the centre. See :func:`exact_average_gaps`.
    """
    return float(exact_average_gaps([(problem, schedule, steps)], step_size)[0])


def exact_average_gaps(
    cases: Sequence[tuple[Quadratic, Schedule, int]], step_size: StepSize
) -> Float[np.ndarray, " n"]:
    """E gap of the averaged iterates of many runs, each with its own problem and length.

    With u = theta - theta*, the pair z = (u, average of u) obeys a linear recursion with random
    coefficients. So its mean and second moment obey linear recursions too: T8 in twice the
    dimension. All problems have the same dimension and infinite radius. Schedules are ALRIGHT or
    Mix.

    Parameters
    ----------
    cases
        (problem, schedule, updates) of each run.
    step_size
        The step size of all runs.
    """
    d = cases[0][0].dimension
    terms = [_recursion(problem, schedule) for problem, schedule, _ in cases]
    chance, pull, shift, noise = (np.stack(parts) for parts in zip(*terms, strict=True))
    starts = np.stack([-minimise(p, s.lam, tolerance=1e-14).theta for p, s, _ in cases])
    mean = np.concatenate([starts, starts], axis=1)
    second = mean[:, :, None] * mean[:, None, :]
    lengths = np.array([steps for *_, steps in cases])
    found = np.empty(len(cases))
    longest = int(lengths.max())
    keep = np.eye(2 * d)
    for t, alpha in enumerate(step_size.of(Mix().plan(longest)).tolist(), start=1):
        keep[d:, :d], keep[d:, d:] = np.eye(d) / t, np.eye(d) * (1 - 1 / t)
        a, b = keep - alpha * pull, -alpha * shift
        am = np.einsum("nkij,nj->nki", a, mean)
        moved = am + b
        spread = a @ second[:, None] @ a.swapaxes(-1, -2) + alpha**2 * noise
        # E (a z + b)(a z + b)' = a E zz' a' + (am + b)(am + b)' - am am'
        spread += moved[..., :, None] * moved[..., None, :] - am[..., :, None] * am[..., None, :]
        mean = np.einsum("nk,nki->ni", chance, moved)
        second = np.einsum("nk,nkij->nij", chance, spread)
        for case in np.flatnonzero(lengths == t).tolist():
            problem, schedule, _ = cases[case]
            hessian = np.tensordot([1 - schedule.lam, schedule.lam], problem.hessians, axes=1)
            found[case] = np.trace(hessian @ second[case, d:, d:]) / 2
    return found


def _recursion(problem: Quadratic, schedule: Schedule) -> tuple[Array, Array, Array, Array]:
    """Probability, (2d, 2d) pull, (2d,) shift and (2d, 2d) noise of the two kinds of update."""
    d, best = problem.dimension, minimise(problem, schedule.lam, tolerance=1e-14).theta
    slopes = problem.gradients(best)
    chance, pull = np.zeros(2), np.zeros((2, 2 * d, 2 * d))
    shift, noise = np.zeros((2, 2 * d)), np.zeros((2, 2 * d, 2 * d))
    for k, (probability, factors) in enumerate(kinds_of(schedule, "T16")):
        chance[k] = probability
        pull[k, :d, :d] = np.tensordot(factors, problem.hessians, axes=1)
        shift[k, :d] = factors @ slopes
        noise[k, :d, :d] = np.tensordot(factors**2, problem.noise, axes=1)
    return chance, pull, shift, noise


# ------------------------------------------------------------------ who wins at equal compute


@dataclass(frozen=True, repr=False)
class EqualCompute(Shown):
    """Methods ranked by cost x tr(H^-1 S): the limit of 2 C E gap at a budget C.

    Attributes
    ----------
    probability
        Probability with which budget-optimal alternation draws the preference objective.
    products
        (mean cost) x tr(H^-1 S) of "alright", "alright-budget" and "mix".
    """

    probability: float
    products: dict[str, float]

    @property
    def winner(self) -> str:
        """The method with the least product."""
        return min(self.products, key=lambda name: self.products[name])

    @property
    def ratio(self) -> float:
        """Gap of budget-optimal alternation over Mix's, in the limit; below 1 alternation wins."""
        return self.products["alright-budget"] / self.products["mix"]

    def table(self) -> pd.DataFrame:
        """One row for each method: its product, and its product over the smallest one."""
        best = self.products[self.winner]
        return pd.DataFrame(
            {"method": list(self.products), "product": list(self.products.values()),
             "over_best": [value / best for value in self.products.values()]}
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"EqualCompute({self.winner} wins, alternation over Mix {self.ratio:.4g})"


@checked
def equal_compute(
    problem: LogLinear | Quadratic,
    lam: Share,
    sft_cost: Positive = 1.0,
    preference_cost: Positive = 1.0,
) -> EqualCompute:
    """Rank the methods by their gap at a large compute budget.

    Parameters
    ----------
    problem, lam
        The optimum of f_lambda must be interior.
    sft_cost, preference_cost
        Cost of one gradient of each objective, in any common unit.
    """
    return sharpness(problem, lam).equal_compute(sft_cost, preference_cost)


def stationary_identity(problem: LogLinear | Quadratic, lam: float) -> Checked:
    """Check that both objectives give the same b at an interior optimum: the gradients cancel.

    ``measured`` is (1-lam)^2 grad f_S' H^-1 grad f_S, ``bound`` lam^2 grad f_D' H^-1 grad f_D.
    """
    found = minimise(problem, lam, tolerance=1e-13)
    slopes = np.array([[1 - lam], [lam]]) * problem.gradients(found.theta)
    solved = np.linalg.solve(_hessian(problem, found), slopes.T)
    sft, preference = (float(slopes[i] @ solved[:, i]) for i in (SFT, PREFERENCE))
    return Checked(sft, preference, "exact", {"lam": lam}, 1e-5 * (1 + abs(preference)))
