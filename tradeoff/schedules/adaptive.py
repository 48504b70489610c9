"""Schedules that look at the losses: the larger gap, or a limit on what SFT may lose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tradeoff.errors import InputError
from tradeoff.schedules import checks
from tradeoff.schedules.base import Schedule
from tradeoff.schedules.plan import GapValues, Plan, Rule


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
    refresh: int | None = 1
    samples: int = 0
    weighted: bool = True
    optimum_error: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.refresh is not None:
            checks.whole("refresh", self.refresh, 1, "It counts updates; None stands for never.")
        checks.whole("samples", self.samples, 0, "It counts data points; 0 stands for all.")
        remedy = "Use True for weighted gradients, False for the official code's."
        checks.flag("weighted", self.weighted, remedy)
        errors = self.optimum_error
        if not (isinstance(errors, tuple) and len(errors) == 2 and all(map(checks.finite, errors))):
            raise InputError(
                "not a pair of finite numbers",
                field="optimum_error",
                value=errors,
                remedy="Give one number for SFT and one for preference, such as (0.1, 0.0).",
            )

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
    limit: float = 0.05
    relative: bool = False
    refresh: int = 1
    samples: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.flag("relative", self.relative, "Use True for a share, False for nats.")
        if not (checks.finite(self.limit) and self.limit >= 0):
            remedy = "Give nats above the least SFT loss, or a share with relative=True."
            raise InputError(
                "not a finite number of at least 0", field="limit", value=self.limit, remedy=remedy
            )
        if self.relative:
            checks.unit_interval("limit", self.limit)
        meaning = "It counts updates; a limit that is never looked at again would not hold."
        checks.whole("refresh", self.refresh, 1, meaning)
        checks.whole("samples", self.samples, 0, "It counts data points; 0 stands for all.")

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
