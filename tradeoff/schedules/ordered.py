"""Schedules whose turns are fixed: sequences that keep to a share without a coin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tradeoff.schedules.base import Schedule
from tradeoff.schedules.joint import Alright
from tradeoff.schedules.plan import Plan, Rule
from tradeoff.settings import Share, Updates, fit

GOLDEN = (5**0.5 - 1) / 2
"""The golden ratio less one: multiples of it fill [0, 1) most evenly."""


@dataclass(frozen=True, kw_only=True)
class Evenly(Alright):
    """As ALRIGHT, with turns of a low-discrepancy sequence in place of a coin.

    Update t follows preferences if the fractional part of ``phase + t * golden`` is below the
    probability. After n updates their count is off its mean by at most the order of log n, in
    practice by less than 3; a coin is off by the root of n.

    Attributes
    ----------
    probability
        As for :class:`Alright`: another share of turns, with gradients scaled to weigh as lam.
    phase
        First place in the sequence, in [0, 1].

    Notes
    -----
    Cards X01 and, with a probability, X02; ours. The turns are the same in all runs. Costs one
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
    """SFT and preferences in strict turns, with gradients of weights ``2 (1 - lam)`` and ``2 lam``.

    Notes
    -----
    Card X04, ours. Two updates together are, to first order, two of Mix. Costs one gradient.
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
