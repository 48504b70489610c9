"""Schedules that follow both objectives in the whole run: together, or one drawn at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tradeoff.errors import InputError
from tradeoff.schedules.base import Schedule
from tradeoff.schedules.plan import Plan, Rule
from tradeoff.settings import Share


@dataclass(frozen=True, kw_only=True)
class Mix(Schedule):
    """Follow the weighted sum of both gradients at every update."""

    name: ClassVar[str] = "mix"

    @property
    def label(self) -> str:
        return "Mix"

    def plan(self, steps: int) -> Plan:
        return self._plan(steps, Rule.BOTH, weights=(1 - self.lam, self.lam))


@dataclass(frozen=True, kw_only=True)
class Alright(Schedule):
    """Alternate at random: the preference objective with probability ``lam``, else SFT.

    Attributes
    ----------
    probability
        Probability of the preference objective. Gradients are scaled by ``lam / probability`` and
        ``(1 - lam) / (1 - probability)``, which keeps the update unbiased for f_lambda.
        :func:`tradeoff.theory.joint.optimal_probability` gives the best value for a compute
        budget. ``None`` means ``lam``: Algorithm 1 of the paper.
    """

    name: ClassVar[str] = "alright"
    probability: Share | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.probability is None:
            return
        if (self.probability == 0 < self.lam) or (self.probability == 1 > self.lam):
            raise InputError(
                f"an objective with positive weight is never drawn at lam={self.lam}",
                field="probability",
                value=self.probability,
                remedy="Use a probability strictly between 0 and 1.",
            )

    @property
    def key(self) -> str:
        return self.name if self.probability is None else f"{self.name}-budget"

    @property
    def label(self) -> str:
        return "ALRIGHT" if self.probability is None else "ALRIGHT (budget)"

    def plan(self, steps: int) -> Plan:
        p = self.lam if self.probability is None else self.probability
        weights = (_ratio(1 - self.lam, 1 - p), _ratio(self.lam, p))
        return self._plan(steps, Rule.DRAW, probability=p, weights=weights)


def _ratio(weight: float, probability: float) -> float:
    """``weight / probability``; 0 where the objective is never drawn and has no weight."""
    return weight / probability if probability > 0 else 0.0
