"""What all figures on trained models share: the methods compared, and the ends of their runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from tradeoff.errors import InputError
from tradeoff.methods import find
from tradeoff.schedules import Alright, Schedule, from_dict
from tradeoff.scores import Interval

METHODS = ("sft-dpo", "dpo-sft", "mix", "alright", "maxright")
"""Names in the catalogue of the methods that every figure compares."""
LABELS = {name: find(name).family for name in (*METHODS, "rounds", "constrained")} | {
    "alright-budget": Alright(probability=0.5).label,
    "mix-one-backward": "Mix, one backward pass",
    "sft-only": "SFT only",
    "preference-only": "DPO only",
    "trl-sft": "TRL SFT",
    "trl-dpo": "TRL DPO",
}
"""What figures and tables show of a method, by its key; nothing is looked up by it."""
ORDERS, JOINT = METHODS[:2], METHODS[2:]
MANY = 4096
"""Updates of a plan that is laid out to see what a schedule does."""


def label(key: str) -> str:
    """What is shown of a method; a number at the key's end is that of its rounds, or its refresh.

    Raises
    ------
    InputError
        If no figure has such a method.
    """
    name, _, number = key.rpartition("-")
    if key in LABELS:
        return LABELS[key]
    if name in ("rounds", "maxright") and number.isdigit():
        return f"{LABELS[name]} ({'K' if name == 'rounds' else 'k'}={number})"
    raise InputError(
        "no such method", field="method", value=key, remedy=f"Use one of {', '.join(LABELS)}."
    )


def labels(keys: Iterable[str]) -> list[str]:
    """What is shown of some methods, in their order."""
    return [label(key) for key in keys]


def schedule(key: str, lam: float = 0.5, *, refresh: int | None = 10, samples: int) -> Schedule:
    """Schedule of a method at a weight; sequential budgets follow the weight.

    ``refresh`` and ``samples`` are MAXRIGHT's: how often it looks, and at how many rows.
    """
    found: Any = find(key, lam).schedule
    return replace(found, refresh=refresh, samples=samples) if looks(found) else found


def looks(rule: Schedule) -> bool:
    """Whether a schedule looks at losses, which costs evaluations and asks for optima."""
    return bool(rule.plan(MANY).watched)


def key(rule: Schedule) -> str:
    """Key of the method that a schedule belongs to; replay makes no other method of one."""
    return rule.key.removesuffix("-replay")


def with_methods(table: pd.DataFrame, configurations: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The table with the key of every run's method in a column ``method``."""
    keys = [from_dict(c["schedule"]).key for c in configurations]
    return table.assign(method=table["run"].map(dict(enumerate(keys))))


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


def bounds(found: Interval) -> dict[str, Any]:
    """An interval that is not symmetric, as results keep it; ends are None where unbounded."""
    return {"mean": found.mean, "low": found.low, "high": found.high}


def ratio(above: ArrayLike, below: ArrayLike, level: float = 0.95) -> Interval:
    """Interval of a ratio of two means of independent samples, by the delta method.

    Parameters
    ----------
    above, below
        (n, ...) and (m, ...) values, such as scores of runs and of specialists; the trailing axes
        broadcast. Both samples' errors count.
    level
        Coverage, in (0, 1).

    Returns
    -------
    Interval
        With Welch's degrees of freedom; ``n`` is that of ``above``; NaN over zero. Against
        Fieller's interval it leaves out terms in the squared relative error of the denominator.
    """
    samples = [np.asarray(values, dtype=float) for values in (above, below)]
    (top, bottom), sizes = (s.mean(axis=0) for s in samples), [len(s) for s in samples]
    errors = [s.var(axis=0, ddof=1) / n for s, n in zip(samples, sizes, strict=True)]
    bottom = np.where(bottom == 0, np.nan, bottom)
    share = top / bottom
    parts = [errors[0] / bottom**2, share**2 * errors[1] / bottom**2]
    total = parts[0] + parts[1]
    own = sum(part**2 / (n - 1) for part, n in zip(parts, sizes, strict=True))
    freedom = np.where(own > 0, total**2 / np.where(own > 0, own, 1.0), sizes[0] - 1)
    half = stdtrit(freedom, 0.5 + level / 2) * np.sqrt(total)
    return Interval(
        np.asarray(share), np.asarray(share - half), np.asarray(share + half), sizes[0],
        f"delta method, {level:.0%}",
    )  # fmt: skip


def paired_ratio(above: ArrayLike, below: ArrayLike, level: float = 0.95) -> Interval:
    """Fieller's interval of a ratio of two means of paired samples.

    Parameters
    ----------
    above, below
        (n, ...) values, seed by seed.
    level
        Coverage, in (0, 1).

    Returns
    -------
    Interval
        Ends are NaN where the mean below is not told apart from zero, so that no bounded interval
        exists.

    Notes
    -----
    Fieller (1954): the ratios r for which the mean of ``above - r * below`` is not told apart from
    zero by a t-test.
    """
    a, b = (np.asarray(values, dtype=float) for values in (above, below))
    n = len(a)
    t = stdtrit(n - 1, 0.5 + level / 2) ** 2 / n
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    off_a, off_b = a - mean_a, b - mean_b
    var_a, var_b, both = (
        (x * y).sum(axis=0) / (n - 1) for x, y in ((off_a, off_a), (off_b, off_b), (off_a, off_b))
    )
    square = mean_b**2 - t * var_b
    middle = mean_a * mean_b - t * both
    root = np.sqrt(np.maximum(middle**2 - square * (mean_a**2 - t * var_a), 0.0))
    bounded = np.where(square > 0, square, np.nan)
    share = mean_a / np.where(mean_b == 0, np.nan, mean_b)
    return Interval(
        np.asarray(share), np.asarray((middle - root) / bounded),
        np.asarray((middle + root) / bounded), n, f"Fieller, {level:.0%}",
    )  # fmt: skip


def upper(cell: Mapping[str, float]) -> float:
    """Upper end of a kept interval."""
    return cell["mean"] + cell["half_width"]


def lower(cell: Mapping[str, float]) -> float:
    """Lower end of a kept interval."""
    return cell["mean"] - cell["half_width"]


def cost(*tables: pd.DataFrame) -> dict[str, Any]:
    """How many runs the tables hold, and the processor time that these took when they ran."""
    runs = [table.groupby("run")["cpu_seconds"].first() for table in tables]
    return {
        "runs": sum(int((run > 0).sum()) for run in runs),
        "cpu_seconds": round(float(sum(run.sum() for run in runs)), 1),
    }
