"""Problems on which findings are tested: seeded, with varied conflict and weight lambda."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tradeoff.convex import LogLinear, random_log_linear

COUNT = 40
"""Instances of a finding. The 95 % interval lies above 0.8 if 38 of 40 agree, and above 0.5 if 27
agree."""
FIRST_SEED = 9000
"""First seed of the ledger. Thresholds were chosen on smaller seeds. Seeds from 5000 to 8999 were
seen while some thresholds were weakened, so the ledger no longer uses them."""
CONFLICTS, WEIGHTS = (0.2, 1.0), (0.1, 0.9)


@dataclass(frozen=True)
class Case:
    """One instance, with the requested weight of the preference objective.

    Attributes
    ----------
    problem
        The convex problem, drawn with ``seed`` and ``conflict``.
    lam
        Weight of the preference objective.
    """

    seed: int
    conflict: float
    lam: float
    problem: LogLinear


@lru_cache(maxsize=8)
def cases(
    count: int = COUNT,
    *,
    first_seed: int = FIRST_SEED,
    lam: float | None = None,
    dimension: int = 8,
    radius: float = 3.0,
) -> tuple[Case, ...]:
    """Instances whose conflict and weight each cover their range evenly, in random combination.

    Parameters
    ----------
    count
        Number of instances.
    first_seed
        Seed of the first instance; each later instance has the next seed.
    lam
        One weight for all instances, instead of weights from 0.1 to 0.9.
    dimension, radius
        Dimension and radius of every problem. It has 6 prompts of 4 responses, 24
        demonstrations and 24 pairs.
    """
    rng = np.random.default_rng(first_seed)
    even = (np.arange(count) + 0.5) / count
    conflicts = CONFLICTS[0] + (CONFLICTS[1] - CONFLICTS[0]) * even
    weights = rng.permutation(WEIGHTS[0] + (WEIGHTS[1] - WEIGHTS[0]) * even)
    return tuple(
        Case(
            first_seed + k,
            float(conflict),
            float(weight) if lam is None else lam,
            random_log_linear(
                first_seed + k,
                prompts=6,
                responses=4,
                dimension=dimension,
                demonstrations=24,
                pairs=24,
                radius=radius,
                conflict=float(conflict),
            ),
        )
        for k, (conflict, weight) in enumerate(zip(conflicts, weights, strict=True))
    )
