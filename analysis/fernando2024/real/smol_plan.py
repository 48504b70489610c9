"""The plan of the study on SmolLM2: its forms, the configuration of a run, and what runs cost.

Nothing here reads stored runs; :mod:`analysis.fernando2024.real.smol_study` runs the plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from analysis.fernando2024.real import smol_methods, smol_rows, smol_runs
from analysis.fernando2024.real.smol_methods import CENTRAL, ENDS, METHODS
from tradeoff.errors import InputError

TUNING, SPECIALIST = 20_000, 10_000
"""First seeds of the choice of step sizes, and of the runs that optima come from."""
SHORTEST = "same prompts"
"""The pair that the times of the plan were taken on."""
BACK = 0.25
"""Step size of pairs after the choice, in units of the best of runs on pairs alone: what follows
SFT must not undo it."""
EXTRAS = ("lambdas", "references", "relearning")
"""Kinds of runs beyond the comparison, see :mod:`smol_extra`."""


@dataclass(frozen=True)
class Form:
    """Size of the study.

    Attributes
    ----------
    model, precision, layout
        See :mod:`smol_runs`.
    pairs
        Of data sets, in this order.
    methods
        In this order within a seed.
    seeds
        Of every method.
    budget
        Of a run, in gradients of a batch of demonstrations; a pair counts as two.
    batch, marks, evaluated, longest
        Rows of an update; evaluations after the first; held-out rows of each set; most tokens.
    grid
        Step sizes.
    extras, few
        Kinds of runs beyond the comparison, and their seeds.
    lams, relearn
        Weights of the sweep; updates on demonstrations after a run.
    second
        What an update of each kind takes here, in CPU seconds, for the plan: one of
        demonstrations, and an evaluation.
    """

    model: str = "smollm2"
    precision: str = "fp32"
    layout: str = "padded"
    pairs: tuple[str, ...] = tuple(smol_rows.PAIRS)
    methods: tuple[str, ...] = (*CENTRAL, *(m for m in METHODS if m not in CENTRAL))
    seeds: int = 3
    budget: float = 96.0
    batch: int = 4
    marks: int = 3
    evaluated: int = 32
    longest: int = 256
    grid: tuple[float, ...] = (2e-4, 5e-4, 1e-3)
    extras: tuple[str, ...] = ()
    few: int = 2
    lams: tuple[float, ...] = (0.01, 0.25, 0.5, 0.75, 0.99)
    relearn: int = 16
    second: tuple[float, float] = (1.5, 17.0)


FORMS = {
    "full": Form(),
    "gpu": Form(
        precision="bf16", seeds=8, batch=16, evaluated=150, longest=512,
        second=(0.15, 1.0),
    ),
    "fast": Form(
        model=smol_runs.RANDOM,
        pairs=(smol_rows.GENERATED,),
        methods=("sft-dpo", "dpo-sft", "alright", "rounds-2"),
        seeds=2,
        budget=6.0,
        batch=2,
        marks=2,
        evaluated=4,
        grid=(1e-3,),
        few=1,
        lams=(0.25, 0.75),
        relearn=4,
        second=(0.1, 0.2),
    ),
}  # fmt: skip


def formed(
    which: str,
    pairs: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    extras: Sequence[str] = (),
) -> Form:
    """A form with some of its parts replaced.

    Raises
    ------
    InputError
        If a name is not known.
    """
    form = FORMS[which]
    known = {"pairs": (*smol_rows.PAIRS, smol_rows.GENERATED), "methods": tuple(METHODS)}
    known["extras"] = EXTRAS
    for field, given in (("pairs", pairs), ("methods", methods), ("extras", extras)):
        for name in given or ():
            if name not in known[field]:
                remedy = f"Use some of: {', '.join(known[field])}."
                raise InputError("unknown name", field=field, value=name, remedy=remedy)
    return replace(
        form,
        pairs=tuple(pairs or form.pairs),
        methods=tuple(methods or form.methods),
        extras=tuple(extras),
    )


def configuration(
    form: Form, pair: str, name: str, seed: int, rates: Sequence[float], **changes: Any
) -> dict[str, Any]:
    """One run of a method, or of one objective alone."""
    method = smol_methods.named(name)
    return {
        "model": form.model,
        "precision": form.precision,
        "layout": form.layout,
        "pair": pair,
        "name": name,
        "method": method.to_dict(),
        "seed": seed,
        "rate": rates[0],
        "preference_rate": rates[-1],
        "updates": smol_methods.updates(method, form.budget, form.batch),
        "batch": form.batch,
        "marks": form.marks,
        "evaluated": form.evaluated,
        "longest": form.longest,
        "rows": "test",
        "optima": None,
        **changes,
    }


def own(name: str, both: tuple[float, float]) -> tuple[float, float]:
    """Step sizes of a method: a first stage on pairs keeps theirs, and SFT comes after it."""
    if name == "dpo-sft":
        return both[0] * BACK, both[1] / BACK
    return both


def tuning(form: Form, pair: str) -> list[dict[str, Any]]:
    """Runs that choose step sizes, on validation rows."""
    return [
        configuration(form, pair, name, TUNING, (rate,), rows="validation", marks=1)
        for name in ENDS
        for rate in form.grid
    ]


def plan(form: Form) -> pd.DataFrame:
    """Runs and CPU time of each phase and pair, before anything is run."""
    rows = []
    for pair in form.pairs:
        counts = {
            "step sizes": [(name, len(form.grid), 1) for name in ENDS],
            "one objective": [(name, form.seeds, form.marks) for name in ENDS],
            "methods": [(name, form.seeds, form.marks) for name in form.methods],
        }
        for phase, parts in counts.items():
            seconds = sum(n * cpu_seconds(form, pair, marks) for _, n, marks in parts)
            rows.append(
                {
                    "pair": pair,
                    "phase": phase,
                    "runs": sum(n for _, n, _ in parts),
                    "CPU minutes": round(seconds / 60, 1),
                }
            )
    return pd.DataFrame(rows)


def cpu_seconds(form: Form, pair: str, marks: int) -> float:
    """CPU time that a run is expected to take: its gradients and its evaluations."""
    one = form.budget * form.second[0] + (marks + 1) * form.second[1]
    known = SHORTEST if pair in smol_rows.PAIRS else pair
    return one * smol_rows.length(pair) / smol_rows.length(known)
