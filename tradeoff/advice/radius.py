"""Choice of the radius of the ball of parameters, within the training rows of a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tradeoff.advice.measure import TOLERANCE, pose
from tradeoff.convex.solve import minimise
from tradeoff.data.rows import PreferenceRow, SftRow
from tradeoff.data.splits import hold_out

GRID = tuple(float(2.5 * 2 ** (k / 2)) for k in range(11))
"""Radii to choose from: 2.5 to 80 in steps of a half octave."""
INNER_SHARE = 0.2
"""Share of the training prompts that is used to judge a radius."""


def nested_radius(
    sft: Sequence[SftRow], preference: Sequence[PreferenceRow], split_seed: int, **shape: Any
) -> float:
    """The radius of `GRID` whose joint optimum is best on a share of the training rows.

    Both losses are divided by those of the untrained policy. Rows with reported numbers are not
    used. The search ends when two radii in a row were worse than the best one.
    """
    splits = hold_out((sft, None), (preference, None), INNER_SHARE, split_seed)
    posed = pose(*splits, radius=GRID[0], **shape)
    theta, start = np.zeros(posed.train.dimension), posed.start[1]
    found: list[float] = []
    for radius in GRID:
        problem = replace(posed.train, radius=radius)
        theta = minimise(problem, 0.5, tolerance=TOLERANCE, start=theta).theta
        found.append(float(np.sum(posed.test.losses(theta) / start)))
        if len(found) - int(np.argmin(found)) > 2:
            break
    return GRID[int(np.argmin(found))]
