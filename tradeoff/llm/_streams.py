"""Order of rows: a permutation for each epoch, a pure function of seed and position."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Int

from tradeoff import draws
from tradeoff.schedules import PREFERENCE, SFT

_STREAMS = {SFT: draws.SFT_SAMPLE, PREFERENCE: draws.PREFERENCE_SAMPLE}


class Stream:
    """An endless stream of all rows of a data set, in a new order every epoch.

    Its only state is the number of rows read so far: a resumed run, or a second process, finds the
    same rows at the same position.

    Parameters
    ----------
    size
        Number of rows of the data set.
    seed
        Seed of the run.
    objective
        0 for SFT, 1 for preference: the two streams are independent.
    """

    def __init__(self, size: int, seed: int, objective: int) -> None:
        self.size = size
        self._order = lru_cache(maxsize=2)(
            lambda epoch: np.argsort(
                draws.uniform(draws.keys(seed, epoch, _STREAMS[objective]), np.arange(size)),
                kind="stable",
            )
        )

    def rows(self, position: int, count: int) -> Int[np.ndarray, " count"]:
        """The next `count` rows after `position` rows have been read."""
        epochs, places = np.divmod(np.arange(position, position + count), self.size)
        return np.array([self._order(int(e))[p] for e, p in zip(epochs, places, strict=True)])
