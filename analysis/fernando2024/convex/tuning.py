"""Step sizes for comparisons: each method has its own, chosen on draws that are not reported.

All methods choose from one grid. Sequential training chooses a step size for each stage. They are
chosen together for f_lambda with hindsight, the best possible case, or each for the loss of its
stage, as in practice.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analysis.fernando2024.stored import shown
from tradeoff.convex import LogLinear, StepSize, trajectories
from tradeoff.convex.stage_steps import StageSteps
from tradeoff.schedules import PREFERENCE, SFT, Schedule, Sequential
from tradeoff.scores import weighted_loss

Array = NDArray[np.float64]
Iterate = Literal["last", "average"]
Judge = Callable[[Array], Array]
SCALES = tuple(2.0**k for k in range(-9, 6))
"""The grid of step sizes."""
COARSE = SCALES[::2]
"""Every second value of the grid, for studies with many runs."""
NARROW = tuple(2.0**k for k in range(-7, 3, 2))
"""The part of :data:`COARSE` that contains the best step sizes for f_lambda."""
SEED, REPLICAS = 1, 16
"""Seed and number of the draws on which step sizes are chosen. Reported runs have seed 0."""


@dataclass(frozen=True)
class Tuned:
    """A step size, and how it was found.

    Attributes
    ----------
    step
        The step size of the method.
    scales
        Its scale, or the scales of both stages.
    inside
        Whether the grid contains the optimum, see :func:`inside`.
    value
        Mean of the judged quantity, on the draws of the choice.
    """

    step: StepSize
    scales: tuple[float, ...]
    inside: bool
    value: float


def f_lambda(lam: float) -> Judge:
    """A judge that returns the weighted loss of (..., 2) losses."""
    return lambda losses: weighted_loss(losses, lam)


def own_loss(objective: int) -> Judge:
    """A judge that returns the loss of one objective alone."""
    return lambda losses: np.asarray(losses[..., objective])


def tune(
    problem: LogLinear,
    schedule: Schedule,
    steps: int,
    judge: Judge | None = None,
    *,
    scales: Sequence[float] = SCALES,
    decay: float = 0.5,
    iterate: Iterate = "last",
    replicas: int = REPLICAS,
) -> Tuned:
    """The step size, or pair of step sizes for two stages, with the least mean at the end of a run.

    Parameters
    ----------
    problem, schedule, steps
        The problem, the schedule, and the number of updates.
    judge
        The quantity to minimise, a function of (..., 2) losses; f_lambda by default.
    scales, decay
        The grid of scales, and the common decay.
    iterate
        The iterate that is judged.
    replicas
        Number of runs over which the mean is taken. Their seed is :data:`SEED`.
    """
    stages = 2 if has_two_stages(schedule, steps) else 1
    grid: list[tuple[float, ...]] = list(product(scales, repeat=stages))
    sizes = [_step(pair, decay) for pair in grid]
    found = means(problem, schedule, steps, sizes, judge, iterate, replicas)
    k = int(np.argmin(found))
    return Tuned(sizes[k], grid[k], inside(grid[k], scales), float(found[k]))


def _step(scales: tuple[float, ...], decay: float) -> StepSize:
    """The step size with one scale, or with one scale for each of two stages."""
    return (
        StepSize(scales[0], decay) if len(scales) == 1 else StageSteps(scales[0], decay, scales[1])
    )


def tune_each_stage(
    problem: LogLinear,
    schedule: Sequential,
    steps: int,
    *,
    scales: Sequence[float] = SCALES,
    decay: float = 0.5,
    replicas: int = REPLICAS,
) -> Tuned:
    """Tune sequential training as in practice: each stage for its own loss.

    Parameters
    ----------
    problem, schedule, steps, scales, decay, replicas
        As for :func:`tune`; the schedule has two stages.
    """
    a, b = (SFT, PREFERENCE) if schedule.first == "sft" else (PREFERENCE, SFT)
    stage = int(np.argmax(schedule.plan(steps).clock[1:] == 1)) + 1
    alone = Sequential(lam=schedule.lam, first=schedule.first, share=1.0)
    first = tune(
        problem, alone, stage, own_loss(a), scales=scales, decay=decay, replicas=replicas
    ).scales[0]
    sizes = [StageSteps(first, decay, second) for second in scales]
    found = means(problem, schedule, steps, sizes, own_loss(b), "last", replicas)
    k = int(np.argmin(found))
    pair = (first, scales[k])
    return Tuned(sizes[k], pair, inside(pair, scales), float(found[k]))


def inside(chosen: tuple[float, ...], scales: Sequence[float]) -> bool:
    """Whether every scale lies strictly inside the grid. A first stage may have the least scale.

    Where the first objective has little weight, the best first stage makes no step. The least scale
    of the grid is then as good as any smaller one.
    """
    *first, last = chosen
    strictly = min(scales) < last < max(scales)
    return strictly and all(scale < max(scales) for scale in first)


def has_two_stages(schedule: Schedule, steps: int) -> bool:
    """Whether the clock of a run restarts."""
    return schedule.plan(steps).stages > 1


def means(
    problem: LogLinear,
    schedule: Schedule,
    steps: int,
    sizes: Sequence[StepSize],
    judge: Judge | None,
    iterate: Iterate,
    replicas: int,
) -> Array:
    """(sizes,) mean of the judged quantity at the end of the runs that choose step sizes."""
    runs = trajectories(
        problem, schedule, steps=steps, step_size=list(sizes), replicas=replicas, seed=SEED,
        checkpoints=[steps],
    )  # fmt: skip
    judged = (judge or f_lambda(schedule.lam))(runs.losses(problem, iterate)[:, :, -1])
    return np.asarray(judged.mean(axis=1))


def ends(
    problem: LogLinear,
    schedule: Schedule,
    steps: int,
    step: StepSize,
    *,
    iterate: Iterate = "last",
    replicas: int = 256,
) -> Array:
    """(replicas, 2) losses at the end of the reported runs, which have the seed 0."""
    runs = trajectories(
        problem, schedule, steps=steps, step_size=step, replicas=replicas, checkpoints=[steps]
    )
    return runs.losses(problem, iterate)[0, :, -1]


# ---------------------------------------------------------------------- equal compute


def pair_cost() -> float:
    """Cost of a preference gradient in SFT gradients: the median over the measured shapes.

    The value comes from the stored run of :mod:`analysis.fernando2024.costs.llm_resources`: the
    time of a gradient of DPO alone over that of SFT alone, with the reference's log-probabilities
    stored beforehand.
    """
    devices = shown("llm_resources")["devices"]
    ratios = [
        statistics.median(methods["preference-only"]["seconds"])
        / statistics.median(methods["sft-only"]["seconds"])
        for device in devices.values()
        for methods in device["shapes"].values()
        if methods.get("preference-only") and methods.get("sft-only")
    ]
    return float(statistics.median(ratios))


def updates(schedule: Schedule, budget: float, preference: float) -> int:
    """Updates that a budget of SFT gradients pays for.

    Parameters
    ----------
    schedule
        The schedule that spends the budget.
    budget
        Budget in SFT gradients.
    preference
        Cost of a preference gradient. An update of MAXRIGHT counts as the larger of the two costs.
    """
    many = 1000
    return max(1, int(budget / schedule.plan(many).cost(1.0, preference).mean()))
