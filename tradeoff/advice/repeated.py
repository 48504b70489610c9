"""Repeated measurements with new splits, radii and candidates, and their intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from tradeoff.advice.anchors import ANCHORS, anchor
from tradeoff.advice.measure import compromise, gains, lost, optima, pose, run
from tradeoff.advice.radius import nested_radius
from tradeoff.data.rows import PreferenceRow, SftRow, as_text
from tradeoff.data.sample import sampled
from tradeoff.data.splits import hold_out
from tradeoff.schedules import PREFERENCE, SFT

TEST_SHARE = 0.25
"""Share of the prompts that each repeat holds out."""
STABLE = 0.2
"""Largest half-width of the interval of a stable number between 0 and 1."""
COARSE = (0.0, 0.5, 1.0)
"""First weights at which the anchors are solved, before those around the compromise."""


@dataclass(frozen=True)
class Estimate:
    """A mean over repeats, with a 95 % interval.

    Attributes
    ----------
    mean, low, high
        Mean and ends of the interval; NaN if no repeat gave a number.
    n
        Number of repeats that gave a number.
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def stable(self) -> bool:
        """Whether the interval is at most twice `STABLE` wide."""
        return bool(self.high - self.low <= 2 * STABLE)

    def __str__(self) -> str:
        if not self.n:
            return "not known"
        return f"{self.mean:.2g} ({self.low:.2g} to {self.high:.2g})"


def estimate(values: ArrayLike) -> Estimate:
    """Mean and interval of a number that is measured in each repeat.

    Repeats share rows, so the plain standard error is too small. The variance of the mean is (1/R +
    test rows / training rows) s^2, by Nadeau and Bengio (2003), with Student's t.
    """
    found = np.asarray(values, float)
    found = found[np.isfinite(found)]
    n = len(found)
    if n < 2:
        mean = float(found[0]) if n else float("nan")
        return Estimate(mean, float("nan"), float("nan"), n)
    shared = TEST_SHARE / (1 - TEST_SHARE)
    wide = stats.t.ppf(0.975, n - 1) * np.std(found, ddof=1) * np.sqrt(1 / n + shared)
    mean = float(np.mean(found))
    return Estimate(mean, mean - float(wide), mean + float(wide), n)


@dataclass(frozen=True)
class Repeats:
    """The results of the repeats.

    Attributes
    ----------
    table
        A table with a row for each repeat and a column for each number.
    picture
        Losses of the first repeat by name, on held-out rows; ``front`` and ``train front`` are (K,
        2), the others (2,).
    """

    table: pd.DataFrame
    picture: dict[str, NDArray[np.float64]]


def repeat(
    sft: Sequence[SftRow],
    preference: Sequence[PreferenceRow],
    *,
    repeats: int,
    rows: int,
    seed: int,
    tick: Callable[[], Any] = lambda: None,
    **shape: Any,
) -> Repeats:
    """Measure the user's rows and the anchors `repeats` times.

    Parameters
    ----------
    rows
        Largest number of rows of each set that a repeat draws.
    tick
        Called after each of the ``5 repeats`` parts of the work.
    **shape
        Settings of the convex problem, for `tradeoff.convex.text.text_problem`.
    """
    found: list[dict[str, float]] = []
    picture: dict[str, NDArray[np.float64]] = {}
    for seeds in np.random.SeedSequence(seed).generate_state(4 * repeats).reshape(-1, 4).tolist():
        drawn = sampled(sft, rows, seeds[0]), sampled(preference, rows, seeds[0])
        splits = hold_out((drawn[0], None), (drawn[1], None), TEST_SHARE, seeds[1])
        radius = nested_radius(splits[0].train, splits[1].train, seeds[2], seed=seeds[3], **shape)
        tick()
        settings = {**shape, "radius": radius, "seed": seeds[3]}
        numbers, shown = _own(splits, settings)
        tick()
        for name in ANCHORS:
            rows_of = anchor(name, *drawn, seeds[2])
            numbers |= _of_anchor(name, rows_of, seeds[1], settings)
            tick()
        found.append(numbers)
        picture = picture or shown
    return Repeats(pd.DataFrame(found).rename_axis("repeat"), picture)


def _own(splits: Any, settings: dict[str, Any]) -> tuple[dict[str, float], dict[str, Any]]:
    """Measure the user's rows at one split."""
    posed = pose(*splits, **settings)
    path = optima(posed)
    train, test = path.losses
    gain, start = gains(posed, path), posed.start[1]
    price, lam = compromise(test, start, path.weights)
    price_train, lam_train = compromise(train, posed.start[0], path.weights)
    runs = run(posed)
    numbers = {
        "radius": settings["radius"],
        "conflict": price,
        "conflict_train": price_train,
        "lam": lam,
        "lam_train": lam_train,
        "alternations": runs.alternations,
        "sft_forgotten": runs.forgotten[SFT],
        "preference_forgotten": runs.forgotten[PREFERENCE],
        "sft_forgotten_limit": lost(start[SFT], test[0, SFT], test[-1, SFT]),
        "preference_forgotten_limit": lost(start[1], test[-1, 1], test[0, 1]),
        "sft_gain": gain[1, SFT],
        "preference_gain": gain[1, PREFERENCE],
        "certificate": path.certificate,
    }
    joint = [
        float(np.interp(0.5 if np.isnan(lam) else lam, path.weights, test[:, k])) for k in (0, 1)
    ]
    shown = {
        "front": test,
        "train front": train,
        "start": start,
        "SFT alone": test[0],
        "DPO alone": test[-1],
        "SFT then DPO": runs.ends[0],
        "DPO then SFT": runs.ends[1],
        "both at once": np.array(joint),
    }
    return numbers, shown


def _of_anchor(name: str, rows: Any, split_seed: int, settings: dict[str, Any]) -> dict[str, float]:
    splits = hold_out((rows[0], None), (rows[1], None), TEST_SHARE, split_seed)
    if name != "shuffled" and alike(splits[0].train):  # such as one refusal for all prompts
        return {f"conflict_{name}": float("nan")}
    posed = pose(*splits, **settings)
    if name == "shuffled":  # shuffled labels do not generalise, so there is no gain to keep
        return {"preference_gain_shuffled": gains(posed, optima(posed, (0.0, 1.0)))[1, PREFERENCE]}
    path = optima(posed, COARSE)
    return {f"conflict_{name}": compromise(path.losses[1], posed.start[1], path.weights)[0]}


def alike(rows: Sequence[SftRow]) -> bool:
    """Whether all completions are the same, so that there is nothing to choose among."""
    return len({as_text(row.completion) for row in rows}) < 2
