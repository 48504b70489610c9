"""The plan of the study on SmolLM2: its forms, the configuration of a run, and costs of runs.

Nothing here reads stored runs. :mod:`analysis.fernando2024.real.smol_study` runs the plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from analysis.fernando2024.real import smol_methods, smol_rows, smol_runs
from analysis.fernando2024.real.smol_methods import CENTRAL, ENDS, METHODS
from tradeoff.errors import InputError

TUNING, SPECIALIST = 20_000, 10_000
"""First seeds of the runs that choose step sizes, and of the runs that give optima."""
SHORTEST = "same prompts"
"""The pair of data sets on which the times of the plan were measured."""
BACK = 0.25
"""Step size on pairs in a method, as a share of the best step size on pairs alone. A preference
stage after SFT must not undo it."""
TWIN: dict[str, Any] = {"precision": "fp32", "layout": "shared"}
"""What a run has on a CPU in place of what it has on a GPU. Results differ by rounding alone."""
TWIN_SECOND = (5.0, 22.0)
"""Seconds of an update on demonstrations and of an evaluation there, with 16 rows each."""
EXTRAS = ("lambdas", "references", "relearning", "steps")
"""Kinds of runs beyond the comparison, see :mod:`smol_extra`."""


@dataclass(frozen=True)
class Form:
    """Size of the study.

    Attributes
    ----------
    model, precision, layout
        Model, number format and layout of batches, see :mod:`smol_runs`.
    pairs
        Pairs of data sets, in the order of the study.
    methods
        Methods, in their order within a seed.
    seeds, alone
        Number of seeds of every method, and of each objective alone.
    budget
        Budget of one run, counted in gradients of one batch of demonstrations. A pair counts as
        two.
    batch, marks, evaluated, longest
        Rows of an update; number of evaluations after the first; held-out rows of each set; largest
        number of tokens of a row.
    grid
        Step sizes to choose from.
    extras, few, early
        Kinds of runs beyond the comparison, the number of their seeds, and the number of pairs that
        have them before the other methods if many runs go at once.
    lams, relearn
        Weights of the sweep, and number of updates on demonstrations after a run.
    second
        CPU seconds of an update on demonstrations, and of an evaluation, from which the plan is
        made.
    """

    model: str = "smollm2"
    precision: str = "fp32"
    layout: str = "padded"
    pairs: tuple[str, ...] = tuple(smol_rows.PAIRS)
    methods: tuple[str, ...] = (*CENTRAL, *(m for m in METHODS if m not in CENTRAL))
    seeds: int = 3
    alone: int = 3
    budget: float = 96.0
    batch: int = 4
    marks: int = 3
    evaluated: int = 32
    longest: int = 256
    grid: tuple[float, ...] = (2e-4, 5e-4, 1e-3)
    extras: tuple[str, ...] = ()
    few: int = 2
    early: int = 3
    lams: tuple[float, ...] = (0.01, 0.25, 0.5, 0.75, 0.99)
    relearn: int = 16
    second: tuple[float, float] = (1.5, 17.0)


FORMS = {
    # In bf16 with shared prompts, an update on pairs costs .4 of one in fp32 with filling.
    "full": Form(
        precision="bf16", layout="shared", alone=2, budget=48.0, marks=2, evaluated=24,
        grid=(5e-4, 2e-3), second=(1.2, 6.0),
    ),
    "gpu": Form(
        precision="bf16", alone=2, budget=48.0, batch=16, marks=2, evaluated=64,
        grid=(5e-4, 1e-3, 2e-3), early=0, second=(0.15, 3.0),
    ),
    "fast": Form(
        model=smol_runs.RANDOM,
        pairs=(smol_rows.GENERATED,),
        methods=("sft-dpo", "dpo-sft", "alright", "rounds-2"),
        seeds=2,
        alone=2,
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
    """A form with other pairs of data sets or methods.

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


def twin(c: Mapping[str, Any]) -> dict[str, Any]:
    """The same run as a CPU does it fastest: in fp32, with shared prompts."""
    return {**c, **TWIN}


def on_cpu(form: Form) -> Form:
    """A form whose runs are twins, with the cost that they have."""
    update, evaluation = (seconds * form.batch / 16 for seconds in TWIN_SECOND)
    return replace(form, **TWIN, second=(update, evaluation))


def own(name: str, both: tuple[float, float]) -> tuple[float, float]:
    """Step sizes of a method: a first stage on pairs keeps theirs, and SFT comes after it."""
    if name == "dpo-sft":
        return both[0] * BACK, both[1] / BACK
    return both


def tuning(form: Form, pair: str) -> list[dict[str, Any]]:
    """Configurations of the runs that choose step sizes, evaluated on validation rows."""
    return [
        configuration(form, pair, name, TUNING, (rate,), rows="validation", marks=1)
        for name in ENDS
        for rate in form.grid
    ]


def edges(form: Form, pair: str) -> list[dict[str, Any]]:
    """Configurations of the same runs with twice the largest step size of the grid.

    They choose nothing. They say what a grid that ends there has missed.
    """
    return tuning(replace(form, grid=(2 * max(form.grid),)), pair)


def plan(form: Form) -> pd.DataFrame:
    """Number of runs and CPU time of each phase and pair, before anything is run."""
    rows = []
    for pair in form.pairs:
        counts = {
            "step sizes": [(name, len(form.grid), 1) for name in ENDS],
            "one objective": [(name, form.alone, form.marks) for name in ENDS],
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
    """Expected CPU time of a run, for its gradients and its evaluations."""
    one = form.budget * form.second[0] + (marks + 1) * form.second[1]
    known = SHORTEST if pair in smol_rows.PAIRS else pair
    return one * smol_rows.length(pair) / smol_rows.length(known)
