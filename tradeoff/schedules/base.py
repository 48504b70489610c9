"""The base of all schedules."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tradeoff.errors import InputError
from tradeoff.parts import Part
from tradeoff.schedules.plan import GapValues, Plan, Rule
from tradeoff.settings import Share, Updates, fit


@dataclass(frozen=True, kw_only=True)
class Schedule(Part):
    """Base of all schedules.

    Attributes
    ----------
    lam
        Weight of the preference objective, in [0, 1].
    """

    kind: ClassVar[str] = "schedule"
    lam: Share = 0.5

    @abstractmethod
    def plan(self, steps: int) -> Plan:
        """Describe every update of a run of ``steps`` updates."""

    @property
    def key(self) -> str:
        """Name under which results are stored: the catalogue's name and variants, with dashes.

        It does not include numbers that vary within a method.
        """
        return self.name

    @property
    def label(self) -> str:
        """Name for legends, without ``lam``."""
        return self.name

    @property
    def family(self) -> str:
        """Name of a group of runs: the label without numbers that vary within a method."""
        return self.label

    def _plan(
        self,
        steps: int,
        rule: Rule,
        *,
        probability: ArrayLike = 0.0,
        weights: tuple[float, float] = (1.0, 1.0),
        clock: NDArray[np.int64] | None = None,
        gaps: GapValues | None = None,
        both: NDArray[np.bool_] | None = None,
    ) -> Plan:
        steps = fit(Updates, steps, "steps")
        return Plan(
            rule=rule,
            probability=_spread("probability", probability, (steps,)),
            weights=_spread("weights", weights, (steps, 2)),
            clock=np.arange(1, steps + 1) if clock is None else clock,
            gaps=gaps or GapValues(),
            both=both,
        )


def _spread(name: str, values: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Values of a plan, one for all updates or one for each."""
    try:
        return np.broadcast_to(np.asarray(values, dtype=float), shape)
    except ValueError as error:
        raise InputError(
            f"cannot be spread over {shape[0]} updates",
            field=name,
            value=values,
            remedy=f"Give numbers of the shape {shape}, or one for all updates.",
        ) from error
