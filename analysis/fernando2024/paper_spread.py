"""Significance of the differences in the paper's Llama-3-8B table, from its own sample sizes.

The table has one number per method and lambda, without a spread. A win rate is a share of 640
prompts, and an MMLU score is a share of 14,042 questions. The spread from the choice of prompts and
questions therefore follows from the numbers themselves. The spread between trainings is not
included.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.stats import norm

from analysis.dossier.mutations import mutate
from analysis.fernando2024.paper_numbers import reported
from tradeoff.scores import holm
from tradeoff.theory.checked import Checked

LEVEL = 0.95
"""Confidence level of every interval. One minus it is the chance of any false difference in the
table."""
MEASURES = {"mmlu": "questions", "win_rate": "prompts"}
"""Keys of the two scores, with the key of their sample size."""
NAMES = {"mmlu": "MMLU", "win_rate": "win rate"}
SEQUENTIAL = "sft-dpo"
Array = Float[NDArray[Any], "..."]


def half_width(share: Array | float, n: int) -> Array:
    """Half-width of the normal interval of a share at :data:`LEVEL`.

    Parameters
    ----------
    share
        Share in [0, 1], any shape.
    n
        Sample size.

    Returns
    -------
    Float[NDArray, "..."]
        Half-width in the units of the share.
    """
    share = np.asarray(share, float)
    return np.asarray(norm.isf((1 - LEVEL) / 2) * np.sqrt(share * (1 - share) / n))


def two_proportions(first: Array | float, second: Array | float, n: int) -> Array:
    """Two-sided p-value that two shares of n each are equal, by the pooled z-test."""
    first, second = np.asarray(first, float), np.asarray(second, float)
    pooled = (first + second) / 2
    z = (first - second) / np.sqrt(2 * pooled * (1 - pooled) / n)
    return np.asarray(2 * norm.sf(np.abs(z)))


def largest_disagreement(difference: float, n: int) -> float:
    """Largest share of questions with different results for which a paired test is significant.

    A share s of the n questions is answered correctly by one model only. McNemar's statistic of a
    difference d is then d / sqrt((s - d^2) / n) in absolute value.
    """
    return float(difference**2 * (1 + n / norm.isf((1 - LEVEL) / 2) ** 2))


def differences(llama: Mapping[str, Any]) -> pd.DataFrame:
    """Differences of every pair of methods at every lambda, in both scores.

    Parameters
    ----------
    llama
        The table ``llama`` of ``paper_numbers.toml``.

    Returns
    -------
    DataFrame
        Columns measure, lam, method, other, difference and half_width (both in points), p,
        adjusted (by Holm, over all rows), apart (adjusted p below 1 - LEVEL).
    """
    rows = []
    methods = llama["methods"]
    for measure, size in MEASURES.items():
        n = llama[size]
        for other, method in combinations(methods, 2):
            for k, lam in enumerate(llama["lambdas"]):
                first, second = (methods[m][measure][k] / 100 for m in (method, other))
                both = np.hypot(half_width(first, n), half_width(second, n))
                rows.append(
                    {
                        "measure": measure,
                        "lam": lam,
                        "method": method,
                        "other": other,
                        "difference": 100 * (first - second),
                        "half_width": 100 * float(both),
                        "p": float(two_proportions(first, second, n)),
                    }
                )
    table = pd.DataFrame(rows)
    adjusted = holm(table["p"].to_numpy())
    return table.assign(adjusted=adjusted, apart=adjusted < 1 - LEVEL)


def over_sequential(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Rows of one score that compare a joint method with sequential training."""
    return table[(table["measure"] == measure) & (table["other"] == SEQUENTIAL)]


def whole_counts(rates: Array, n: int) -> NDArray[np.bool_]:
    """Whether rates in percent are counts out of n, to the two printed digits."""
    counts = np.round(np.asarray(rates) * n / 100)
    return np.abs(100 * counts / n - rates) <= 0.005 + 1e-9


def summary(llama: Mapping[str, Any]) -> dict[str, Any]:
    """Significance of the table's differences, by measure and as a whole."""
    table = differences(llama)
    found: dict[str, Any] = {"tests": len(table), "level": LEVEL}
    for measure, size in MEASURES.items():
        scores = np.array([m[measure] for m in llama["methods"].values()])
        width = 100 * half_width(scores / 100, llama[size])
        joint = over_sequential(table, measure)
        best = max(joint.to_dict("records"), key=lambda row: row["difference"])
        own = {name: float(np.ptp(m[measure])) for name, m in llama["methods"].items()}
        found[measure] = {
            "n": llama[size],
            "half_width": [float(width.min()), float(width.max())],
            "pairs": int((table["measure"] == measure).sum()),
            "pairs_apart": int(table.loc[table["measure"] == measure, "apart"].sum()),
            "joint": len(joint),
            "joint_unadjusted": int((joint["p"] < 1 - LEVEL).sum()),
            "joint_apart": int(joint["apart"].sum()),
            "largest": {key: best[key] for key in ("method", "lam", "difference")},
            "own_range": own,
        }
    unseen = over_sequential(table, "mmlu").query("not apart")["difference"].abs()
    median = float(unseen.median())
    found["unseen"] = {
        "median": median,
        "disagreement": largest_disagreement(median / 100, llama["questions"]),
    }
    rates = np.array([m["win_rate"] for m in llama["methods"].values()])
    whole = whole_counts(rates, llama["prompts"])
    found["counts"] = {"whole": int(whole.sum()), "of": whole.size, "other": rates[~whole].tolist()}
    return found


# ---------------------------------------------------------------------- claims


def claim_most_mmlu_gains_are_not_told_apart(
    fast: bool = False, mutation: str | None = None
) -> Checked:
    """Against the paper: how many of its nine joint MMLU gains are significant (upper, 1)."""
    llama = reported()["llama"]
    wrong = mutate(
        mutation,
        llama,
        {
            "hundredfold-questions": {**llama, "questions": 100 * llama["questions"]},
            "win-rates-for-mmlu": _with_win_rates(llama),
        },
    )
    found = over_sequential(differences(wrong), "mmlu")
    return Checked(float(found["apart"].sum()), 1.0, "upper", {"of": float(len(found))}, 0.0)


def claim_win_rate_gains_are_told_apart(fast: bool = False, mutation: str | None = None) -> Checked:
    """Lower ends of simultaneous intervals of the nine joint differences in win rate (lower, 0).

    Bonferroni: each interval has the level at which all pairs of the table are covered together.
    """
    llama = reported()["llama"]
    wrong = mutate(
        mutation,
        llama,
        {
            "fortieth-of-the-prompts": {**llama, "prompts": llama["prompts"] // 40},
            "swapped-roles": _swapped(llama),
        },
    )
    table = differences(wrong)
    found = over_sequential(table, "win_rate")
    wider = norm.isf((1 - LEVEL) / 2 / len(table)) / norm.isf((1 - LEVEL) / 2)
    low = found["difference"] - wider * found["half_width"]
    return Checked(low.to_numpy(), np.zeros(len(low)), "lower", {}, 0.0)


def claim_one_win_rate_is_no_count(fast: bool = False, mutation: str | None = None) -> Checked:
    """Against the paper: how many of twelve win rates are no count of 640 prompts (exact, 1)."""
    llama = reported()["llama"]
    n = mutate(mutation, llama["prompts"], {"another-n": llama["prompts"] - 1})
    whole = whole_counts(np.array([m["win_rate"] for m in llama["methods"].values()]), n)
    return Checked(float((~whole).sum()), 1.0, "exact", {"of": float(whole.size)}, 0.0)


def _with_win_rates(llama: Mapping[str, Any]) -> dict[str, Any]:
    methods = {name: {**m, "mmlu": m["win_rate"]} for name, m in llama["methods"].items()}
    return {**llama, "methods": methods}


def _swapped(llama: Mapping[str, Any]) -> dict[str, Any]:
    """The table with the win rates of sequential training and Mix exchanged."""
    methods = dict(llama["methods"])
    methods[SEQUENTIAL], methods["mix"] = methods["mix"], methods[SEQUENTIAL]
    return {**llama, "methods": methods}
