"""Schedules that follow both objectives, with weights that change during the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tradeoff.schedules.base import Schedule
from tradeoff.schedules.plan import Plan, Rule
from tradeoff.settings import Share, Updates, fit


@dataclass(frozen=True, kw_only=True)
class MovingMix(Schedule):
    """Mix whose SFT weight begins at a peak and falls to ``1 - lam`` along half a cosine.

    Attributes
    ----------
    peak
        First weight of SFT, in [0, 1].
    moving
        Share of the updates in which the weight changes, in [0, 1]. Later updates are those of Mix.

    Notes
    -----
    Card J44, the schedule of CHORD; its weights of tokens are the loss
    :class:`tradeoff.methods.losses.Chord`. The published course ends at a fixed weight of SFT; here
    it is that of lam. Costs two gradients.
    """

    name: ClassVar[str] = "moving_mix"
    title: ClassVar[str] = "CHORD-μ"
    source: ClassVar[str] = "arXiv 2508.11408"
    peak: Share = 0.9
    moving: Share = 0.5

    @property
    def label(self) -> str:
        return self.title

    def plan(self, steps: int) -> Plan:
        steps = fit(Updates, steps, "steps")
        last = round(self.moving * steps)
        done = np.minimum(np.arange(steps) / max(1, last), 1.0) if last else np.ones(steps)
        sft = (1 - self.lam) + (self.peak - (1 - self.lam)) * 0.5 * (1 + np.cos(np.pi * done))
        plan = self._plan(steps, Rule.BOTH)
        weights = np.stack([sft, 1 - sft], axis=-1)
        return Plan(plan.rule, plan.probability, weights, plan.clock, plan.gaps, plan.both)
