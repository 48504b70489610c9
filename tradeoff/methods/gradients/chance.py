"""Rules that weigh both gradients at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tradeoff.errors import InputError
from tradeoff.methods.gradients.base import Array, GradientRule, Seen, State
from tradeoff.methods.gradients.values import softmax


@dataclass(frozen=True, kw_only=True)
class RandomWeights(GradientRule):
    """Random loss weighting: the weights times twice a softmax of two normal draws.

    Notes
    -----
    Card G23. On average this is the weighted sum. One objective drawn at random, instead of both
    weighted at random, is ALRIGHT. Costs two gradients.
    """

    name: ClassVar[str] = "rlw"
    title: ClassVar[str] = "RLW"
    source: ClassVar[str] = "arXiv 2111.10603"
    draws: ClassVar[bool] = True

    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        if seen.coins is None:
            raise InputError(
                "the rule draws its weights, and there are no draws",
                field="gradient",
                value=self.name,
                remedy="Give Seen its coins.",
            )
        length = np.sqrt(-2 * np.log1p(-seen.coins[..., 0]))
        turn = 2 * np.pi * seen.coins[..., 1]
        normal = length[..., None] * np.stack([np.cos(turn), np.sin(turn)], axis=-1)
        return 2 * seen.weights * softmax(normal), state
