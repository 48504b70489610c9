"""The common experiment of the language-model figures: one base model, many short post-trainings.

Every configuration trains the base model at the same cost, with the step sizes that
:mod:`analysis.fernando2024.language.lm_tuning` chose for its method. Results are stored run by run
through :mod:`tradeoff.study`, so figures share runs, and an interrupted study continues where it
stopped.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from joblib import cpu_count
from numpy.typing import NDArray

from analysis.dossier import lookup
from analysis.dossier.stored_results import numbers as stored_numbers
from analysis.fernando2024 import methods
from analysis.fernando2024.language import lm_models
from analysis.fernando2024.language.lm_models import SCALES, LanguageSizes, budget, pair_cost, task
from analysis.fernando2024.stored import PAPER
from tradeoff import study
from tradeoff.errors import InputError
from tradeoff.networks.language_task import LanguageTask
from tradeoff.networks.tasks import Params, one_run
from tradeoff.networks.train import Run
from tradeoff.schedules import Schedule, from_dict
from tradeoff.scores import weighted_loss
from tradeoff.study import addresses

Array = NDArray[np.float64]
TOGETHER, JOBS = 10, 4
"""Number of runs that one call trains as one ensemble, and number of calls at a time."""
FORWARD = 1 / 3
"""Cost of a forward pass in units of a forward and a backward pass."""
ONLY_SFT = "sft-only"
LOSSES = ("sft_loss", "preference_loss")


# ---------------------------------------------------------------------- equal cost


def cost_per_update(
    rule: Schedule, size: LanguageSizes, pair: float, preference_share: float = 0.5
) -> float:
    """Expected cost of an update, in gradients of one batch of demonstrations.

    Parameters
    ----------
    rule
        The schedule. MAXRIGHT's evaluations of its losses count as forward passes. The run that
        gives its SFT optimum is not counted.
    size
        Sizes of the study.
    pair
        Cost of a pair in units of a demonstration.
    preference_share
        Share of the updates in which MAXRIGHT follows the preference objective.
    """
    plan = rule.plan(size.gradients)
    if not plan.watched:
        return float(plan.cost(1.0, pair).mean())
    every = plan.gaps.refresh or math.inf
    looks = plan.gaps.samples / size.batch * FORWARD * (1 + pair) / every
    return 1 + preference_share * (pair - 1) + looks


def updates(scale: str, rule: Schedule, conflict: float, preference_share: float = 0.5) -> int:
    """Number of updates that the budget pays for."""
    each = cost_per_update(rule, SCALES[scale], pair_cost(scale, conflict), preference_share)
    return round(budget(scale, conflict) / each)


# ---------------------------------------------------------------------- step sizes


def setting(key: str, lam: float, conflict: float) -> str:
    """Name of the setting for which step sizes are tuned."""
    return f"{key}, lambda {lam:g}, conflict {conflict:g}"


def tuned(
    scale: str,
    key: str,
    lam: float,
    conflict: float,
    chosen: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Tuned step sizes of both stages, and MAXRIGHT's share of preference updates.

    ``chosen`` are the step sizes of a new search. By default the stored ones are used. The fast
    form of the study has no stored ones.

    Raises
    ------
    InputError
        If the stored results hold no step sizes for this method.
    """
    if scale == "fast" and chosen is None:
        return {"rates": [SCALES[scale].rate] * 2, "preference_share": lam}
    name, known = setting(key, lam, conflict), _tuned() if chosen is None else chosen
    if name not in known:
        raise InputError(
            "no step size was tuned for this method",
            file=lookup.place(PAPER, "lm_rates"),
            value=name,
            remedy="Add it to SETTINGS in analysis/fernando2024/language/lm_tuning.py and run "
            "`python -m analysis lm_rates`.",
        )
    return known[name]


def _tuned() -> dict[str, Any]:
    path = lookup.place(PAPER, "lm_rates")
    return _tuned_in(path) if path.exists() else {}


@cache
def _tuned_in(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = stored_numbers(path).get("tuned", {})
    return found


def sft_rate(scale: str, conflict: float, chosen: Mapping[str, Any] | None = None) -> float:
    """Step size of the models that spend the whole budget on SFT."""
    return float(tuned(scale, ONLY_SFT, 0.0, conflict, chosen)["rates"][0])


# ---------------------------------------------------------------------- runs


def train_batch(configurations: list[dict[str, Any]]) -> list[pd.DataFrame]:
    """Trajectories and final scores of runs that differ only in schedule, rates and seed.

    ``marks`` evaluations are spaced evenly. At each of them the policy responds to ``generated``
    prompts. At the last it responds to all held-out prompts; the names of these columns begin with
    ``final_``. Runs that choose step sizes are evaluated on other rows, without responses.
    ``cpu_seconds`` is a run's share of the processor time of this call, evaluation included.
    """
    began, c = time.process_time(), configurations[0]
    scale, conflict, rate = c["scale"], c["conflict"], c["sft_rate"]
    known = task(scale, conflict, c["beta"], c["generated"], c["part"])
    least = 0.0 if rate is None else lm_models.least_sft_loss(scale, conflict, rate)
    anchor = "base" if c["reference"] == "base" else lm_models.specialist(scale, conflict, rate)
    done = lm_models.fit(
        known,
        scale,
        [Run(from_dict(c["schedule"]), c["seed"]) for c in configurations],
        c["updates"],
        learning_rate=[c["rates"] for c in configurations],
        evaluate_every=max(1, c["updates"] // c["marks"]),
        reference=anchor,
        optima=np.array([least, 0.0]),
    )
    about = ["run", "schedule", "lam", "seed"]
    tables = [rows.drop(columns=about) for _, rows in done.table.groupby("run")]
    if c["part"] == "test":
        scores = known.skills(done.params, SCALES[scale].rows)
        for k, rows in enumerate(tables):
            final = {f"final_{name}": value[k] for name, value in scores.items()}
            text = json.dumps(samples(known, one_run(done.params, k)), ensure_ascii=False)
            tables[k] = rows.assign(**final, samples=text)
    return with_cost(tables, began)


def with_cost(tables: list[pd.DataFrame], began: float) -> list[pd.DataFrame]:
    """Add to each table the run's share of the processor time since ``began``."""
    cost = (time.process_time() - began) / len(tables)
    return [table.assign(cpu_seconds=cost) for table in tables]


def samples(known: LanguageTask, params: Params) -> list[list[str]]:
    """Prompt, demonstration and response of the first held-out prompts, for each kind of asker."""
    rows = sorted(known.data.sft_test[:40], key=lambda row: row.contrary)
    chosen = [*rows[:2], *rows[-2:]]
    written = known.answer(params, [row.prompt for row in chosen])
    return [
        [str(row.prompt), str(row.completion), response]
        for row, response in zip(chosen, written, strict=True)
    ]


schedule = partial(methods.schedule, samples=32)


def configuration(
    scale: str,
    rule: Schedule,
    seed: int,
    *,
    conflict: float = 0.5,
    rates: Sequence[float] | None = None,
    like: str | None = None,
    chosen: Mapping[str, Any] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Configuration of one run at the study's budget; its tuned step sizes are the default.

    ``like`` names another method whose step sizes it uses. For ``chosen`` see :func:`tuned`.
    """
    found = tuned(scale, like or methods.key(rule), rule.lam, conflict, chosen)
    needs = methods.looks(rule) or changes.get("reference", "base") != "base"
    return {
        "scale": scale,
        "schedule": rule.to_dict(),
        "seed": seed,
        "conflict": conflict,
        "updates": updates(scale, rule, conflict, found["preference_share"]),
        "beta": 0.1,
        "reference": "base",
        "sft_rate": sft_rate(scale, conflict, chosen) if needs else None,
        "rates": list(found["rates"] if rates is None else rates),
        "part": "test",
        "marks": 1,
        "generated": 0,
        **changes,
    }


ALIKE = (
    *("scale", "conflict", "updates", "beta", "reference", "sft_rate", "part"),
    *("marks", "generated"),
)


def run(scale: str, configurations: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Trajectories of all runs, with a column ``method``. Runs that are not stored are computed.

    A configuration may occur more than once, if step sizes coincide. It is computed once.
    """
    rates = {(c["conflict"], c["sft_rate"]) for c in configurations if c["sft_rate"] is not None}
    lm_models.prepare(scale, sorted({c["conflict"] for c in configurations}), sorted(rates))
    keys = [addresses.canonical(c) for c in configurations]
    different = dict(zip(keys, configurations, strict=True))
    table = compute(scale, list(different.values()), train_batch, ALIKE)
    if len(different) < len(keys):
        table = _repeated(table, keys)
    return methods.with_methods(table, configurations)


def _repeated(table: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """The runs in the order of the keys. A repeated run has no cost."""
    groups = [rows for _, rows in table.groupby("run")]
    place: dict[str, int] = {}
    parts = []
    for k, key in enumerate(keys):
        again = key in place
        rows = groups[place.setdefault(key, len(place))].assign(run=k)
        parts.append(rows.assign(cpu_seconds=0.0) if again else rows)
    return pd.concat(parts, ignore_index=True)


def compute(
    scale: str,
    configurations: Sequence[Mapping[str, Any]],
    function: Callable[[list[dict[str, Any]]], list[pd.DataFrame]],
    alike: Sequence[str],
) -> pd.DataFrame:
    """Compute runs in processes of one thread each. The fast form uses this process."""
    jobs = 1 if scale == "fast" else min(JOBS, cpu_count())
    return study.run(
        function,
        configurations,
        lm_models.FOLDER / scale / function.__name__,
        backend="sequential" if jobs == 1 else "loky",
        jobs=jobs,
        batch=TOGETHER,
        alike=alike,
        progress=scale != "fast",
    )


# ---------------------------------------------------------------------- what figures share


def seeds(scale: str) -> range:
    """Seeds of a figure, which differ from the seeds of the tuning."""
    return range(SCALES[scale].seeds)


def compared(scale: str, settings: Sequence[tuple[float, float]]) -> pd.DataFrame:
    """Final scores of every method with its tuned step sizes, one row per run.

    Parameters
    ----------
    settings
        Pairs of a level of conflict and a weight lambda.
    """
    runs = [
        configuration(scale, schedule(key, lam), seed, conflict=conflict)
        for conflict, lam in settings
        for key in methods.METHODS
        for seed in seeds(scale)
    ]
    return finals(run(scale, runs))


def finals(table: pd.DataFrame) -> pd.DataFrame:
    """The last row of every run. Scores of generated responses lose their prefix.

    Three columns are added: ``lam``, ``weighted_loss``, and ``spent``, the run's cost as a share of
    the budget.
    """
    last = methods.finals(table)
    own = [name for name in last.columns if f"final_{name}" in last.columns]
    last = last.drop(columns=own).rename(columns=lambda name: name.removeprefix("final_"))
    lam = last["schedule.lam"].to_numpy()
    return last.assign(
        lam=lam,
        weighted_loss=weighted_loss(last[list(LOSSES)].to_numpy(), lam),
        spent=spent(last),
    )


def spent(last: pd.DataFrame) -> Array:
    """(runs,) cost of each run, in units of its budget."""
    scale, levels = str(last["scale"].iloc[0]), last["conflict"].to_numpy()
    pair = np.array([pair_cost(scale, level) for level in levels])
    looks = last["probe_rows"] / SCALES[scale].batch * FORWARD * (1 + pair) / 2
    paid = last["sft_updates"] + pair * last["preference_updates"] + looks
    return np.asarray(paid / [budget(scale, level) for level in levels])


def cost_spent(last: pd.DataFrame) -> dict[str, Any]:
    """Mean, least and largest cost of each method's runs, in units of the budget."""
    groups = last.groupby("method")["spent"]
    return {str(name): {"mean": s.mean(), "least": s.min(), "most": s.max()} for name, s in groups}


def values(table: pd.DataFrame, column: str, by: str) -> Array:
    """(seed, value of `by`) entries of one column, in order, so that differences are paired."""
    return table.pivot(index="seed", columns=by, values=column).to_numpy(dtype=float)


def specialist_scores(scale: str, conflict: float) -> dict[str, Array]:
    """Held-out scores (specialists,) of models that spent the whole budget on SFT."""
    known, rate = task(scale, conflict), sft_rate(scale, conflict)
    shift, found = known.reference(known.initial([0])), []
    for model in lm_models.specialists(scale, conflict, rate):
        scores = known.evaluate(model, shift) | known.skills(model, SCALES[scale].rows)
        found.append({name: float(value[0]) for name, value in scores.items()})
    table = pd.DataFrame(found)
    losses = weighted_loss(table[list(LOSSES)].to_numpy(), 0.5)
    names = [str(name) for name in table.columns if "/" not in str(name)]
    scores = {name: table[name].to_numpy(dtype=float) for name in names}
    return scores | {"weighted_loss": losses}
