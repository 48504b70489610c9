"""Schedules that look at the losses: the larger gap, or a limit on what SFT may lose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from tradeoff.schedules.base import Schedule
from tradeoff.schedules.plan import GapValues, Plan, Rule
from tradeoff.settings import Share, Within, fit

Every = Annotated[int, Within(1, 10**8), "It counts the updates between two looks at the losses."]
Samples = Annotated[int, Within(0, 10**9), "It counts data points; 0 stands for all."]
Nats = Annotated[float, Within(-1e6, 1e6)]
Limit = Annotated[
    float, Within(0, 1e6), "It counts nats above the least SFT loss, or with relative=True a share."
]


@dataclass(frozen=True, kw_only=True)
class Maxright(Schedule):
    """Follow the objective whose weighted gap is larger (ties go to SFT).

    Attributes
    ----------
    refresh, samples, optimum_error
        Where the compared values come from, see :class:`GapValues`.
    weighted
        Step along the weighted gradient, as the subgradient method on F_lambda does. ``False``
        is the official code: the chosen gradient is not weighted.
    """

    name: ClassVar[str] = "maxright"
    refresh: Every | None = 1
    samples: Samples = 0
    weighted: bool = True
    optimum_error: tuple[Nats, Nats] = (0.0, 0.0)

    @property
    def label(self) -> str:
        every = "never" if self.refresh is None else str(self.refresh)
        return self.family if self.refresh == 1 else f"{self.family} (k={every})"

    @property
    def family(self) -> str:
        return "MAXRIGHT"

    def plan(self, steps: int) -> Plan:
        pair = (1 - self.lam, self.lam)
        values = GapValues(pair, self.refresh, self.samples, self.optimum_error)
        weights = pair if self.weighted else (1.0, 1.0)
        return self._plan(steps, Rule.LARGER_GAP, weights=weights, gaps=values)


@dataclass(frozen=True, kw_only=True)
class Constrained(Schedule):
    """Follow the preference objective while the SFT loss is within a limit, else SFT.

    What a release gate asks for: lose at most so much of SFT, and with that the best preference
    loss that can be had. No weight is needed: ``lam`` changes nothing in a run, and only says at
    which weight yardsticks such as the gap of f_lambda are read.

    Attributes
    ----------
    limit
        How much of SFT may be lost; not negative. In nats above the least SFT loss.
    relative
        ``limit`` is a share instead: of the gain in SFT loss from the start of the run to the
        least one.
    refresh, samples
        Where the SFT loss comes from, see :class:`GapValues`. Exact at every update by default,
        and then no update follows preferences at an iterate beyond the limit.

    Notes
    -----
    Theory: T15. Its tolerance is part of ``limit``: for "SFT loss at most c, up to tau" the limit
    is c + tau minus the least SFT loss. The average that the theory returns is that of the
    iterates at which preferences were followed, which
    :class:`tradeoff.convex.simulate.Trajectories` has as ``average``.
    """

    name: ClassVar[str] = "constrained"
    limit: Limit = 0.05
    relative: bool = False
    refresh: Every = 1
    samples: Samples = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.relative:
            fit(Share, self.limit, "limit")

    @property
    def label(self) -> str:
        limit = f"{100 * self.limit:g} %" if self.relative else f"{self.limit:g} nats"
        return f"{self.family} ({limit})"

    @property
    def family(self) -> str:
        return "Constrained"

    def plan(self, steps: int) -> Plan:
        values = GapValues(
            refresh=self.refresh, samples=self.samples, limit=self.limit, relative=self.relative
        )
        return self._plan(steps, Rule.WITHIN_LIMIT, gaps=values)
