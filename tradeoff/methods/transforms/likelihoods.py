"""Rows chosen by what the policy before training says of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from tradeoff.methods.transforms.base import BestRows, TrainingRows, per_token
from tradeoff.schedules import PREFERENCE, SFT


@dataclass(frozen=True, kw_only=True)
class LowestPerplexity(BestRows):
    """Trains on the demonstrations that the policy before training finds most likely.

    Attributes
    ----------
    share
        Share of the demonstrations that is kept, in (0, 1].

    Notes
    -----
    Card S37, a transfer of an abstract. The order is that of the log-probability of a response
    divided by its length.
    """

    name: ClassVar[str] = "lowest_perplexity"
    title: ClassVar[str] = "lowest perplexity"
    source: ClassVar[str] = "arXiv 2409.04828, section 3.3"
    objective: ClassVar[int] = SFT
    asks: ClassVar[tuple[int, ...]] = (SFT,)

    def order(self, rows: TrainingRows) -> np.ndarray:
        return -per_token(rows)[:, 0]


@dataclass(frozen=True, kw_only=True)
class ByMargin(BestRows):
    """Trains on the pairs that the policy before training gets most right, or most wrong.

    Attributes
    ----------
    share
        Share of the pairs that is kept, in (0, 1].
    keep
        "easy": the pairs of the largest margin ``log pi(chosen) - log pi(rejected)``, per token of
        each. "hard": those of the smallest.

    Notes
    -----
    Ours: the order of a curriculum of preference pairs, as a choice.
    """

    name: ClassVar[str] = "by_margin"
    title: ClassVar[str] = "pairs by margin"
    objective: ClassVar[int] = PREFERENCE
    asks: ClassVar[tuple[int, ...]] = (PREFERENCE,)
    keep: Literal["easy", "hard"] = "easy"

    def order(self, rows: TrainingRows) -> np.ndarray:
        found = per_token(rows)
        margins = found[:, 0] - found[:, 1]
        return np.asarray(-margins if self.keep == "easy" else margins)
