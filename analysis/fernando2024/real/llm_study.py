"""The common experiment of the figures on real text: one base model, many post-trainings.

Every run starts from the base model and has the same budget, counted in operations. Every method
has its own step sizes, chosen on seeds and rows that are not reported. Results are stored run by
run through :mod:`tradeoff.study`. Where the text is absent, stored results are shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from joblib import cpu_count

from analysis.fernando2024 import methods
from analysis.fernando2024.methods import METHODS, finals, looks
from analysis.fernando2024.real import llm_base, llm_runs, llm_text, llm_tuning
from analysis.fernando2024.real.llm_scales import SCALES
from analysis.fernando2024.real.llm_tuning import Found
from tradeoff import study
from tradeoff.schedules import Alright, Rounds, Schedule, Sequential, from_dict
from tradeoff.scores import weighted_loss
from tradeoff.study.engines import few_threads

JOBS = 8
"""Number of runs at a time, with one thread each."""
LOSSES = ["sft_loss", "preference_loss"]
PROBES = llm_runs.PROBES
LAM = 0.5
"""Weight at which step sizes are chosen, and weight of the figures that show one weight."""
SPECIALIST, TUNING, REFERENCE = 10_000, 20_000, 30_000
"""First seeds of specialists, of the choice of step sizes, and of references."""
schedule = partial(methods.schedule, samples=llm_runs.PROBES)


def files(scale: str) -> list[Path]:
    """The files that a scale reads."""
    size = SCALES[scale]
    return [*llm_text.files(size.text), *llm_base.files(size.base)]


# ---------------------------------------------------------------------- what a run is


def configuration(
    scale: str, rule: Schedule, seed: int, rates: Sequence[float], **changes: Any
) -> dict[str, Any]:
    """One run at the study's budget.

    Parameters
    ----------
    rates
        One step size, or one for updates on demonstrations and one for updates on pairs.
    **changes
        Changes of the configuration, such as ``updates`` or ``reference``.
    """
    size, adaptive = SCALES[scale], looks(rule)
    planned = isinstance(rule, Sequential | Rounds)
    c: dict[str, Any] = {
        "base": asdict(size.base),
        "text": size.text,
        "schedule": rule.to_dict(),
        "seed": seed,
        "rate": rates[0],
        "preference_rate": rates[1] if len(rates) > 1 else None,
        "batch": size.batch,
        "marks": size.marks,
        "evaluated": size.evaluated,
        "rows": "test",
        "updates": updates(scale, rule),
        "budget": None if planned else {"total": size.budget, "pair": pair_cost(scale)},
        **changes,
    }
    if "reference" not in c:
        c["reference"] = reference(scale, "sft")
    if "optima" not in c:
        c["optima"] = list(optima(scale)) if adaptive else [0.0, 0.0]
    return c


def seeded(
    scale: str, method: str, rule: Schedule, seeds: int, **changes: Any
) -> list[dict[str, Any]]:
    """Runs of a method with its tuned step sizes, on the first seeds."""
    own = rates(scale, method)
    return [configuration(scale, rule, seed, own, **changes) for seed in range(seeds)]


def run(scale: str, configurations: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Trajectories of all runs. Runs that are not stored are computed.

    The columns ``method``, ``lam``, ``mark`` (number of the evaluation in its run) and ``spent``
    (share of the budget) are added.
    """
    size = SCALES[scale]
    with few_threads(1):
        llm_base.folder(size.base)
    fast, cuda = scale == "fast", size.base.device == "cuda"
    jobs = 1 if fast or cuda else min(JOBS, cpu_count())
    table = study.run(
        llm_runs.post_train,
        configurations,
        llm_base.FOLDER / scale,
        backend="sequential" if jobs == 1 else "loky",
        jobs=jobs,
        progress=not fast,
        depends=files(scale),
    )
    budget = llm_runs.Budget(size.budget, pair_cost(scale), size.batch)
    names = dict(enumerate(key(from_dict(c["schedule"])) for c in configurations))
    return table.rename(columns={"schedule.lam": "lam"}).assign(
        method=table["run"].map(names),
        mark=table.groupby("run").cumcount(),
        spent=budget.spent(table) / size.budget,
    )


def key(rule: Schedule) -> str:
    """Key of a method; for rounds it includes their number."""
    return f"{rule.key}-{rule.rounds}" if isinstance(rule, Rounds) else rule.key


def pair_cost(scale: str) -> float:
    """Cost of an update on pairs, in updates on demonstrations."""
    return llm_runs.pair_cost(SCALES[scale].text, SCALES[scale].base)


def updates(scale: str, rule: Schedule) -> int:
    """Updates of a schedule with planned stages; of others, the largest possible number."""
    size, pair = SCALES[scale], pair_cost(scale)
    if isinstance(rule, Sequential | Rounds):
        return llm_runs.updates_for(size.budget, llm_runs.per_update(rule, pair), size.marks)
    return math.ceil(size.budget / min(1.0, pair))


# ---------------------------------------------------------------------- step sizes


def rates(scale: str, method: str) -> tuple[float, ...]:
    """Step sizes of a method. All numbers of rounds share one step size."""
    return tuned(scale, "rounds" if method.startswith("rounds") else method).rates


@cache
def tuned(scale: str, method: str) -> Found:
    """Search the grid for a method, by its loss at weight 1/2 on validation rows."""
    size = SCALES[scale]
    rule, weight, start = _searched(scale, method)
    seeds = range(TUNING, TUNING + size.tuning)
    changes: dict[str, Any] = {"marks": 1, "rows": "validation"}
    if method == "sft-only":
        changes["reference"] = llm_runs.BASE

    def losses(points: Sequence[tuple[float, ...]]) -> list[float]:
        runs = [configuration(scale, rule, s, p, **changes) for p in points for s in seeds]
        last = run(scale, runs).groupby("run").tail(1)
        found = weighted_loss(last[LOSSES], weight)
        found[last["diverged_at"].notna()] = np.inf
        return list(found.reshape(len(points), len(seeds)).mean(axis=1))

    return llm_tuning.search(losses, list(size.grid), start)


def _searched(scale: str, method: str) -> tuple[Schedule, float, tuple[float, ...]]:
    """Schedule, weight of the loss, and first guess of a search."""
    grid = SCALES[scale].grid
    if method == "sft-only":
        return Alright(lam=0.0), 0.0, (SCALES[scale].guess,)
    sft = rates(scale, "sft-only")
    if method == "preference-only":
        return Alright(lam=1.0), 1.0, sft
    each = (*sft, *rates(scale, "preference-only"))
    if method == "rounds":
        middle = SCALES[scale].rounds[len(SCALES[scale].rounds) // 2]
        return Rounds(lam=LAM, rounds=middle), LAM, rates(scale, "sft-dpo")
    if method == "sft-dpo":  # Large steps would undo SFT.
        each = (each[0], grid[max(0, grid.index(each[1]) - 2)])
    rule = schedule(method, LAM)
    return rule, LAM, each if isinstance(rule, Sequential) else sft


# ---------------------------------------------------------------------- what runs are compared with


@cache
def reference(scale: str, responses: str) -> str:
    """Name of the model trained by SFT on "sft" demonstrations or on "chosen" responses."""
    size, rule = SCALES[scale], Alright(lam=0.0)
    c = configuration(
        scale, rule, REFERENCE, rates(scale, "sft-only"), reference=llm_runs.BASE, optima=[0.0, 0.0]
    )
    with few_threads(1):
        llm_base.folder(size.base)
        return llm_runs.reference(c | {"responses": responses})


@cache
def specialists(scale: str, objective: str, compared: str = "sft") -> pd.DataFrame:
    """Runs that spend everything on one objective: ends, starts and training losses, by seed."""
    size = SCALES[scale]
    rule, name = Alright(lam=float(objective == "preference")), f"{objective}-only"
    folder = compared if compared == llm_runs.BASE else reference(scale, compared)
    count = size.specialists if compared == "sft" else size.fewest
    runs = [
        configuration(scale, rule, seed, rates(scale, name), measure=objective, reference=folder)
        for seed in range(SPECIALIST, SPECIALIST + count)
    ]
    return run(scale, runs)


def optima(scale: str) -> tuple[float, float]:
    """Mean final training losses (SFT, preference) of the specialists, each in its objective."""
    sft, preference = (
        finals(specialists(scale, name))["optimum"].mean() for name in ("sft", "preference")
    )
    return float(sft), float(preference)


def least(scale: str, compared: str = "sft") -> tuple[np.ndarray, np.ndarray]:
    """Final held-out losses of the specialists, each in its objective, by seed."""
    sft = finals(specialists(scale, "sft"))["sft_loss"].to_numpy()
    pairs = finals(specialists(scale, "preference", compared))["preference_loss"].to_numpy()
    return sft, pairs


def ideal(scale: str, compared: str = "sft") -> tuple[float, float]:
    """The ideal point: mean held-out losses of the specialists, each in its objective."""
    sft, pairs = least(scale, compared)
    return float(sft.mean()), float(pairs.mean())


def start(scale: str, compared: str = "sft") -> tuple[float, float]:
    """Held-out losses of the base model."""
    first = specialists(scale, "preference", compared).iloc[0]
    return float(first["sft_loss"]), float(first["preference_loss"])


# ---------------------------------------------------------------------- what figures share


def comparison(scale: str) -> list[dict[str, Any]]:
    """Configurations of every method at every weight and seed, and of rounds at weight 1/2."""
    size = SCALES[scale]
    rules = [(m, schedule(m, lam)) for m in METHODS for lam in size.lams]
    rules += [("rounds", Rounds(lam=LAM, rounds=k)) for k in size.rounds]
    return [
        c
        for method, rule in rules
        for c in seeded(
            scale,
            method,
            rule,
            size.seeds if rule.lam == LAM and method in METHODS else size.few,
        )
    ]
