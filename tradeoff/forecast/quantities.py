"""The numbers that a forecast is about: held-out losses at the end of runs of one budget.

A budget is a number of updates of Mix. Two-stage schedules and rounds have as many gradients.
Numbers are compared on the scale of :func:`to_scale`, relative to the base model.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

LAMBDAS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Weights of the preference objective. At 0 and 1 a run ignores one loss, which then has no
bound: it would set the scale of every error."""
LOSSES = ("sft_loss", "preference_loss")
MIXES = tuple(f"mix {lam:g}" for lam in LAMBDAS)
PLANS = (*MIXES, "sft-dpo", "dpo-sft", "rounds 4")
NAMES: tuple[tuple[str, str], ...] = (
    *((plan, loss) for plan in PLANS for loss in LOSSES),
    ("sft stage", "sft_loss"),
    ("preference stage", "preference_loss"),
)
"""(plan, loss) of the Q numbers. The last two are what the first stage of a schedule reaches."""
OBJECTIVE = np.array([LOSSES.index(loss) for _, loss in NAMES])
"""(Q,) 0 for an SFT loss, 1 for a preference loss."""
FLOOR = 0.1
"""Nats added before the logarithm: below it differences count as they are, above it as ratios."""


def to_scale(losses: ArrayLike) -> Array:
    """The scale log(FLOOR + loss) on which numbers are compared."""
    return np.asarray(np.log(FLOOR + np.maximum(np.asarray(losses, dtype=float), 0.0)))


def from_scale(values: ArrayLike) -> Array:
    """The inverse of :func:`to_scale`; a loss is never negative."""
    return np.asarray(np.maximum(np.exp(np.asarray(values, dtype=float)) - FLOOR, 0.0))


def place(plan: str, loss: str) -> int:
    """Position of a number in :data:`NAMES`."""
    return NAMES.index((plan, loss))


def front(values: Float[np.ndarray, "*rows Q"]) -> Float[np.ndarray, "*rows K 2"]:
    """Losses (SFT, preference) of Mix at each of :data:`LAMBDAS`."""
    found = np.asarray(values)[..., : 2 * len(LAMBDAS)]
    return found.reshape(*found.shape[:-1], len(LAMBDAS), 2)


def ranges(values: Float[np.ndarray, "*rows Q"]) -> Float[np.ndarray, "*rows 2"]:
    """Range of each loss over the front."""
    return np.asarray(np.ptp(front(values), axis=-2))


def forgetting(values: Float[np.ndarray, "*rows Q"]) -> Float[np.ndarray, "*rows 2"]:
    """Rise of the SFT loss in the second stage of SFT→DPO; of the preference loss in DPO→SFT."""
    values = np.asarray(values)
    ends = [place("sft-dpo", "sft_loss"), place("dpo-sft", "preference_loss")]
    stages = [place("sft stage", "sft_loss"), place("preference stage", "preference_loss")]
    return np.asarray(values[..., ends] - values[..., stages])


def assemble(
    mixes: Float[np.ndarray, "K 2"],
    sft_first: Float[np.ndarray, "2 2"],
    preference_first: Float[np.ndarray, "2 2"],
) -> Float[np.ndarray, " Q"]:
    """The Q numbers from losses of Mix, and after both stages of either order.

    Rounds are predicted as Mix at one half: what distinguishes them is left to the calibration.
    """
    middle = mixes[LAMBDAS.index(0.5)]
    parts = [np.ravel(mixes), sft_first[1], preference_first[1], middle]
    return np.concatenate([*parts, [sft_first[0, 0], preference_first[0, 1]]])


def knee(front: Float[np.ndarray, "K 2"]) -> int:
    """Number of the weight whose losses, in units of the front's ranges, have the least sum."""
    spread = np.maximum(np.ptp(front, axis=0), 1e-9)
    return int(np.argmin(np.sum((front - front.min(axis=0)) / spread, axis=1)))
