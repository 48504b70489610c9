"""Schedules in stages: one objective after the other, once or many times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from tradeoff.errors import InputError
from tradeoff.schedules.base import Schedule
from tradeoff.schedules.plan import Plan, Rule
from tradeoff.settings import Share, Updates, Within, fit

Times = Annotated[int, Within(1, 10**8), "It counts how often both objectives get a turn."]


@dataclass(frozen=True, kw_only=True)
class Sequential(Schedule):
    """One objective, then the other: the common practice whose forgetting is at issue.

    Attributes
    ----------
    first
        Objective of the first stage, "sft" or "preference".
    share
        Fraction of the updates given to the first stage, in [0, 1].
    replay
        Probability that an update of the second stage follows the first stage's objective
        instead, in [0, 1]: the usual remedy for forgetting.
    """

    name: ClassVar[str] = "sequential"
    first: Literal["sft", "preference"] = "sft"
    share: Share = 0.5
    replay: Share = 0.0

    @property
    def label(self) -> str:
        order = "SFT→DPO" if self.first == "sft" else "DPO→SFT"
        return f"{order} (replay)" if self.replay else order

    def plan(self, steps: int) -> Plan:
        steps = fit(Updates, steps, "steps")
        boundary = round(self.share * steps)
        first_stage = np.arange(steps) < boundary
        followed = np.where(first_stage, 1.0, self.replay)
        preference = followed if self.first == "preference" else 1 - followed
        clock = np.concatenate([np.arange(boundary), np.arange(steps - boundary)]) + 1
        return self._plan(steps, Rule.DRAW, probability=preference, clock=clock)


@dataclass(frozen=True, kw_only=True)
class Rounds(Schedule):
    """One objective, then the other, again and again: two ordinary trainers in turn.

    One round is sequential training; as many rounds as fit are a strict alternation. By default
    optimiser, step size and averages run on through all rounds.

    Attributes
    ----------
    rounds
        How many times both objectives get their turn, K. A run needs at least as many updates.
    share
        Share of the updates given to the preference objective, in [0, 1]; ``None``: ``lam``.
        The totals are those of the whole run, spread over the rounds as evenly as whole updates
        allow. Each round has both objectives if each has at least K updates in all.
    first
        Objective that each round begins with, "sft" or "preference".
    restart
        Begin optimiser, step size and averages anew at each turn, as two trainers would that know
        nothing of one another.

    Notes
    -----
    Theory: T14, the gap is at most r G / sqrt(K), whatever the length of a round.
    """

    name: ClassVar[str] = "rounds"
    rounds: Times = 4
    share: Share | None = None
    first: Literal["sft", "preference"] = "sft"
    restart: bool = False

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
        """Updates done when each round of a run of ``steps`` updates begins."""
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

        The one rounds down and the other up, so that rounds are equally long where K divides T.
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
