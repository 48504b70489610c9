"""Code that all figures on trained models share: compared methods, and final rows of their runs."""

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
"""Names of methods in figures and tables, by key. They are for display only."""
ORDERS, JOINT = METHODS[:2], METHODS[2:]
MANY = 4096
"""Number of updates in a plan that is made to see what a schedule does."""


def label(key: str) -> str:
    """Name of a method for display. A number at the key's end is its rounds K or its refresh k.

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
    """Names of methods for display, in their order."""
    return [label(key) for key in keys]


def schedule(key: str, lam: float = 0.5, *, refresh: int | None = 10, samples: int) -> Schedule:
    """Schedule of a method at a weight. The stages of an order follow the weight.

    ``refresh`` and ``samples`` belong to MAXRIGHT: the updates from one evaluation to the next, and
    the rows of an evaluation.
    """
    found: Any = find(key, lam).schedule
    return replace(found, refresh=refresh, samples=samples) if looks(found) else found


def looks(rule: Schedule) -> bool:
    """Whether a schedule evaluates losses, which costs forward passes and needs the optima."""
    return bool(rule.plan(MANY).watched)


def key(rule: Schedule) -> str:
    """Key of the method that a schedule belongs to. Replay does not change the method."""
    return rule.key.removesuffix("-replay")


def with_methods(table: pd.DataFrame, configurations: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The table with a column ``method``, the key of every run's method."""
    keys = [from_dict(c["schedule"]).key for c in configurations]
    return table.assign(method=table["run"].map(dict(enumerate(keys))))


def finals(table: pd.DataFrame) -> pd.DataFrame:
    """The last row of every run.

    Raises
    ------
    RuntimeError
        If a run diverged. Its last row is not a result, and no figure may use it as one.
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
    """Mean, half width and other fields of an interval, as stored in results."""
    return {"mean": found.mean, "half_width": (found.high - found.low) / 2}


def bounds(found: Interval) -> dict[str, Any]:
    """Fields of an interval that is not symmetric, as stored. Unbounded ends are None."""
    return {"mean": found.mean, "low": found.low, "high": found.high}


def ratio(above: ArrayLike, below: ArrayLike, level: float = 0.95) -> Interval:
    """Interval of a ratio of two means of independent samples, by the delta method.

    Parameters
    ----------
    above, below
        (n, ...) and (m, ...) values, such as scores of runs and of specialists; the trailing axes
        broadcast. The errors of both samples count.
    level
        Coverage, in (0, 1).

    Returns
    -------
    Interval
        Interval with Welch's degrees of freedom and the ``n`` of ``above``. It is NaN if the mean
        below is zero. Fieller's interval has further terms in the squared relative error of the
        denominator.
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
        (n, ...) values, paired by seed.
    level
        Coverage, in (0, 1).

    Returns
    -------
    Interval
        Interval whose ends are NaN where the mean below is not significantly different from zero;
        no bounded interval exists there.

    Notes
    -----
    Fieller (1954): the ratios r for which a t-test does not reject that the mean of
    ``above - r * below`` is zero.
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
    """Upper end of a stored interval."""
    return cell["mean"] + cell["half_width"]


def lower(cell: Mapping[str, float]) -> float:
    """Lower end of a stored interval."""
    return cell["mean"] - cell["half_width"]


def cost(*tables: pd.DataFrame) -> dict[str, Any]:
    """Number of runs in the tables, and the processor time of these runs."""
    runs = [table.groupby("run")["cpu_seconds"].first() for table in tables]
    return {
        "runs": sum(int((run > 0).sum()) for run in runs),
        "cpu_seconds": round(float(sum(run.sum() for run in runs)), 1),
    }
