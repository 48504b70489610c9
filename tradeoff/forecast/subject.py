"""What a forecast asks of a model and its two data sets: passes, gradients, and short runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from tradeoff.forecast.sketch import CountSketch

Rows = NDArray[np.int64]
Shift = dict[str, Tensor]
"""Difference of weights from the base model, by name."""


@dataclass(frozen=True)
class Scored:
    """The scored tokens of some responses under the base model.

    Attributes
    ----------
    hidden
        (M, d) input of the output layer where each token is predicted.
    log_probs
        (M, V) log-probabilities of the whole vocabulary there, in nats.
    labels, owners
        (M,) the tokens, and the number of the response of each. Pairs have two responses each,
        chosen before rejected.
    """

    hidden: Float[Tensor, "M d"]
    log_probs: Float[Tensor, "M V"]
    labels: Int[Tensor, " M"]
    owners: Int[Tensor, " M"]


@runtime_checkable
class Subject(Protocol):
    """A model and its two data sets. Objectives are 0 for demonstrations and 1 for pairs."""

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers of training demonstrations and of training pairs."""

    @property
    def beta(self) -> float:
        """Inverse temperature of DPO; its reference is the base model."""

    def tokens(self, objective: int, rows: Rows) -> int:
        """Number of tokens that one pass over these rows reads, without padding."""

    def scored(self, objective: int, rows: Rows) -> Scored:
        """One forward pass of the base model."""

    def gradients(self, objective: int, rows: Rows, sketch: CountSketch) -> NDArray[np.float64]:
        """(n, m) sketched gradients at the base, in the trained weights.

        Of log pi(y|x) for a demonstration; of log pi(chosen) - log pi(rejected) for a pair.
        """

    def steps(self, objective: int, updates: int, batch: int, seed: int) -> Shift:
        """Weights after a few updates on one objective, as differences from the base."""

    def losses(self, shift: Shift, rows: tuple[Rows, Rows]) -> NDArray[np.float64]:
        """(2,) SFT loss per token and preference loss per pair of some rows at base + shift."""


def blend(parts: Sequence[tuple[float, Mapping[str, Any]]]) -> Shift:
    """Weighted sum of shifts."""
    names = parts[0][1]
    with torch.no_grad():
        return {name: sum(weight * shift[name] for weight, shift in parts) for name in names}
