"""What all figures on trained models share: the methods compared, and the ends of their runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from tradeoff.schedules import Alright, Maxright, Mix, Schedule, Sequential, from_dict
from tradeoff.scores import Interval

METHODS = ("SFT→DPO", "DPO→SFT", "Mix", "ALRIGHT", "MAXRIGHT")
ORDERS, JOINT = METHODS[:2], METHODS[2:]


def schedule(label: str, lam: float = 0.5, *, refresh: int | None = 10, samples: int) -> Schedule:
    """Schedule of a method at a weight; sequential budgets follow the weight.

    ``refresh`` and ``samples`` are MAXRIGHT's: how often it looks, and at how many rows.
    """
    return {
        "SFT→DPO": Sequential(lam=lam, share=1 - lam),
        "DPO→SFT": Sequential(lam=lam, first="preference", share=lam),
        "Mix": Mix(lam=lam),
        "ALRIGHT": Alright(lam=lam),
        "MAXRIGHT": Maxright(lam=lam, refresh=refresh, samples=samples),
    }[label]


def with_methods(table: pd.DataFrame, configurations: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Name the method of every run of a study in a column ``method``."""
    labels = [from_dict(c["schedule"]).family for c in configurations]
    return table.assign(method=table["run"].map(dict(enumerate(labels))))


def finals(table: pd.DataFrame) -> pd.DataFrame:
    """The last row of every run.

    Raises
    ------
    RuntimeError
        If a run diverged: its last row is no end, and no figure may count it as one.
    """
    last = table.groupby("run").tail(1).reset_index(drop=True)
    lost = last[last["diverged_at"].notna()]
    if len(lost):
        raise RuntimeError(
            f"{len(lost)} of {len(last)} runs diverged, the first at update "
            f"{lost['diverged_at'].iloc[0]:g} (run {lost['run'].iloc[0]}): lower the step size."
        )
    return last


def cell(found: Interval) -> dict[str, Any]:
    """An interval as results keep it."""
    return {"mean": found.mean, "half_width": (found.high - found.low) / 2}


def upper(cell: Mapping[str, float]) -> float:
    """Upper end of a kept interval."""
    return cell["mean"] + cell["half_width"]


def cost(*tables: pd.DataFrame) -> dict[str, Any]:
    """How many runs the tables hold, and the processor time that these took when they ran."""
    runs = [table.groupby("run")["cpu_seconds"].first() for table in tables]
    return {
        "runs": sum(len(run) for run in runs),
        "cpu_seconds": round(float(sum(run.sum() for run in runs)), 1),
    }
