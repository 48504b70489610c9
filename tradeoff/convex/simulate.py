"""Projected (stochastic) gradient runs of every method, in batches of replicas.

`simulate` returns a tidy table; `trajectories` returns the recorded parameters themselves. The
specification of a run is `tradeoff.convex.reference`; dense log-linear problems go through compiled
kernels that reproduce it on the same draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike, NDArray

from tradeoff._deferred import pandas as pd
from tradeoff.convex import reference
from tradeoff.convex._validate import (
    LARGEST_FEATURE,
    as_array,
    check_memory,
    check_vector,
)
from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.quadratic import Quadratic
from tradeoff.convex.setting import Setting
from tradeoff.convex.solve import minimise
from tradeoff.display import Shown
from tradeoff.errors import InputError
from tradeoff.methods import Method, told_apart
from tradeoff.schedules import (
    PREFERENCE,
    SFT,
    Decay,
    Plan,
    Schedule,
    step_shares,
)
from tradeoff.settings import Count, Seed, Updates, Within, check, checked, fit

Array = NDArray[np.float64]
Engine = Literal["auto", "numpy", "numba"]
Runnable = Method | Schedule
"""A method; a schedule alone is one that changes nothing else."""
Gradients = Literal["stochastic", "full"]


@dataclass(frozen=True)
class StepSize:
    """Step size ``scale / clock**decay``, where the clock counts updates of the stage from 1.

    Attributes
    ----------
    scale
        The first step of a stage; positive.
    decay
        0 for a constant step, 0.5 for the classical 1/sqrt(t); not negative. Or "linear", the
        linear decay of trainers: ``scale * (N + 1 - clock) / N`` in a stage of N updates. Or
        "constant" or "cosine", see :func:`~tradeoff.schedules.plan.step_shares`.

    Notes
    -----
    ``StepSize(r * N / (G * (N + 1) ** 1.5), "linear")`` gives the steps of T13,
    ``r / (G sqrt(N + 1)) * (N + 1 - t) / (N + 1)``.
    """

    scale: Annotated[float, Within(0, 1e12, "(]")]
    decay: Decay = 0.0

    def __post_init__(self) -> None:
        check(self)

    def of(self, plan: Plan) -> Array:
        """(T,) step size of every update of a plan."""
        return np.asarray(self.scale * step_shares(plan.clock, self.decay))


@dataclass(frozen=True, repr=False)
class Trajectories(Shown):
    """Recorded parameters of C configurations x R replicas at K checkpoints.

    Attributes
    ----------
    methods, step_sizes
        The method and step size of each configuration, length C.
    checkpoints
        (K,) number of updates done at each record.
    last
        (C, R, K, d) iterates.
    average
        (C, R, K, d) averages of the iterates at which the updates since the start of the stage
        were computed. For MAXRIGHT with unweighted steps they are weighted by 1/w of the chosen
        objective (theory: T7). For Constrained they include only the iterates at which the
        preference objective was followed (theory: T15); before the first such iterate they are
        the start.
    counts
        (C, R, K, 2) number of gradients of each objective used so far.
    """

    methods: tuple[Method, ...]
    step_sizes: tuple[StepSize, ...]
    checkpoints: Int[np.ndarray, " K"]
    last: Float[np.ndarray, "C R K d"]
    average: Float[np.ndarray, "C R K d"]
    counts: Int[np.ndarray, "C R K 2"]

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        """The schedule of each configuration."""
        return tuple(method.schedule for method in self.methods)

    def losses(self, problem: Any, iterate: Literal["last", "average"] = "last") -> Array:
        """(C, R, K, 2) SFT and preference loss of the recorded iterates."""
        theta = getattr(self, iterate)
        values = np.asarray(problem.losses(theta.reshape(-1, theta.shape[-1])))
        return np.asarray(values.reshape(*theta.shape[:-1], 2))

    def table(self) -> pd.DataFrame:
        """One row for each configuration: method, weight, step size and gradients used."""
        used = self.counts[:, :, -1].mean(axis=1)
        return pd.DataFrame(
            {
                "schedule": told_apart(self.methods),
                "lam": [m.lam for m in self.methods],
                "step_size": [s.scale for s in self.step_sizes],
                "decay": [s.decay for s in self.step_sizes],
                "sft_updates": used[:, SFT],
                "preference_updates": used[:, PREFERENCE],
            }
        )

    def plot(self, problem: Any, ax: Any = None) -> Any:
        """Draw the mean path of each configuration in loss space.

        Parameters
        ----------
        problem
            The problem of the runs.
        ax
            Matplotlib axes to draw on; new ones by default.

        Returns
        -------
        Axes
            The axes with the drawing.
        """
        from tradeoff import plots  # a simulator needs no matplotlib

        ax = plots.axes() if ax is None else ax
        paths, labels = self.losses(problem).mean(axis=1), told_apart(self.methods)
        for method, path, label in zip(self.methods, paths, labels, strict=True):
            look = plots.look(method)
            ax.plot(*path.T, **look.line_style(markevery=[-1], label=label))
        ax.set(xlabel="SFT loss (nats)", ylabel="preference loss (nats)")
        ax.legend()
        return ax

    def __repr__(self) -> str:
        configurations, replicas, records, dimension = self.last.shape
        return (
            f"Trajectories({configurations} configurations x {replicas} replicas x "
            f"{records} records up to update {self.checkpoints[-1]}, d = {dimension})"
        )


def simulate(
    problem: Any,
    methods: Runnable | Sequence[Runnable],
    *,
    steps: Updates,
    step_size: float | StepSize | Sequence[float | StepSize],
    replicas: Count = 256,
    seed: Seed = 0,
    start: ArrayLike | None = None,
    checkpoints: int | ArrayLike = 30,
    gradients: Gradients = "stochastic",
    engine: Engine = "auto",
    progress: bool = False,
) -> pd.DataFrame:
    """Run every method with every step size and return one row per record.

    Parameters
    ----------
    problem
        :class:`~tradeoff.convex.LogLinear`, :class:`~tradeoff.convex.Quadratic`, or an object with
        the members of :class:`~tradeoff.convex.problem.Simulated`.
    methods
        One or more methods or schedules.
    steps
        Updates per run.
    step_size
        Number (constant step), :class:`StepSize`, or several; combined with every method.
    replicas
        Independent repetitions. Replica r sees the same draws under every method and step
        size, so differences between them are paired.
    seed
        Root seed. The result depends on the arguments alone, not on the number of threads.
    start
        (d,) first iterate, projected on the ball; the centre by default.
    checkpoints
        Number of log-spaced records, or the update counts at which to record.
    gradients
        "stochastic": one data point per update and objective; "full": exact gradients.
    engine
        "numba" (dense log-linear problems, schedules alone), "numpy" (the specification), or
        "auto": the fastest for each method.
    progress
        Show a progress bar.

    Returns
    -------
    DataFrame
        Columns schedule (label of the method), lam, step_size, replica, step, iterate ("last" or
        "average"), sft_loss, preference_loss, sft_gap, preference_gap (above the certified
        minima), gap (of f_lambda), max_gap (the weighted-Chebyshev value), sft_updates and
        preference_updates (gradients of each objective used so far, with those that hooks
        request). Losses are those of the problem, also for methods that
        train other losses. Gaps are NaN where the minima of the problem are not known.

    Raises
    ------
    InputError
        If a setting is out of range, or a method cannot run on this problem.
    """
    runs = trajectories(
        problem,
        methods,
        steps=steps,
        step_size=step_size,
        replicas=replicas,
        seed=seed,
        start=start,
        checkpoints=checkpoints,
        gradients=gradients,
        engine=engine,
        progress=progress,
    )
    tables = [_table(problem, runs, iterate) for iterate in ("last", "average")]
    return pd.concat(tables, ignore_index=True)


@checked
def trajectories(
    problem: Any,
    methods: Runnable | Sequence[Runnable],
    *,
    steps: Updates,
    step_size: float | StepSize | Sequence[float | StepSize],
    paired: bool = False,
    replicas: Count = 256,
    seed: Seed = 0,
    start: ArrayLike | None = None,
    checkpoints: int | ArrayLike = 30,
    gradients: Gradients = "stochastic",
    engine: Engine = "auto",
    progress: bool = False,
) -> Trajectories:
    """Run as :func:`simulate` does, and return the parameters instead of a table.

    Parameters
    ----------
    problem, methods, steps, step_size, replicas, seed
        As for :func:`simulate`.
    paired
        Run each method with its own one of as many step sizes, instead of all combinations.
    start, checkpoints, gradients, engine, progress
        As for :func:`simulate`.

    Raises
    ------
    InputError
        As for :func:`simulate`; or if methods are paired with more or fewer step sizes.
    """
    _check_problem(problem)
    wanted, sizes = _methods(methods), _sizes(step_size)
    if paired and len(wanted) != len(sizes):
        raise InputError(
            f"there are {len(wanted)} methods",
            field="step_size",
            value=len(sizes),
            remedy="Give one step size for each method.",
        )
    return _simulated(
        problem,
        list(zip(wanted, sizes, strict=True) if paired else product(wanted, sizes)),
        steps=steps,
        replicas=replicas,
        seed=seed,
        start=start,
        checkpoints=checkpoints,
        gradients=gradients,
        engine=engine,
        progress=progress,
    )


def _simulated(
    problem: Any,
    configurations: list[tuple[Method, StepSize]],
    *,
    steps: int,
    replicas: int,
    seed: int,
    start: ArrayLike | None,
    checkpoints: int | ArrayLike,
    gradients: Gradients,
    engine: Engine,
    progress: bool,
) -> Trajectories:
    """Run these methods, each with its step size."""
    begin, marks = _start(problem, start), _checkpoints(checkpoints, steps)
    runs = len(configurations) * replicas
    remedy = "Use fewer replicas, checkpoints, step sizes or methods."
    check_memory("replicas", replicas, 2 * runs * len(marks) * problem.dimension, remedy)
    remedy = "Use fewer updates, step sizes or methods."
    check_memory("steps", steps, 6 * len(configurations) * steps, remedy)
    methods = [method for method, _ in configurations]
    plans = _plans(methods, steps)
    alphas = [_steps(s, p) for (_, s), p in zip(configurations, plans, strict=True)]
    optima = _optima(problem, methods, plans)
    setting = Setting(
        problem=problem,
        methods=methods,
        plans=plans,
        alphas=np.stack(alphas),
        replicas=replicas,
        seed=seed,
        start=begin,
        checkpoints=marks,
        optima=optima,
        base=float(problem.losses(begin)[SFT] - optima[SFT]),
        full=gradients == "full",
        progress=progress,
        compiled=engine != "numpy",
    )
    last, average, counts = _run(setting, engine)
    return Trajectories(
        methods=tuple(setting.methods),
        step_sizes=tuple(size for _, size in configurations),
        checkpoints=setting.checkpoints,
        last=last,
        average=average,
        counts=counts,
    )


def _plans(methods: list[Method], steps: int) -> list[Plan]:
    """The plan of each method; consecutive methods that are the same object share one plan."""
    found: list[Plan] = []
    for k, method in enumerate(methods):
        same = k > 0 and method is methods[k - 1]
        found.append(found[-1] if same else method.plan(steps))
    return found


def _steps(size: StepSize, plan: Plan) -> Array:
    """(T,) step sizes; engines read them without looking."""
    found = np.asarray(size.of(plan), dtype=float)
    if found.shape != (len(plan),) or not np.isfinite(found).all():
        raise InputError(
            f"{type(size).__name__}.of(plan) must return {len(plan)} finite numbers",
            field="step_size",
            value=found.shape if found.shape != (len(plan),) else found,
            remedy="Return one step size for each update of the plan.",
        )
    return found


def _check_problem(problem: Any) -> None:
    if not (hasattr(problem, "losses") and hasattr(problem, "project")):
        remedy = "Give a LogLinear or a Quadratic, or an object with the members of Simulated."
        raise InputError("not a problem", field="problem", value=problem, remedy=remedy)
    if not isinstance(problem, LogLinear | Quadratic):
        _check_members(problem)


def _check_members(problem: Any) -> None:
    """An `InputError` if a member of a problem of another kind has a result of another shape."""
    size = fit(Count, getattr(problem, "dimension", None), "dimension")

    def probed(name: str, theta: Array, shape: tuple[int, ...]) -> Array:
        found = getattr(problem, name)(theta.copy())
        if np.shape(found) != shape:
            raise InputError(
                f"the problem's {name} has another shape, for theta {theta.shape}",
                field=name,
                value=np.shape(found),
                remedy=f"Return an array of shape {shape}.",
            )
        return np.asarray(found, dtype=float)

    # Three runs tell (runs, losses) from (losses, runs).
    inside = probed("project", np.zeros((3, size)), (3, size))
    probed("losses", inside, (3, 2))
    probed("losses", probed("project", np.zeros(size), (size,)), (2,))


def _methods(given: Any) -> list[Method]:
    found = _all_of(
        Runnable,
        [given] if isinstance(given, Runnable) else given,
        "methods",
        "Give one method or schedule, such as Mix(), or several.",
    )
    methods = [Method.of(each) for each in found]
    for method in methods:
        method.check("convex")
    return methods


def _sizes(given: Any) -> list[StepSize]:
    """One or several step sizes, each a number or a `StepSize`, as a list of `StepSize`."""
    several = isinstance(given, list | tuple) or getattr(given, "ndim", 0) == 1
    try:
        wanted = given if several else [given]
        sizes = [size if isinstance(size, StepSize) else StepSize(size) for size in wanted]
    except InputError as error:
        raise error.at(field="step_size") from error
    return _all_of(StepSize, sizes, "step_size", "Give one number or StepSize, or several.")


def _all_of(kind: Any, given: Any, field: str, remedy: str) -> list[Any]:
    found = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else []
    if not found or not all(isinstance(item, kind) for item in found):
        name = getattr(kind, "__name__", "method")
        problem = f"not a {name}, nor a list of them"
        raise InputError(problem, field=field, value=given, remedy=remedy)
    return found


def _run(setting: Setting, engine: Engine) -> tuple[Array, Array, NDArray[np.int64]]:
    """Run each configuration on its engine; results are in the order of the configurations."""
    compiled = _compiled(setting, engine)
    if compiled.all() or not compiled.any():
        return _on_one_engine(setting, bool(compiled.all()))
    shape = (len(compiled), setting.replicas, len(setting.checkpoints))
    last, average = np.empty((2, *shape, len(setting.start)))
    counts = np.empty((*shape, 2), dtype=np.int64)
    for members, fast in ((np.flatnonzero(compiled), True), (np.flatnonzero(~compiled), False)):
        part = replace(
            setting,
            methods=[setting.methods[c] for c in members],
            plans=[setting.plans[c] for c in members],
            alphas=setting.alphas[members],
        )
        last[members], average[members], counts[members] = _on_one_engine(part, fast)
    return last, average, counts


def _on_one_engine(setting: Setting, fast: bool) -> tuple[Array, Array, NDArray[np.int64]]:
    if not fast:
        return reference.run(setting)
    from tradeoff.convex import _kernels  # numba is loaded only when it is used

    return _kernels.run(setting)


def _compiled(setting: Setting, engine: Engine) -> NDArray[np.bool_]:
    """(C,) whether the compiled engine runs each configuration."""
    able = isinstance(setting.problem, LogLinear) and setting.problem.is_dense and not setting.full
    plain = np.array([method.plain for method in setting.methods])
    if engine == "numba" and not (able and plain.all()):
        raise InputError(
            "the compiled engine runs schedules alone, on dense log-linear problems with "
            "stochastic gradients",
            field="engine",
            value=engine,
            remedy='Use engine="auto" or "numpy".',
        )
    return plain & able & (engine != "numpy")


def _start(problem: Any, start: ArrayLike | None) -> Array:
    if start is None:
        return np.zeros(problem.dimension)
    check_vector("start", start, problem.dimension)
    largest = float(np.max(np.abs(start), initial=0.0))
    fit(Annotated[float, Within(0, LARGEST_FEATURE)], largest, "start")
    return np.asarray(problem.project(np.array(start, dtype=float)))


def _checkpoints(wanted: int | ArrayLike, steps: int) -> NDArray[np.int64]:
    given = as_array("checkpoints", wanted)
    if given.ndim == 0:
        number = fit(Annotated[int, Within(1, 10**6)], wanted, "checkpoints")
        spaced = np.unique(np.geomspace(1, steps, number).round().astype(np.int64))
        return np.concatenate([[0], spaced])
    whole = given.ndim == 1 and given.dtype.kind in "iu" and given.size
    if not whole or given.min() < 0 or given.max() > steps:
        raise InputError(
            "not update counts within the run",
            field="checkpoints",
            value=wanted,
            remedy=f"Use whole numbers from 0 to {steps}, or the number of records.",
        )
    return np.unique(given.astype(np.int64))


def _optima(problem: Any, methods: list[Method], plans: list[Plan]) -> Array:
    """Minima of both losses; 0 for a loss that no plan and no gradient rule uses."""
    watched = {objective for plan in plans for objective in plan.watched}
    if any(method.gradient.uses_losses and method.plain_losses for method in methods):
        watched |= {SFT, PREFERENCE}
    found = np.array([_least(problem, float(i)) if i in watched else 0.0 for i in (0, 1)])
    if np.isnan(found).any():
        if any(plan.watched for plan in plans):
            raise InputError(
                "a schedule compares gaps, but the minima of the problem are not known",
                field="problem",
                value=type(problem).__name__,
                remedy="Give the problem a method minimum(lam).",
            )
        return np.nan_to_num(found)
    return found


def _least(problem: Any, lam: float) -> float:
    """Minimum of f_lambda; NaN where it is not known."""
    if hasattr(problem, "local_model"):
        return minimise(problem, lam).value
    return float(problem.minimum(lam)) if hasattr(problem, "minimum") else np.nan


def _table(problem: Any, runs: Trajectories, iterate: Literal["last", "average"]) -> pd.DataFrame:
    losses = runs.losses(problem, iterate)
    configurations, replicas, records, _ = losses.shape
    lam = np.array([method.lam for method in runs.methods])
    gaps = losses - [_least(problem, 0.0), _least(problem, 1.0)]
    best = {value: _least(problem, value) for value in set(lam.tolist())}
    weights = np.stack([1 - lam, lam], axis=-1)[:, None, None, :]
    optimum = np.array([best[value] for value in lam.tolist()])[:, None, None]
    per_run = replicas * records

    def spread(values: Sequence[Any]) -> NDArray[Any]:
        return np.repeat(np.asarray(values, dtype=object), per_run)

    return pd.DataFrame(
        {
            "schedule": pd.Categorical(spread(told_apart(runs.methods))),
            "lam": np.repeat(lam, per_run),
            "step_size": np.repeat([s.scale for s in runs.step_sizes], per_run),
            "replica": np.tile(np.repeat(np.arange(replicas), records), configurations),
            "step": np.tile(runs.checkpoints, configurations * replicas),
            "iterate": pd.Categorical([iterate] * losses[..., 0].size),
            "sft_loss": losses[..., SFT].ravel(),
            "preference_loss": losses[..., PREFERENCE].ravel(),
            "sft_gap": gaps[..., SFT].ravel(),
            "preference_gap": gaps[..., PREFERENCE].ravel(),
            "gap": ((losses * weights).sum(-1) - optimum).ravel(),
            "max_gap": (gaps * weights).max(-1).ravel(),
            "sft_updates": runs.counts[..., SFT].ravel(),
            "preference_updates": runs.counts[..., PREFERENCE].ravel(),
        }
    )
