"""What every candidate says of every pair of the grid, stored, and the truth beside it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.fernando2024.forecast import grid
from tradeoff import study, tiny
from tradeoff.convex.solve import minimise
from tradeoff.convex.text import text_problem
from tradeoff.forecast.candidates import CANDIDATES, STACKED
from tradeoff.forecast.lab import Effort, Lab
from tradeoff.forecast.networks import TaskSubject
from tradeoff.forecast.quantities import LAMBDAS, LOSSES, MIXES, NAMES, assemble
from tradeoff.forecast.stack import Measured
from tradeoff.llm import models, pooled
from tradeoff.llm.config import ModelConfig

Array = NDArray[np.float64]
WORDS, POOLED, WORD_ROWS, WORD_WIDTH = "words", "pooled", 200, 64
"""Convex problems on responses, as in `tradeoff analyse`: hashed words, which read no model, and
averaged states of the model (`tradeoff analyse --model`)."""
WORD_RADII = (10.0, 40.0)
EARLY = "early"
CONTROLS = {"constant": (), EARLY: (EARLY,)}
"""Candidates of each control: none is the constant guess."""


def measure(configuration: Mapping[str, Any]) -> pd.DataFrame:
    """One row for each variant of each candidate, with its cost as a share of a run's."""
    which, pair, seed = (configuration[name] for name in ("which", "pair", "seed"))
    form = grid.FORMS[which]
    subject = TaskSubject(grid.task(which, pair), form.rate)
    lab = Lab(subject, Effort.of(form.updates, form.batch), seed)
    rows = []
    for name, candidate in CANDIDATES.items():
        began = time.process_time()
        values = candidate.predict(lab)
        start = lab.started if "start" in candidate.uses else lab.base
        about = {
            "candidate": name,
            "cost": lab.cost(*candidate.uses),
            "cpu_seconds": time.process_time() - began,
        }
        rows += [about | _row(start, k, value) for k, value in enumerate(values)]
    for name in (WORDS, POOLED):
        about = {"candidate": name, "cost": 0.0, "cpu_seconds": 0.0}
        found = responses(which, pair, name)
        rows += [about | _row(start, k, value) for k, (start, value) in enumerate(found)]
    base = dict(zip(("base_sft", "base_preference"), lab.base, strict=True))
    uses = {use for name in STACKED for use in CANDIDATES[name].uses}
    return pd.DataFrame(rows).assign(total_cost=lab.cost(*sorted(uses)), **base)


def _row(start: Array, variant: int, values: Array) -> dict[str, Any]:
    named = {f"q{k}": value for k, value in enumerate(values)}
    return {"variant": variant, "start_sft": start[0], "start_preference": start[1], **named}


def responses(which: str, pair: str, name: str) -> list[tuple[Array, Array]]:
    """Losses of the untrained policy and the Q numbers of a convex problem on responses."""
    data = grid.task(which, pair).data
    some = data.sft_train[:WORD_ROWS], data.preference_train[:WORD_ROWS]
    features = None if name == WORDS else states(which, pooled.responses(*some))
    found = []
    for radius in WORD_RADII:
        problem = text_problem(
            *some,
            radius=radius,
            features=features,
            n_features=WORD_WIDTH,
            pool=[str(row.chosen) for row in data.preference_train[:WORD_ROWS]],
        )
        ends = [minimise(problem, lam, tolerance=1e-5).losses for lam in (1e-3, 1 - 1e-3)]
        mixes = np.stack([minimise(problem, lam, tolerance=1e-5).losses for lam in LAMBDAS])
        # A long second stage forgets the first: the end is that of its objective alone (T3).
        values = assemble(mixes, np.stack(ends), np.stack(ends[::-1]))
        found.append((problem.losses(np.zeros(problem.dimension)), values))
    return found


def states(which: str, texts: Sequence[str]) -> pooled.PooledStates:
    """Features of responses from the base model."""
    place = str(tiny.folder(grid.FORMS[which].model, progress=False))
    loaded = models.load(ModelConfig(path=place))
    return pooled.PooledStates(*loaded, texts, folder=grid.FOLDER / "states")


def configurations(which: str) -> list[dict[str, Any]]:
    """A measurement of every pair with every seed."""
    form = grid.FORMS[which]
    return [
        {"which": which, "pair": pair, "seed": seed}
        for seed in range(form.seeds)
        for pair in form.pairs
    ]


def run(which: str, *, fresh: bool = False, progress: bool = False) -> pd.DataFrame:
    """All measurements, or those of fresh pairs; computes what is not stored."""
    folder = grid.FOLDER / f"{which}-measured"
    laid = configurations(which)
    if fresh:
        laid = [{"which": which, "pair": pair, "seed": 0} for pair in grid.FORMS[which].fresh]
    return study.run(measure, laid, folder, backend="sequential", progress=progress)


def examples(measured: pd.DataFrame, runs: pd.DataFrame) -> list[Measured]:
    """What candidates and controls say, and the truth, of each pair and seed."""
    last = runs.groupby("run").last()
    found = []
    for (pair, seed), rows in measured.groupby(["pair", "seed"], sort=False):
        own = last[(last["pair"] == pair) & (last["seed"] == seed)].set_index("name")
        if not set(MIXES) <= set(own.index):
            continue
        every = runs[(runs["pair"] == pair) & (runs["seed"] == seed)]
        start = every[every["step"] == 0][list(LOSSES)].iloc[0].to_numpy(dtype=float)
        variants, starts = {}, {}
        for name, part in rows.groupby("candidate", sort=False):
            said = part[[f"q{k}" for k in range(len(NAMES))]]
            variants[str(name)] = said.to_numpy(dtype=float)
            first = part[["start_sft", "start_preference"]].iloc[0]
            starts[str(name)] = first.to_numpy(dtype=float)
        base = rows[["base_sft", "base_preference"]].iloc[0].to_numpy(dtype=float)
        variants[EARLY], starts[EARLY] = early(own)[None], start
        found.append(Measured(str(pair), variants, starts, base, truth(own, every)))
    return found


def truth(last: pd.DataFrame, every: pd.DataFrame) -> Array:
    """The Q numbers as the runs had them, NaN for runs that are not there."""
    stages = {"sft stage": "sft-dpo", "preference stage": "dpo-sft"}
    found = []
    for plan, loss in NAMES:
        if plan in last.index:
            found.append(last.loc[plan, loss])
            continue
        rows = every[every["name"] == stages.get(plan)]
        found.append(rows[loss].iloc[1] if len(rows) else np.nan)
    return np.array(found, dtype=float)


def early(last: pd.DataFrame) -> Array:
    """The control: what Mix had reached after a tenth of the run, in place of every number."""
    mixes = last.loc[[f"early {name}" for name in MIXES], list(LOSSES)].to_numpy(dtype=float)
    ends = np.stack([mixes[0], mixes[-1]])
    return assemble(mixes, ends, ends[::-1])
