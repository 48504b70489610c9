"""Defects of the official code of arXiv 2410.15483: one switch and one hook for each.

The trainer and its parts call the hooks, and know no switch. With all switches off, every hook
returns what the package itself does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from tradeoff.data.rows import PreferenceRow, SftRow
from tradeoff.data.splits import Split
from tradeoff.errors import InputError
from tradeoff.llm._data import Example, Pair, Tokenised, fingerprint
from tradeoff.methods import Method
from tradeoff.schedules import PREFERENCE, SFT, Plan, Rule
from tradeoff.settings import check

R = TypeVar("R", SftRow, PreferenceRow)
T = TypeVar("T", bound=Example | Pair)
Splits = tuple[Split[SftRow], Split[PreferenceRow]]
_HELD_OUT = 0.03


@dataclass(frozen=True, kw_only=True)
class Defects:
    """Unexpected behaviour of the official code of arXiv 2410.15483, one switch for each.

    All are off by default; switch them on to reproduce its numbers.

    Attributes
    ----------
    evaluate_on_training_rows
        Held-out losses are measured on the first 3 % of the training rows.
    mask_first_token
        The first token of each response carries no loss.
    discard_unused_batch
        Every update reads a batch of both sets and throws one away.
    choose_per_forward
        The objective is drawn for each forward pass, so that one update may mix both.
    joint_graph
        Mix keeps the graphs of both losses in memory and has one backward pass through both.
    stop_at_either_optimum
        The run ends as soon as either loss reaches its optimum, from the first update on.
    """

    evaluate_on_training_rows: bool = False
    mask_first_token: bool = False
    discard_unused_batch: bool = False
    choose_per_forward: bool = False
    joint_graph: bool = False
    stop_at_either_optimum: bool = False

    def __post_init__(self) -> None:
        check(self)

    @classmethod
    def everything(cls) -> Defects:
        """All switches on: the official code as it is."""
        return cls(**{item.name: True for item in fields(cls)})

    # ------------------------------------------------------------------ settings

    def check_method(self, method: Method) -> None:
        """Raise an `InputError` if the defects do not work with the method."""
        if not method.plain and (self.joint_graph or self.choose_per_forward):
            raise InputError(
                "these defects work only with schedules",
                field="defects",
                value=method.label,
                remedy="Switch joint_graph and choose_per_forward off.",
            )

    @property
    def prompts_can_be_shared(self) -> bool:
        """Whether the loss of both responses of a pair starts right after their prompt."""
        return not self.mask_first_token

    @property
    def determining(self) -> tuple[str, ...]:
        """Settings that change the results of a run only because of a defect."""
        return ("rows_per_forward",) if self.choose_per_forward else ()

    # ------------------------------------------------------------------ data

    def split(
        self,
        training: tuple[Sequence[SftRow], Sequence[PreferenceRow]],
        usual: Callable[[], Splits],
    ) -> Splits:
        """Training and held-out rows of both sets: those of `usual`, by default.

        Parameters
        ----------
        training
            All rows of (SFT, preference).
        usual
            Holds rows out of training.
        """
        if not self.evaluate_on_training_rows:
            return usual()
        return _first_rows(training[0]), _first_rows(training[1])

    def masked(self, part: Tokenised[T]) -> Tokenised[T]:
        """The tokens of a set with the positions that carry loss: unchanged, by default."""
        if not self.mask_first_token:
            return part
        stored: Any = part.items
        if isinstance(stored, tuple):
            items: Any = tuple(_shifted(item) for item in stored)
        else:
            items = stored.shifted(1)
        # Caches of log-probabilities use this fingerprint, and the values differ.
        return replace(part, items=items, fingerprint=fingerprint(items))

    # ------------------------------------------------------------------ updates

    def draws(self, rule: Rule, rows: int, at_once: int) -> int:
        """Number of times that an update draws what it follows: once, by default.

        Parameters
        ----------
        rule
            Rule of the schedule's plan.
        rows, at_once
            Rows of an update, and of a forward pass of all processes.
        """
        return -(-rows // at_once) if self.choose_per_forward and rule is Rule.DRAW else 1

    def discards(self, rule: Rule) -> bool:
        """Whether the batch of an objective that is not followed is read: no, by default.

        Parameters
        ----------
        rule
            Rule of the schedule's plan.
        """
        return self.discard_unused_batch and not (self.choose_per_forward and rule is Rule.DRAW)

    @property
    def read_as_followed(self) -> bool:
        """Whether the number of updates of an objective tells how many of its rows were read."""
        return not (self.discard_unused_batch or self.choose_per_forward)

    def backward(self, run: Callable[[Any], None]) -> Callable[[Any, bool], None]:
        """Function of the loss of a pass and whether it is the update's last: `run`, by default.

        Parameters
        ----------
        run
            Computes the gradients of a loss.
        """
        if not self.joint_graph:
            return lambda loss, last: run(loss)
        waiting: list[Any] = []

        def joint(loss: Any, last: bool) -> None:
            waiting.append(loss)
            if last:
                run(sum(waiting))

        return joint

    # ------------------------------------------------------------------ when a run ends

    def watched(self, plan: Plan) -> tuple[int, ...]:
        """Objectives whose losses a run must know: those of the plan, by default."""
        return (SFT, PREFERENCE) if self.stop_at_either_optimum else tuple(plan.watched)

    def ends(self, known: Float[np.ndarray, " 2"], optima: Float[np.ndarray, " 2"]) -> bool:
        """Whether a run ends at these losses: never, by default; NaN is no optimum."""
        return self.stop_at_either_optimum and bool((known <= optima).any())


def _first_rows(rows: Sequence[R]) -> Split[R]:
    """Split in which the first rows are evaluated on, and also trained on."""
    return Split(rows, rows[: max(1, round(_HELD_OUT * len(rows)))])


def _shifted(item: T) -> T:
    longest = min(item.lengths) - 1
    return replace(item, start=min(item.start + 1, longest))
