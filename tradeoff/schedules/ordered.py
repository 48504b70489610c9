"""Schedules with a fixed order of the objectives, without random draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tradeoff.schedules.base import Schedule
from tradeoff.schedules.joint import Alright
from tradeoff.schedules.plan import Plan, Rule
from tradeoff.settings import Share, Updates, fit

GOLDEN = (5**0.5 - 1) / 2
"""The golden ratio less one: the fractional parts of its multiples fill [0, 1) evenly."""


@dataclass(frozen=True, kw_only=True)
class Evenly(Alright):
    """ALRIGHT with a low-discrepancy sequence in place of random draws.

    Update t follows preferences if the fractional part of ``phase + t * golden`` is below the
    probability. After n updates the number of preference updates differs from its mean by at most
    the order of log n, in practice by less than 3. For random draws the difference is of the order
    of the root of n.

    Attributes
    ----------
    probability
        As for :class:`Alright`: another share of preference updates, with gradients scaled so that
        the mean weights are still those of ``lam``.
    phase
        Start of the sequence, in [0, 1].

    Notes
    -----
    Cards X01 and, with a probability, X02; ours. The order is the same in all runs. Costs one
    gradient.
    """

    name: ClassVar[str] = "evenly"
    source: ClassVar[str] = "ours"
    phase: Share = 0.0

    @property
    def label(self) -> str:
        return "evenly" if self.probability is None else "evenly (budget)"

    def plan(self, steps: int) -> Plan:
        plan = super().plan(steps)
        places = (self.phase + GOLDEN * np.arange(len(plan))) % 1.0
        turns = (places < plan.probability).astype(float)
        return self._plan(steps, Rule.DRAW, probability=turns, weights=tuple(plan.weights[0]))


@dataclass(frozen=True, kw_only=True)
class Alternation(Schedule):
    """Strict alternation of SFT and preferences, with weights ``2 (1 - lam)`` and ``2 lam``.

    Notes
    -----
    Card X04, ours. To first order, two updates equal two updates of Mix. Costs one gradient.
    """

    name: ClassVar[str] = "alternation"
    title: ClassVar[str] = "weighted alternation"
    source: ClassVar[str] = "ours"

    @property
    def label(self) -> str:
        return self.title

    def plan(self, steps: int) -> Plan:
        turns = (np.arange(fit(Updates, steps, "steps")) % 2).astype(float)
        weights = (2 * (1 - self.lam), 2 * self.lam)
        return self._plan(steps, Rule.DRAW, probability=turns, weights=weights)
