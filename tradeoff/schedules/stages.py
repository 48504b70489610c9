"""Schedules in stages: one objective after the other, once or many times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from tradeoff.errors import InputError
from tradeoff.schedules.base import Schedule
from tradeoff.schedules.plan import Plan, Rule
from tradeoff.settings import Share, Updates, Within, fit

MANY = 4096
"""Updates of a plan that is made to check the rule of a schedule."""
Times = Annotated[int, Within(1, 10**8), "It counts how often both objectives get a turn."]


@dataclass(frozen=True, kw_only=True)
class Sequential(Schedule):
    """Train on one objective, then on the other: the common practice, which forgets.

    Attributes
    ----------
    first
        Objective of the first stage, "sft" or "preference".
    share
        Fraction of the updates given to the first stage, in [0, 1]. ``None``: the preference stage
        has the share ``lam``.
    replay
        Probability that an update of the second stage follows the first stage's objective, in
        [0, 1]: the usual remedy for forgetting.
    """

    name: ClassVar[str] = "sequential"
    first: Literal["sft", "preference"] = "sft"
    share: Share | None = None
    replay: Share = 0.0

    @property
    def key(self) -> str:
        order = "sft-dpo" if self.first == "sft" else "dpo-sft"
        return f"{order}-replay" if self.replay else order

    @property
    def label(self) -> str:
        order = "SFT→DPO" if self.first == "sft" else "DPO→SFT"
        return f"{order} (replay)" if self.replay else order

    @property
    def first_share(self) -> float:
        """Fraction of the updates given to the first stage."""
        if self.share is not None:
            return self.share
        return self.lam if self.first == "preference" else 1 - self.lam

    def at(self, lam: float) -> Sequential:
        """The same order at another weight; the preference stage has the share ``lam``."""
        return replace(self, lam=lam, share=None)

    def plan(self, steps: int) -> Plan:
        steps = fit(Updates, steps, "steps")
        boundary = round(self.first_share * steps)
        first_stage = np.arange(steps) < boundary
        followed = np.where(first_stage, 1.0, self.replay)
        preference = followed if self.first == "preference" else 1 - followed
        clock = np.concatenate([np.arange(boundary), np.arange(steps - boundary)]) + 1
        return self._plan(steps, Rule.DRAW, probability=preference, clock=clock)


@dataclass(frozen=True, kw_only=True)
class Rounds(Schedule):
    """Train on one objective for a while, then on the other, K times: two trainers in turn.

    One round is sequential training. The largest possible number of rounds is a strict alternation.
    By default optimiser, step size and averages continue through all rounds.

    Attributes
    ----------
    rounds
        K, the number of rounds. A run needs at least as many updates.
    share
        Share of the updates given to the preference objective, in [0, 1]; ``None``: ``lam``. It
        holds for the whole run; the updates of each objective are spread over the rounds as evenly
        as possible. Each round has both objectives if each has at least K updates in all.
    first
        Objective that each round begins with, "sft" or "preference".
    restart
        Restart optimiser, step size and averages whenever the objective changes, as two separate
        trainers would.

    Notes
    -----
    Theory: T14, the gap is at most r G / sqrt(K), for rounds of any length.
    """

    name: ClassVar[str] = "rounds"
    rounds: Times = 4
    share: Share | None = None
    first: Literal["sft", "preference"] = "sft"
    restart: bool = False

    @property
    def key(self) -> str:
        order = [] if self.first == "sft" else ["dpo-sft"]
        return "-".join([self.name, *order, *(["restarted"] if self.restart else [])])

    @property
    def label(self) -> str:
        return f"Rounds ({', '.join([f'K={self.rounds}', *self._variant])})"

    @property
    def family(self) -> str:
        return f"Rounds ({', '.join(self._variant)})" if self._variant else "Rounds"

    @property
    def _variant(self) -> list[str]:
        order = [] if self.first == "sft" else ["DPO→SFT"]
        return [*order, "restarted"] if self.restart else order

    def starts(self, steps: int) -> Int[np.ndarray, " K"]:
        """(K,) number of updates before each round of a run of ``steps`` updates."""
        return np.asarray(self._done(steps).sum(axis=1)[:-1])

    def plan(self, steps: int) -> Plan:
        lengths = np.diff(self._done(steps), axis=0).ravel()
        of_first = np.repeat(np.tile([True, False], self.rounds), lengths)
        preference = of_first == (self.first == "preference")
        clock = np.concatenate([np.arange(length) for length in lengths]) + 1
        return self._plan(
            steps, Rule.DRAW, probability=preference, clock=clock if self.restart else None
        )

    def _done(self, steps: int) -> NDArray[np.int64]:
        """(K + 1, 2) updates of the first and of the other objective before each round.

        The first count is rounded down and the other up, so that rounds are equally long where K
        divides T.
        """
        steps = fit(Updates, steps, "steps")
        if steps < self.rounds:
            raise InputError(
                f"a run of {steps} updates has no room for {self.rounds} rounds",
                field="rounds",
                value=self.rounds,
                remedy="Use fewer rounds, or more updates.",
            )
        preference = self.lam if self.share is None else self.share
        first = round((preference if self.first == "preference" else 1 - preference) * steps)
        number = np.arange(self.rounds + 1)
        of_first = number * first // self.rounds
        of_second = -(-number * (steps - first) // self.rounds)
        return np.stack([of_first, of_second], axis=-1)


@dataclass(frozen=True, kw_only=True)
class Stages(Schedule):
    """A sequence of other schedules, each for a share of the updates.

    Step sizes and averages restart with each stage.

    Attributes
    ----------
    schedules
        At least one, in order. None of them may evaluate losses.
    shares
        Share of the updates of each schedule; they sum to one.

    Examples
    --------
    SFT for a tenth of the run, then both objectives together:

    >>> from tradeoff.schedules import Alright, Mix
    >>> warm = Stages(schedules=(Alright(lam=0.0), Mix(lam=0.3)), shares=(0.1, 0.9), lam=0.3)
    >>> warm.plan(20).together.sum()
    np.int64(18)
    """

    name: ClassVar[str] = "stages"
    schedules: tuple[Schedule, ...] = (Sequential(),)
    shares: tuple[Share, ...] = (1.0,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.shares) != len(self.schedules) or abs(sum(self.shares) - 1) > 1e-9:
            raise InputError(
                f"not {len(self.schedules)} shares that sum to one",
                field="shares",
                value=self.shares,
                remedy="Give a share of the updates for each schedule.",
            )
        for schedule in self.schedules:
            if schedule.plan(MANY).watched:
                raise InputError(
                    "a schedule that looks at losses cannot be a stage",
                    field="schedules",
                    value=schedule.name,
                    remedy="Use schedules that draw an objective or follow both.",
                )

    @property
    def key(self) -> str:
        return "-then-".join(schedule.key for schedule in self.schedules)

    @property
    def label(self) -> str:
        return ", then ".join(schedule.label for schedule in self.schedules)

    def at(self, lam: float) -> Stages:
        """The same stages at another weight, which all schedules get.

        A schedule of weight 0 or 1 follows one objective alone, and keeps its weight.
        """
        moved = [s if s.lam in (0, 1) else s.at(lam) for s in self.schedules]
        return replace(self, lam=lam, schedules=tuple(moved))

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Stages:
        from tradeoff.schedules.registry import from_dict  # which knows this class

        inner = settings.get("schedules")
        if isinstance(inner, list | tuple):
            made = [s if isinstance(s, Schedule) else from_dict(s) for s in inner]
            settings = {**settings, "schedules": made}
        return super().from_settings(settings)

    def plan(self, steps: int) -> Plan:
        steps = fit(Updates, steps, "steps")
        ends = np.rint(np.cumsum(self.shares) * steps).astype(int)
        lengths = np.diff(ends, prepend=0)
        plans = [s.plan(int(n)) for s, n in zip(self.schedules, lengths, strict=True) if n]
        return Plan(
            rule=Rule.DRAW,
            probability=np.concatenate([plan.probability for plan in plans]),
            weights=np.concatenate([plan.weights for plan in plans]),
            clock=np.concatenate([plan.clock for plan in plans]),
            both=np.concatenate([plan.together for plan in plans]),
        )
