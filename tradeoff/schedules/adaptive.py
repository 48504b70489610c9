"""Schedules that evaluate the losses: MAXRIGHT, sharp or smooth, and a limit on the SFT loss."""

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

Temperature = Annotated[float, Within(1e-9, 1e9), "It counts nats."]


@dataclass(frozen=True, kw_only=True)
class Maxright(Schedule):
    """Follow the objective whose weighted gap is larger (ties go to SFT).

    Attributes
    ----------
    refresh, samples, optimum_error
        How the compared values are computed, see :class:`GapValues`.
    weighted
        Step along the weighted gradient, as the subgradient method on F_lambda does. ``False``
        steps along the unweighted gradient of the chosen objective, as the official code does.
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
class SmoothMaxright(Schedule):
    """Draw an objective by its part in the gradient of a smooth maximum of both weighted gaps.

    With e the softmax of both weighted gaps over ``mu``, an update follows the preference objective
    with probability ``lam e[1] / ((1 - lam) e[0] + lam e[1])``, so that it goes along the gradient
    of the smooth Tchebycheff function in the mean, and computes one gradient.

    Attributes
    ----------
    mu
        Temperature of the maximum, in nats; positive. Large: ALRIGHT. Small: MAXRIGHT, along
        unweighted gradients.
    refresh, samples, optimum_error
        How the compared values are computed, see :class:`GapValues`.

    Notes
    -----
    Card X05, ours; the function is that of arXiv 2402.19078, equation (7). An iterate counts in the
    average by the length of its step along the gradient of that function.
    """

    name: ClassVar[str] = "smooth_maxright"
    source: ClassVar[str] = "ours"
    mu: Temperature = 0.05
    refresh: Every | None = 10
    samples: Samples = 0
    optimum_error: tuple[Nats, Nats] = (0.0, 0.0)

    @property
    def label(self) -> str:
        return "smooth MAXRIGHT"

    def plan(self, steps: int) -> Plan:
        values = GapValues(
            (1 - self.lam, self.lam),
            self.refresh,
            self.samples,
            self.optimum_error,
            temperature=self.mu,
        )
        return self._plan(steps, Rule.SMOOTH_GAP, gaps=values)


@dataclass(frozen=True, kw_only=True)
class Constrained(Schedule):
    """Follow the preference objective while the SFT loss is within a limit, else SFT.

    It minimises the preference loss under an upper limit on the SFT loss, such as a release
    criterion. A run does not depend on ``lam``, which only sets the weight of scores such as the
    gap of f_lambda.

    Attributes
    ----------
    limit
        Largest allowed SFT loss, in nats above the least SFT loss; not negative.
    relative
        ``limit`` is a share of the gain in SFT loss from the start of the run to the least SFT
        loss.
    refresh, samples
        How the SFT loss is computed, see :class:`GapValues`. By default it is exact at every
        update, and no update follows preferences at an iterate beyond the limit.

    Notes
    -----
    Theory: T15. ``limit`` includes its tolerance: for "SFT loss at most c, up to tau" the limit is
    c + tau minus the least SFT loss. The average of the theorem is over the iterates at which
    preferences were followed; it is ``average`` of
    :class:`tradeoff.convex.simulate.Trajectories`.
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
