"""Demonstrations that are chosen while training, from more candidates than an update needs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from tradeoff.methods.transforms.base import Transform
from tradeoff.schedules import FORWARD
from tradeoff.settings import Count, NotNegative, Within

State = dict[str, Any]
"""What is remembered of earlier updates of a run."""


@dataclass(frozen=True, kw_only=True)
class Online(Transform):
    """Chooses the demonstrations of each update by what the policy says of candidates.

    Attributes
    ----------
    candidates
        Candidates for each demonstration that is trained on; 1 is no choice, and costs nothing.
    """

    by_token: ClassVar[bool] = True
    candidates: Annotated[int, Within(1, 1000)] = 3

    @property
    def sft_cost(self) -> float:
        return 1.0 + FORWARD * self.candidates if self.candidates > 1 else 1.0

    def best(
        self, logits: Sequence[Float[np.ndarray, "_ vocabulary"]], count: int, state: State
    ) -> tuple[Int[np.ndarray, " count"], State]:
        """Places of the `count` best candidates, in order, and what is remembered.

        Parameters
        ----------
        logits
            Of each token of the response of each candidate.
        count
            How many are trained on.
        state
            What it remembered of the update before; empty at first.
        """
        if len(logits) == count:
            return np.arange(count), state
        scores, state = self.scores(logits, state)
        order = np.argsort(-scores, kind="stable")[:count]
        return np.sort(order), self.chosen_before(np.sort(order), state)

    @abstractmethod
    def scores(
        self, logits: Sequence[Float[np.ndarray, "_ vocabulary"]], state: State
    ) -> tuple[Float[np.ndarray, " n"], State]:
        """Score of each candidate, and what :meth:`chosen_before` needs of it."""

    @abstractmethod
    def chosen_before(self, places: Int[np.ndarray, " count"], state: State) -> State:
        """What is remembered when these candidates are chosen."""

    def unsupported(self, scale: str) -> str | None:
        if scale == "convex":
            return "it looks at the logits of a sequence, and every response is one token there"
        if scale == "llm":
            return "the trainer chooses its rows before it runs the policy"
        return None


@dataclass(frozen=True, kw_only=True)
class Uds(Online):
    """The demonstrations of most utility and diversity (UDS).

    Utility is the nuclear norm of the logits of a response, a matrix of tokens by vocabulary.
    Diversity is the mean distance of a sketch of that matrix from those of rows chosen before.

    Attributes
    ----------
    candidates
        As for :class:`Online`.
    diversity
        Weight of the diversity, not negative.
    rows, columns
        Size of a sketch.
    memory
        Number of rows chosen last from which distances count.

    Notes
    -----
    Card S33. The sketch multiplies the logits from both sides with fixed matrices of normal draws,
    where the published one takes random Fourier features. Costs a forward pass of each candidate.
    """

    name: ClassVar[str] = "uds"
    title: ClassVar[str] = "UDS"
    source: ClassVar[str] = "arXiv 2510.16882"
    diversity: NotNegative = 2.5e-3
    rows: Count = 8
    columns: Count = 128
    memory: Count = 1024

    def scores(
        self, logits: Sequence[Float[np.ndarray, "_ vocabulary"]], state: State
    ) -> tuple[Float[np.ndarray, " n"], State]:
        utility = np.array([np.linalg.svd(each, compute_uv=False).sum() for each in logits])
        sketches = np.stack([self.sketch(each) for each in logits])
        kept = state.get("kept")
        apart = np.zeros(len(logits))
        if kept is not None:
            apart = _distances(sketches, kept).mean(axis=1)
        return utility + self.diversity * apart, {"kept": kept, "seen": sketches}

    def chosen_before(self, places: Int[np.ndarray, " count"], state: State) -> State:
        new, kept = state["seen"][places], state["kept"]
        every = new if kept is None else np.concatenate([kept, new])
        return {"kept": every[-self.memory :]}

    def sketch(self, logits: Float[np.ndarray, "n vocabulary"]) -> Float[np.ndarray, " size"]:
        """The sketch of the logits of a response, as a vector of ``rows * columns`` entries."""
        left = _draws(self.rows, len(logits), 0)
        right = _draws(self.columns, logits.shape[1], 1)
        return np.asarray((left @ logits @ right.T).ravel())


@lru_cache(maxsize=256)
def _draws(size: int, length: int, seed: int) -> Float[np.ndarray, "size length"]:
    """Normal draws of variance 1 / size; those of a shorter length are the first ones."""
    found = np.random.default_rng(seed).normal(size=(length, size)).T
    return np.asarray(found / np.sqrt(size))


def _distances(
    first: Float[np.ndarray, "n d"], second: Float[np.ndarray, "m d"]
) -> Float[np.ndarray, "n m"]:
    squares = (first**2).sum(1)[:, None] + (second**2).sum(1)[None] - 2 * first @ second.T
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)))
