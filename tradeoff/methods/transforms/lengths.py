"""Rows chosen by the lengths of their responses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tradeoff.methods.transforms.base import BestRows, KeptShare, TrainingRows
from tradeoff.schedules import PREFERENCE, SFT


@dataclass(frozen=True, kw_only=True)
class Longest(BestRows):
    """Trains on the demonstrations with the longest responses.

    Attributes
    ----------
    share
        Share of the demonstrations that is kept, in (0, 1].
    """

    name: ClassVar[str] = "longest"
    title: ClassVar[str] = "longest demonstrations"
    source: ClassVar[str] = "arXiv 2402.04833, section 2"
    objective: ClassVar[int] = SFT
    by_length: ClassVar[bool] = True
    share: KeptShare = 0.25

    def order(self, rows: TrainingRows) -> np.ndarray:
        return np.asarray(-rows.lengths[:, 0].astype(float))


@dataclass(frozen=True, kw_only=True)
class BalancedLengths(BestRows):
    """Trains on the pairs whose responses differ least in length, against a bias to long ones.

    Attributes
    ----------
    share
        Share of the pairs that is kept, in (0, 1].

    Notes
    -----
    Ours. The difference is that of the logarithms of both lengths.
    """

    name: ClassVar[str] = "balanced_lengths"
    title: ClassVar[str] = "balanced lengths"
    objective: ClassVar[int] = PREFERENCE
    by_length: ClassVar[bool] = True

    def order(self, rows: TrainingRows) -> np.ndarray:
        logs = np.log(np.maximum(rows.lengths, 1))
        return np.asarray(np.abs(logs[:, 0] - logs[:, 1]))
