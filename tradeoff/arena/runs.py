"""The runs of a board: each tunes its steps on some draws and is scored on others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tradeoff.arena.contenders import look_cost
from tradeoff.arena.instances import instance
from tradeoff.convex import LogLinear, StepSize, trajectories
from tradeoff.convex.simulate import paired_trajectories
from tradeoff.convex.stage_steps import StageSteps
from tradeoff.methods import Method, restored
from tradeoff.scores import weighted_loss

SCALES = tuple(2.0**k for k in range(-9, 6, 2))
"""The grid of first steps, the same for all methods."""
DECAY = 0.5
"""Steps fall with the square root of the clock."""
TUNING_SEED, TUNING_REPLICAS = 1, 16
"""Draws on which steps are chosen; those that score have the seed 0."""

AT_ONCE = 8192
"""Runs that are simulated together, so that they stay in the processor's cache."""

Step = tuple[float, float]
Array = NDArray[np.float64]


def configuration(
    method: Method, name: str, problem: str, lam: float, budget: float, replicas: int
) -> dict[str, Any]:
    """What a study stores a run under.

    Parameters
    ----------
    method, name
        The method, and what it is called on the board.
    problem
        Name of an instance.
    lam
        Weight of the preference objective.
    budget
        Gradients that each run may cost; looks at losses count as well.
    replicas
        Runs that score.
    """
    at = method.at(lam)
    return {
        "name": name,
        "method": at.to_dict(),
        "problem": problem,
        "lam": lam,
        "budget": budget,
        "replicas": replicas,
        "steps": at.updates(budget, looks=look_cost(at)),
    }


def run(configurations: Sequence[Mapping[str, Any]]) -> list[pd.DataFrame]:
    """Tune and score some methods on one problem, with equal numbers of updates.

    Parameters
    ----------
    configurations
        Of :func:`configuration`; they agree in problem, steps and replicas.

    Returns
    -------
    list of DataFrame
        One for each: a row a replica with sft_loss, preference_loss, the first step of the first
        and of later stages, and whether the best step is the grid's least or largest.
    """
    first = configurations[0]
    problem, steps = _problem(first["problem"]), int(first["steps"])
    methods = [restored(each["method"]) for each in configurations]
    chosen = tuned(problem, methods, steps)
    found = []
    for some in _batched(range(len(methods)), max(1, AT_ONCE // int(first["replicas"]))):
        ends = paired_trajectories(
            problem, [methods[k] for k in some], [_size(chosen[k]) for k in some],
            steps=steps, replicas=int(first["replicas"]), checkpoints=[steps],
        ).losses(problem)[:, :, -1]  # fmt: skip
        for k, losses in zip(some, ends, strict=True):
            found.append(_scored(losses, chosen[k], has_stages(methods[k], steps)))
    return found


def tuned(problem: LogLinear, methods: Sequence[Method], steps: int) -> list[Step]:
    """First steps of the first and of later stages with the least mean f_lambda at the end.

    Parameters
    ----------
    problem, methods, steps
        What runs, and for how many updates.
    """
    single = [k for k, method in enumerate(methods) if not has_stages(method, steps)]
    staged = [k for k in range(len(methods)) if k not in single]
    found: dict[int, Step] = {}
    same: list[Step] = [(scale, scale) for scale in SCALES]
    pairs: list[Step] = [(first, later) for first in SCALES for later in SCALES]
    for members, grid in ((single, same), (staged, pairs)):
        for some in _batched(members, max(1, AT_ONCE // (len(grid) * TUNING_REPLICAS))):
            judged = _judged(problem, [methods[k] for k in some], steps, grid)
            best = np.argmin(judged, axis=1)
            found |= {k: grid[i] for k, i in zip(some, best.tolist(), strict=True)}
    return [found[k] for k in range(len(methods))]


def has_stages(method: Method, steps: int) -> bool:
    """Whether the clock of a run restarts, so that later stages have a step of their own."""
    return method.schedule.plan(steps).stages > 1


def at_edge(step: Step, staged: bool) -> bool:
    """Whether a step is the grid's least or largest.

    A first stage may have the least step: where its objective has little weight, the best is to
    skip it.
    """
    ends = (SCALES[0], SCALES[-1])
    return step[1] in ends or (staged and step[0] == SCALES[-1])


def _batched(items: Sequence[int], size: int) -> list[Sequence[int]]:
    """Parts of at most so many items."""
    return [items[first : first + size] for first in range(0, len(items), size)]


def _judged(
    problem: LogLinear, methods: Sequence[Method], steps: int, grid: Sequence[Step]
) -> Array:
    """(methods, grid) mean f_lambda at the end of the runs that tune."""
    runs = trajectories(
        problem, methods, steps=steps, step_size=[_size(step) for step in grid],
        replicas=TUNING_REPLICAS, seed=TUNING_SEED, checkpoints=[steps],
    )  # fmt: skip
    losses = runs.losses(problem)[:, :, -1].reshape(len(methods), len(grid), -1, 2)
    lams = np.array([method.lam for method in methods])
    return np.asarray(weighted_loss(losses, lams[:, None, None]).mean(axis=-1))


def _size(step: Step) -> StepSize:
    first, second = step
    return StepSize(first, DECAY) if first == second else StageSteps(first, DECAY, second)


def _scored(losses: Array, step: Step, staged: bool) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "replica": np.arange(len(losses)),
            "sft_loss": losses[:, 0],
            "preference_loss": losses[:, 1],
            "step": step[0],
            "later_step": step[1],
            "at_edge": at_edge(step, staged),
        }
    )


@cache
def _problem(name: str) -> LogLinear:
    return instance(name).make()
