"""The shared experiment of the figures on real text: one base model, many joint post-trainings.

Every run starts from the base model and may spend the same cost, counted in operations. Every
method has step sizes of its own, chosen on seeds and rows that do not score. Results are stored
run by run through :mod:`tradeoff.study`. Without the text, what was stored is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import llm_base, llm_runs, llm_text, llm_tuning, methods
from analysis.llm_scales import SCALES
from analysis.llm_tuning import Found
from analysis.methods import METHODS, finals, looks
from tradeoff import study
from tradeoff.schedules import Alright, Rounds, Schedule, Sequential, from_dict
from tradeoff.scores import weighted_loss
from tradeoff.study.engines import few_threads

JOBS = 8
"""Runs at a time, one thread each."""
LOSSES = ["sft_loss", "preference_loss"]
PROBES = llm_runs.PROBES
LAM = 0.5
"""Weight at which step sizes are chosen, and of the figures that show one weight."""
SPECIALIST, TUNING, REFERENCE = 10_000, 20_000, 30_000
"""First seeds of specialists, of the choice of step sizes, and that of references."""
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
        Step size, or those of updates on demonstrations and of updates on pairs.
    **changes
        Of the configuration, such as ``updates`` or ``reference``.
    """
    size, adaptive = SCALES[scale], looks(rule)
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
        **changes,
    }
    if "updates" not in c:
        c["updates"] = updates(scale, rule)
    if "reference" not in c:
        c["reference"] = reference(scale, "sft")
    if "optima" not in c:
        c["optima"] = list(optima(scale)) if adaptive else [0.0, 0.0]
    return c


def run(scale: str, configurations: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Trajectories of all runs; computes what is missing.

    Columns ``method``, ``lam`` and ``spent`` (share of the budget) are added.
    """
    size = SCALES[scale]
    with few_threads(1):
        llm_base.folder(size.base)
    fast, cuda = scale == "fast", size.base.device == "cuda"
    alone = fast or cuda
    table = study.run(
        llm_runs.post_train,
        configurations,
        llm_base.FOLDER / scale,
        backend="sequential" if alone else "loky",
        jobs=1 if alone else JOBS,
        progress=not fast,
        depends=files(scale),
    )
    names = dict(enumerate(label(from_dict(c["schedule"])) for c in configurations))
    return table.rename(columns={"schedule.lam": "lam"}).assign(
        method=table["run"].map(names),
        spent=llm_runs.spent(table, pair_cost(scale), size.batch) / size.budget,
    )


def label(rule: Schedule) -> str:
    """Name of a method: its family, and for rounds how many there are."""
    return rule.label if isinstance(rule, Rounds) else rule.family


def pair_cost(scale: str) -> float:
    """Cost of an update on pairs, in updates on demonstrations."""
    return llm_runs.pair_cost(SCALES[scale].text, SCALES[scale].base)


def updates(scale: str, rule: Schedule) -> int:
    """How many updates of a schedule the budget pays for."""
    size, pair = SCALES[scale], pair_cost(scale)
    each = maxright_cost(scale, rule.lam) if looks(rule) else llm_runs.per_update(rule, pair)
    return llm_runs.updates_for(size.budget, each, size.marks)


@cache
def maxright_cost(scale: str, lam: float) -> float:
    """Mean cost of MAXRIGHT's updates, probes included, in a run on a seed that does not score."""
    rule, pair, size = schedule("MAXRIGHT", lam), pair_cost(scale), SCALES[scale]
    guessed = llm_runs.updates_for(size.budget, 1 - lam + lam * pair, size.marks)
    c = configuration(
        scale, rule, TUNING, rates(scale, "MAXRIGHT"), updates=guessed, marks=1, rows="validation"
    )
    last = finals(run(scale, [c]))
    return float(last["spent"].iloc[0]) * size.budget / guessed


# ---------------------------------------------------------------------- step sizes


def rates(scale: str, method: str) -> tuple[float, ...]:
    """Step sizes of a method; those of rounds are one for all numbers of them."""
    return tuned(scale, "Rounds" if method.startswith("Rounds") else method).rates


@cache
def tuned(scale: str, method: str) -> Found:
    """Search the grid for a method, by its loss at weight 1/2 on validation rows."""
    size = SCALES[scale]
    rule, weight, start = _searched(scale, method)
    pair, seeds = pair_cost(scale), range(TUNING, TUNING + size.tuning)
    changes: dict[str, Any] = {"marks": 1, "rows": "validation"}
    if method == "SFT only":
        changes["reference"] = llm_runs.BASE
    if method == "MAXRIGHT":
        each = 1 - LAM + LAM * pair
        changes["updates"] = llm_runs.updates_for(size.budget, each, size.marks)

    def losses(points: Sequence[tuple[float, ...]]) -> list[float]:
        runs = [configuration(scale, rule, s, p, **changes) for p in points for s in seeds]
        last = run(scale, runs).groupby("run").tail(1)
        found = weighted_loss(last[LOSSES], weight)
        found[last["diverged_at"].notna()] = np.inf
        return list(found.reshape(len(points), len(seeds)).mean(axis=1))

    return llm_tuning.search(losses, list(size.grid), start)


def _searched(scale: str, method: str) -> tuple[Schedule, float, tuple[float, ...]]:
    """Schedule, weight of the loss and first guess of a search."""
    if method == "SFT only":
        return Alright(lam=0.0), 0.0, (SCALES[scale].guess,)
    sft = rates(scale, "SFT only")
    if method == "DPO only":
        return Alright(lam=1.0), 1.0, sft
    each = (*sft, *rates(scale, "DPO only"))
    if method == "Rounds":
        middle = SCALES[scale].rounds[len(SCALES[scale].rounds) // 2]
        return Rounds(lam=LAM, rounds=middle), LAM, rates(scale, "SFT→DPO")
    rule = schedule(method, LAM)
    return rule, LAM, each if isinstance(rule, Sequential) else sft


# ---------------------------------------------------------------------- what runs are compared with


@cache
def reference(scale: str, responses: str) -> str:
    """Name of the model trained by SFT on "sft" demonstrations or on "chosen" responses."""
    size, rule = SCALES[scale], Alright(lam=0.0)
    c = configuration(
        scale, rule, REFERENCE, rates(scale, "SFT only"), reference=llm_runs.BASE, optima=[0.0, 0.0]
    )
    with few_threads(1):
        llm_base.folder(size.base)
        return llm_runs.reference(c | {"responses": responses})


@cache
def specialists(scale: str, objective: str, compared: str = "sft") -> pd.DataFrame:
    """Runs that spend everything on one objective: ends, starts and training losses, by seed."""
    size = SCALES[scale]
    rule, name = (
        (Alright(lam=0.0), "SFT only") if objective == "sft" else (Alright(lam=1.0), "DPO only")
    )
    folder = compared if compared == llm_runs.BASE else reference(scale, compared)
    count = size.specialists if compared == "sft" else size.fewest
    runs = [
        configuration(scale, rule, seed, rates(scale, name), measure=objective, reference=folder)
        for seed in range(SPECIALIST, SPECIALIST + count)
    ]
    return run(scale, runs)


def optima(scale: str) -> tuple[float, float]:
    """Training losses (SFT, preference) that the specialists end with, their means."""
    sft, preference = (
        finals(specialists(scale, name))["optimum"].mean() for name in ("sft", "preference")
    )
    return float(sft), float(preference)


def least(scale: str, compared: str = "sft") -> tuple[np.ndarray, np.ndarray]:
    """Held-out losses of the specialists, each in its own objective, by seed."""
    sft = finals(specialists(scale, "sft"))["sft_loss"].to_numpy()
    pairs = finals(specialists(scale, "preference", compared))["preference_loss"].to_numpy()
    return sft, pairs


def ideal(scale: str, compared: str = "sft") -> tuple[float, float]:
    """The ideal point: mean losses of the specialists, each in its own objective."""
    sft, pairs = least(scale, compared)
    return float(sft.mean()), float(pairs.mean())


def start(scale: str, compared: str = "sft") -> tuple[float, float]:
    """Held-out losses of the base model."""
    first = specialists(scale, "preference", compared).iloc[0]
    return float(first["sft_loss"]), float(first["preference_loss"])


# ---------------------------------------------------------------------- what figures share


def comparison(scale: str) -> list[dict[str, Any]]:
    """Every method at every weight and seed, and rounds at weight 1/2."""
    size = SCALES[scale]
    rules = [(m, schedule(m, lam)) for m in METHODS for lam in size.lams]
    rules += [("Rounds", Rounds(lam=LAM, rounds=k)) for k in size.rounds]
    return [
        configuration(scale, rule, seed, rates(scale, method))
        for method, rule in rules
        for seed in range(size.seeds if rule.lam == LAM and method in METHODS else size.few)
    ]
