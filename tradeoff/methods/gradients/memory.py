"""Rules that train on preferences and only keep the SFT loss from rising."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tradeoff.methods.gradients.base import Array, GradientRule, Seen, State, ratio
from tradeoff.settings import NotNegative


@dataclass(frozen=True, kw_only=True)
class Gem(GradientRule):
    """The preference gradient, plus as much of the SFT gradient as keeps that loss from rising.

    Attributes
    ----------
    margin
        Least factor of the SFT gradient where the gradients conflict: a minimum of replay.

    Notes
    -----
    Cards C07 and C08. The weights of the schedule do not count. The batch of demonstrations of an
    update is the memory. Meant for a stage after SFT, such as ``Stages`` of SFT and Mix.
    """

    name: ClassVar[str] = "gem"
    title: ClassVar[str] = "GEM"
    source: ClassVar[str] = "arXiv 1706.08840, equation (11), of one constraint"
    weighted: ClassVar[bool] = False
    margin: NotNegative = 0.5

    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        a, _, c = seen.squares
        least = np.maximum(ratio(-c, a), self.margin)
        first = np.where(np.asarray(c) < 0, least, 0.0)
        return np.stack([first, np.ones_like(first)], axis=-1), state


@dataclass(frozen=True, kw_only=True)
class Agem(GradientRule):
    """The preference gradient without its part against the SFT gradient.

    Notes
    -----
    Card C08. It is :class:`Gem` with margin 0: in a conflict the direction is orthogonal to the
    SFT gradient. From the SFT optimum, full gradients make almost no progress with small steps.
    """

    name: ClassVar[str] = "agem"
    title: ClassVar[str] = "A-GEM"
    source: ClassVar[str] = "arXiv 1812.00420, equation (11)"
    weighted: ClassVar[bool] = False

    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        return Gem(margin=0.0).factors(seen, state)
