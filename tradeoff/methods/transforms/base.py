"""The base of what is done with the training rows before training."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from tradeoff.errors import InputError
from tradeoff.parts import Part
from tradeoff.settings import Within


@runtime_checkable
class TrainingRows(Protocol):
    """What a transform sees of the training rows of one objective, at every scale."""

    @property
    def objective(self) -> int:
        """0 for demonstrations, 1 for preference pairs."""

    @property
    def lengths(self) -> Int[np.ndarray, "n sides"]:
        """Tokens of each response: one side for demonstrations; chosen and rejected for pairs."""

    def log_probs(self) -> Float[np.ndarray, "n sides"]:
        """Log-probability of each response under the policy before training, in nats.

        Each row asked for costs a forward pass.
        """


@dataclass(frozen=True, kw_only=True)
class Transform(Part):
    """Chooses the rows that are trained on, before training.

    Held-out rows and all losses that are reported stay as they are.

    Attributes
    ----------
    by_length
        Whether it looks at lengths, a class attribute.
    asks
        Objectives of the rows whose log-probabilities it asks the policy for, a class attribute.
    by_token
        Whether it looks at single tokens, a class attribute.
    """

    kind: ClassVar[str] = "data"
    by_length: ClassVar[bool] = False
    asks: ClassVar[tuple[int, ...]] = ()
    by_token: ClassVar[bool] = False

    @property
    def sft_cost(self) -> float:
        """Cost of a gradient of demonstrations, in gradients of demonstrations as they are."""
        return 1.0

    def priced(self, *, drawn: bool) -> tuple[float, float]:
        """Cost of a gradient of demonstrations, and what is added to that of a batch of pairs.

        Both are in gradients of demonstrations as they are, with the cost of writing rows.

        Parameters
        ----------
        drawn
            Whether responses are drawn, as there are too many to list.
        """
        return self.sft_cost, 0.0

    def kept(self, rows: TrainingRows) -> Int[np.ndarray, " k"]:
        """Places of the rows that are trained on; a place that comes twice counts twice.

        The base keeps all of them.
        """
        return np.arange(len(rows.lengths))

    def chosen(self, rows: TrainingRows) -> Int[np.ndarray, " k"]:
        """:meth:`kept`, where that leaves rows of this objective.

        Raises
        ------
        InputError
            If it leaves none, or names rows that are not there.
        """
        places, count = np.asarray(self.kept(rows)), len(rows.lengths)
        if not places.size or places.min() < 0 or places.max() >= count:
            raise InputError(
                f"{self.label} leaves no {('demonstrations', 'pairs')[rows.objective]}"
                if not places.size
                else f"{self.label} names rows that are not there",
                field="data",
                value=self.name,
                remedy=f"Choose some of the {count} rows.",
            )
        return places

    def unsupported(self, scale: str) -> str | None:
        if scale == "convex" and self.by_length:
            return "every response counts as one token there"
        if scale == "llm" and self.asks:
            return "the trainer chooses its rows before it runs the policy"
        return None


KeptShare = Annotated[float, Within(0, 1, "(]")]


@dataclass(frozen=True, kw_only=True)
class BestRows(Transform):
    """Keeps a share of the rows of one objective: those that come first in an order.

    Attributes
    ----------
    share
        Share of the rows that is kept, in (0, 1].
    objective
        Whose rows are chosen, a class attribute; all of the other's are kept.
    """

    objective: ClassVar[int]
    share: KeptShare = 0.5

    @abstractmethod
    def order(self, rows: TrainingRows) -> Float[np.ndarray, " n"]:
        """A value of each row; the least are kept."""

    def kept(self, rows: TrainingRows) -> Int[np.ndarray, " k"]:
        if rows.objective != self.objective:
            return super().kept(rows)
        return share_of(self.order(rows), self.share)


def per_token(rows: TrainingRows) -> Float[np.ndarray, "n sides"]:
    """Log-probability of each response under the policy before training, for each of its tokens."""
    return np.asarray(rows.log_probs() / np.maximum(rows.lengths, 1))


@dataclass(frozen=True, kw_only=True)
class EveryRow(Transform):
    """All rows: the identity of the slot."""

    name: ClassVar[str] = "every_row"
    title: ClassVar[str] = "all rows"


def share_of(values: Float[np.ndarray, " n"], share: float) -> Int[np.ndarray, " k"]:
    """Places, in order, of the least values: ``round(share * n)`` of them, at least one.

    Of equal values the first ones count as less.
    """
    count = max(1, round(share * len(values)))
    return np.sort(np.argsort(values, kind="stable")[:count])
