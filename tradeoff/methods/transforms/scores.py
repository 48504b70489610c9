"""Rows chosen by what the policy before training says of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from tradeoff.methods.transforms.base import TrainingRows, Transform, share_of
from tradeoff.methods.transforms.lengths import KeptShare
from tradeoff.schedules import PREFERENCE, SFT


@dataclass(frozen=True, kw_only=True)
class LowestPerplexity(Transform):
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
    asks: ClassVar[tuple[int, ...]] = (SFT,)
    share: KeptShare = 0.5

    def kept(self, rows: TrainingRows) -> np.ndarray:
        if rows.objective != SFT:
            return super().kept(rows)
        per_token = rows.log_probs() / np.maximum(rows.lengths, 1)
        return share_of(-per_token[:, 0], self.share)


@dataclass(frozen=True, kw_only=True)
class ByMargin(Transform):
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
    asks: ClassVar[tuple[int, ...]] = (PREFERENCE,)
    share: KeptShare = 0.5
    keep: Literal["easy", "hard"] = "easy"

    def kept(self, rows: TrainingRows) -> np.ndarray:
        if rows.objective == SFT:
            return super().kept(rows)
        per_token = rows.log_probs() / np.maximum(rows.lengths, 1)
        margins = per_token[:, 0] - per_token[:, 1]
        return share_of(-margins if self.keep == "easy" else margins, self.share)
