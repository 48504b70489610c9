"""The runs of a board of networks: each tunes its learning rates, and is scored on other rows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tradeoff.arena.contenders import look_cost
from tradeoff.arena.network_measures import network_measures
from tradeoff.arena.network_scenarios import network_scenario
from tradeoff.arena.networks import NetworkProblem, network, task_of
from tradeoff.arena.runs import has_stages
from tradeoff.arena.scenarios import is_scenario
from tradeoff.methods import Method, restored
from tradeoff.networks.tasks import Params, Task
from tradeoff.networks.train import Ensemble, Run, train
from tradeoff.schedules import Alright
from tradeoff.scores import weighted_loss

TUNING_SEED = 10_000
"""First seed of the runs that choose rates; those that score begin at 0."""
OPTIMUM_SEED, LONGER = 20_000, 4
"""Seed of the runs that estimate the least training losses, and how much longer these are."""
WIDER = 4
"""How much larger the batches of SFT specialists are."""
LOSSES = ("sft_loss", "preference_loss")
KEPT = (*LOSSES, *(f"{loss}_train" for loss in LOSSES), "preference_accuracy")

Rates = tuple[float, float]
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
        Name of a problem of networks.
    lam
        Weight of the preference objective.
    budget
        Cost of a run in gradients of a batch of demonstrations; looks at losses count as well.
    replicas
        Seeds that score.
    """
    at, place = method.at(lam), network(problem)
    pair, response = place.pair(), place.response() if place.response else None
    each, beside = place.costs(at)
    looks = look_cost(at) * (1 + pair) / 2 / place.batch + beside / each
    return {
        "name": name,
        "method": at.to_dict(),
        "problem": problem,
        "lam": lam,
        "budget": budget,
        "replicas": replicas,
        "steps": at.updates(
            budget / each, pair=pair, looks=looks, batch=place.batch, response=response
        ),
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
        One for each: a row a replica with held-out sft_loss and preference_loss, the same on
        training rows (``rows_``), both before training (``start_``),
        preference_accuracy, diverged, third measures
        (:func:`tradeoff.arena.network_measures.network_measures`), the skills of a scenario, the
        rates of the first and of later stages, whether the best rate is the grid's least or
        largest, and cpu_seconds, a cell's share of the processor time of the call.
    """
    first = configurations[0]
    name, steps, replicas = str(first["problem"]), int(first["steps"]), int(first["replicas"])
    known = specialists(name, replicas, float(first["budget"]))
    skilled = network_scenario(name) if is_scenario(name) else None
    began = time.process_time()
    methods = [restored(each["method"]) for each in configurations]
    lams = np.array([float(each["lam"]) for each in configurations])
    chosen = tuned(name, methods, steps, lams)
    runs = [(k, seed) for k in range(len(methods)) for seed in range(replicas)]
    done = _trained(name, task_of(name), [(methods[k], s, chosen[k]) for k, s in runs], steps)
    table = _ends(done).assign(
        **_third(name, done, known), **(skilled.measures(done.params) if skilled else {})
    )
    cost = (time.process_time() - began) / len(methods)
    return [
        table.iloc[k * replicas : (k + 1) * replicas].reset_index(drop=True).assign(
            replica=np.arange(replicas), step=chosen[k][0], later_step=chosen[k][1],
            at_edge=_at_edge(network(name), chosen[k], has_stages(methods[k], steps)),
            cpu_seconds=cost,
        )
        for k in range(len(methods))
    ]  # fmt: skip


def tuned(name: str, methods: Sequence[Method], steps: int, lams: Array) -> list[Rates]:
    """Rates of the first and of later stages with the least mean weighted loss at the end.

    That is the loss on held-out rows that do not score, under seeds that do not score.

    Parameters
    ----------
    name
        Name of a problem of networks.
    methods, steps, lams
        What runs, for how many updates, and the weight that is asked of each method.
    """
    grid, seeds = network(name).rates, network(name).tuning_seeds
    tried: list[tuple[int, Rates]] = []
    for k, method in enumerate(methods):
        later = grid if has_stages(method, steps) else None
        tried += [(k, (a, b)) for a in grid for b in (later or (a,))]
    runs = [(methods[k], TUNING_SEED + seed, rates) for k, rates in tried for seed in range(seeds)]
    ends = _ends(_trained(name, task_of(name, "validation"), runs, steps))
    asked = np.repeat(lams[[k for k, _ in tried]], seeds)
    losses = weighted_loss(ends[list(LOSSES)].to_numpy(), asked)
    judged = np.where(ends["diverged"], np.inf, losses).reshape(len(tried), -1).mean(axis=1)
    best: dict[int, tuple[float, Rates]] = {}
    for (k, rates), loss in zip(tried, judged, strict=True):
        if k not in best or loss < best[k][0]:
            best[k] = float(loss), rates
    return [best[k][1] for k in range(len(methods))]


@cache
def least_losses(name: str) -> tuple[float, float]:
    """Least training losses that runs on one objective reach, from which gaps are measured.

    They take four times the budget, at each rate of the grid. Their cost counts for no method.
    """
    place, task = network(name), task_of(name)
    found = []
    for objective in (0, 1):
        steps = round(LONGER * place.budget / (place.pair() if objective else 1.0))
        runs = [(Method(Alright(lam=float(objective))), OPTIMUM_SEED, (a, a)) for a in place.rates]
        ends = _ends(_train(place, task, runs, steps, (0.0, 0.0)))
        found.append(float(ends[f"rows_{LOSSES[objective]}"].min()))
    return found[0], found[1]


@cache
def specialists(name: str, replicas: int, budget: float) -> Params:
    """Policies of SFT alone at the cost of a run, one for each replica, stacked.

    Flips are counted against them. They share a replica's initial weights. Their batches are larger
    than those of runs and their updates fewer, so that a board costs little more, and their rate is
    that of the least loss on held-out rows that do not score. Their cost counts for no method.

    Parameters
    ----------
    name
        Name of a problem of networks.
    replicas
        Seeds that score.
    budget
        Cost of a run in gradients of a batch of demonstrations.
    """
    place, method = network(name), Method(Alright(lam=0.0))
    seeds = [*(TUNING_SEED + seed for seed in range(place.tuning_seeds)), *range(replicas)]
    runs = [(method, seed, (rate, rate)) for rate in place.rates for seed in seeds]
    steps = max(1, round(budget / WIDER))
    wide = replace(place, batch=WIDER * place.batch)
    done = _train(wide, task_of(name, "validation"), runs, steps, (0.0, 0.0))
    ends = _ends(done)
    losses = np.where(ends["diverged"], np.inf, ends["sft_loss"]).reshape(-1, len(seeds))
    best = int(losses[:, : place.tuning_seeds].mean(axis=1).argmin())
    last = (best + 1) * len(seeds)
    return {key: value[last - replicas : last].clone() for key, value in done.params.items()}


def _third(name: str, done: Ensemble, known: Params) -> dict[str, Array]:
    """Third measures of runs whose replicas vary fastest."""
    task, place = task_of(name), network(name)
    base = task.initial([run.seed for run in done.runs])
    return network_measures(task, done.params, base, known, place.documents)


def _trained(
    name: str, task: Task, runs: Sequence[tuple[Method, int, Rates]], steps: int
) -> Ensemble:
    """Runs of methods with seeds and rates, as one ensemble."""
    needed = any(
        method.schedule.plan(steps).watched or method.gradient.above_optima for method, _, _ in runs
    )
    return _train(network(name), task, runs, steps, least_losses(name) if needed else (0.0, 0.0))


def _train(
    place: NetworkProblem,
    task: Task,
    runs: Sequence[tuple[Method, int, Rates]],
    steps: int,
    optima: tuple[float, float],
) -> Ensemble:
    stages = [method.schedule.plan(steps).stages for method, _, _ in runs]
    rates = [
        [first, *[later] * (max(stages) - 1)] if max(stages) > 1 else [first]
        for _, _, (first, later) in runs
    ]
    return train(
        task, [Run(method, seed) for method, seed, _ in runs], steps=steps, learning_rate=rates,
        batch_size=place.batch, decay="linear", clip=place.clip, evaluate_every=steps,
        optima=np.array(optima),
    )  # fmt: skip


def _ends(done: Ensemble) -> pd.DataFrame:
    """What each run ended with, and began with, one row a run."""
    table = done.table
    last = table[table["step"] == table["step"].max()].reset_index(drop=True)
    start = table[table["step"] == 0].reset_index(drop=True)
    named = {f"{loss}_train": f"rows_{loss}" for loss in LOSSES}
    found = last[list(KEPT)].rename(columns=named)
    begun = {f"start_{loss}": start[loss] for loss in LOSSES}
    begun |= {f"start_rows_{loss}": start[f"{loss}_train"] for loss in LOSSES}
    return found.assign(**begun, diverged=last["diverged_at"].notna())


def _at_edge(place: NetworkProblem, rates: Rates, staged: bool) -> bool:
    """Whether a rate is the grid's least or largest; a first stage may have the least."""
    ends = place.rates[0], place.rates[-1]
    return rates[1] in ends or (staged and rates[0] == ends[1])
