"""The runs of a board: each tunes its steps on some draws and is scored on others."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tradeoff.arena.contenders import look_cost
from tradeoff.arena.instances import instance, law_of, problem_of
from tradeoff.arena.matching import Match, matched
from tradeoff.arena.measures import measures
from tradeoff.arena.scenarios import is_scenario, scenario
from tradeoff.convex import LogLinear, StepSize, trajectories
from tradeoff.convex.stage_steps import StageSteps
from tradeoff.methods import Method, restored
from tradeoff.scores import weighted_loss

SCALES = tuple(2.0**k for k in range(-9, 6, 2))
"""The grid of first steps, the same for all methods."""
DECAY = 0.5
"""Steps fall with the square root of the clock."""
TUNING_SEED, TUNING_REPLICAS = 1, 8
"""Draws on which steps are chosen; those that score have the seed 0."""

AT_ONCE = 8192
"""Runs that are simulated together, so that they stay in the processor's cache."""

Step = tuple[float, float]
Array = NDArray[np.float64]


def configuration(
    method: Method, name: str, problem: str, lam: float, budget: float, replicas: int,
    match: Match = "none",
) -> dict[str, Any]:  # fmt: skip
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
    match
        Terms on which preference losses are compared, see :mod:`tradeoff.arena.matching`.
    """
    at = matched(method, problem, lam, match)
    rows = instance(problem).rows
    return {
        **({"rows": rows} if rows else {}),
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
        One for each: a row a replica with sft_loss, preference_loss, the same of the law where it
        is known, third measures, the skills of a scenario, the first step of the first and of
        later stages, whether the best step is the grid's least or largest, and cpu_seconds, a
        cell's share of the processor time of the call.
    """
    began, first = time.process_time(), configurations[0]
    name, steps = str(first["problem"]), int(first["steps"])
    problem = problem_of(name)
    methods = [restored(each["method"]) for each in configurations]
    lams = [float(each["lam"]) for each in configurations]
    chosen = tuned(problem, methods, steps, lams)
    found = []
    for some in _batched(range(len(methods)), max(1, AT_ONCE // int(first["replicas"]))):
        ends = trajectories(
            problem, [methods[k] for k in some], step_size=[_size(chosen[k]) for k in some],
            paired=True, steps=steps, replicas=int(first["replicas"]), checkpoints=[steps],
            start=problem.reference,
        ).last[:, :, -1]  # fmt: skip
        for k, theta in zip(some, ends, strict=True):
            about = _about(chosen[k], has_stages(methods[k], steps))
            found.append(_measured(name, theta).assign(**about))
    cost = (time.process_time() - began) / len(found)
    return [each.assign(cpu_seconds=cost) for each in found]


def tuned(
    problem: LogLinear, methods: Sequence[Method], steps: int, lams: Sequence[float]
) -> list[Step]:
    """First steps of the first and of later stages with the least mean f_lambda at the end.

    Parameters
    ----------
    problem, methods, steps
        What runs, and for how many updates.
    lams
        Weight that is asked of each method, of the losses that are scored.
    """
    single = [k for k, method in enumerate(methods) if not has_stages(method, steps)]
    staged = [k for k in range(len(methods)) if k not in single]
    found: dict[int, Step] = {}
    same: list[Step] = [(scale, scale) for scale in SCALES]
    pairs: list[Step] = [(first, later) for first in SCALES for later in SCALES]
    for members, grid in ((single, same), (staged, pairs)):
        for some in _batched(members, max(1, AT_ONCE // (len(grid) * TUNING_REPLICAS))):
            asked = np.array([lams[k] for k in some])
            judged = _judged(problem, [methods[k] for k in some], steps, grid, asked)
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
    problem: LogLinear, methods: Sequence[Method], steps: int, grid: Sequence[Step], lams: Array
) -> Array:
    """(methods, grid) mean f_lambda at the end of the runs that tune."""
    runs = trajectories(
        problem, methods, steps=steps, step_size=[_size(step) for step in grid],
        replicas=TUNING_REPLICAS, seed=TUNING_SEED, checkpoints=[steps], start=problem.reference,
    )  # fmt: skip
    losses = runs.losses(problem)[:, :, -1].reshape(len(methods), len(grid), -1, 2)
    return np.asarray(weighted_loss(losses, lams[:, None, None]).mean(axis=-1))


def _size(step: Step) -> StepSize:
    first, second = step
    return StepSize(first, DECAY) if first == second else StageSteps(first, DECAY, second)


def _measured(name: str, theta: Array) -> pd.DataFrame:
    """What the ends (R, d) of the runs on an instance are."""
    problem, known = problem_of(name), law_of(name)
    found: dict[str, Any] = {"replica": np.arange(len(theta))}
    kinds = {"": problem.losses(theta)}
    if known is not None:
        kinds["law_"] = known.losses(theta)
    for kind, losses in kinds.items():
        found |= {f"{kind}sft_loss": losses[:, 0], f"{kind}preference_loss": losses[:, 1]}
    skills = scenario(name).measures(theta) if is_scenario(name) else {}
    return pd.DataFrame({**found, **measures(problem, theta), **skills})


def _about(step: Step, staged: bool) -> dict[str, Any]:
    """What is kept of the steps of a cell."""
    return {"step": step[0], "later_step": step[1], "at_edge": at_edge(step, staged)}
