"""A random part of the rows: the control of every other choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tradeoff.methods.transforms.base import KeptShare, TrainingRows, Transform
from tradeoff.schedules import SFT
from tradeoff.settings import Seed


@dataclass(frozen=True, kw_only=True)
class Subsample(Transform):
    """Trains on rows chosen at random.

    Attributes
    ----------
    sft, preference
        Share of the demonstrations and of the pairs that is kept, in (0, 1]; at least one row.
    seed
        Of the choice, which is the same in all runs.

    Notes
    -----
    Ours.
    """

    name: ClassVar[str] = "subsample"
    sft: KeptShare = 0.5
    preference: KeptShare = 0.5
    seed: Seed = 0

    def kept(self, rows: TrainingRows) -> np.ndarray:
        count = len(rows.lengths)
        share = self.sft if rows.objective == SFT else self.preference
        order = np.random.default_rng((self.seed, rows.objective)).permutation(count)
        return np.sort(order[: max(1, round(share * count))])
