"""Rows chosen by the lengths of their responses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from tradeoff.methods.transforms.base import TrainingRows, Transform, share_of
from tradeoff.schedules import SFT
from tradeoff.settings import Within

KeptShare = Annotated[float, Within(0, 1, "(]")]


@dataclass(frozen=True, kw_only=True)
class Longest(Transform):
    """Trains on the demonstrations with the longest responses.

    Attributes
    ----------
    share
        Share of the demonstrations that is kept, in (0, 1].
    """

    name: ClassVar[str] = "longest"
    title: ClassVar[str] = "longest demonstrations"
    source: ClassVar[str] = "arXiv 2402.04833, section 2"
    by_length: ClassVar[bool] = True
    share: KeptShare = 0.25

    def kept(self, rows: TrainingRows) -> np.ndarray:
        if rows.objective != SFT:
            return super().kept(rows)
        return share_of(-rows.lengths[:, 0].astype(float), self.share)


@dataclass(frozen=True, kw_only=True)
class BalancedLengths(Transform):
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
    by_length: ClassVar[bool] = True
    share: KeptShare = 0.5

    def kept(self, rows: TrainingRows) -> np.ndarray:
        if rows.objective == SFT:
            return super().kept(rows)
        logs = np.log(np.maximum(rows.lengths, 1))
        return share_of(np.abs(logs[:, 0] - logs[:, 1]), self.share)
