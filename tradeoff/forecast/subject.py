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

from tradeoff.forecast.sketch import CountSketch, TwoSided

Rows = NDArray[np.int64]
Shift = dict[str, Tensor]
"""Difference of weights from the base model, by name."""
LIKELIEST = 16
"""Tokens of each softmax that are kept one by one."""


@dataclass(frozen=True)
class Scored:
    """The scored tokens of some responses under the base model, with a sketch of its last layer.

    Attributes
    ----------
    hidden
        (M, b) sketched inputs of the output layer where each token is predicted.
    likeliest, log_p
        (M, K) the likeliest tokens there, the scored one first, and their log-probabilities.
    expected
        (M, a) mean code of a token there, over the whole vocabulary.
    owners
        (M,) the response of each token. Pairs have two responses each, chosen before rejected.
    """

    hidden: Float[Tensor, "M b"]
    likeliest: Int[Tensor, "M K"]
    log_p: Float[Tensor, "M K"]
    expected: Float[Tensor, "M a"]
    owners: Int[Tensor, " M"]

    @classmethod
    def of(
        cls,
        hidden: Float[Tensor, "M d"],
        logits: Float[Tensor, "M V"],
        labels: Int[Tensor, " M"],
        owners: Int[Tensor, " M"],
        sketch: TwoSided,
    ) -> Scored:
        """Keep of the whole vocabulary only what forecasts use."""
        log_probs = logits.float().log_softmax(-1)
        raised = log_probs.scatter(1, labels[:, None], torch.inf)
        likeliest = raised.topk(min(LIKELIEST, log_probs.shape[1]), dim=1).indices
        code, wide = sketch.vocabulary.to(log_probs), sketch.hidden.to(log_probs)
        return cls(
            hidden.float() @ wide,
            likeliest,
            log_probs.gather(1, likeliest),
            log_probs.exp() @ code,
            owners,
        )

    @staticmethod
    def joined(parts: Sequence[Scored]) -> Scored:
        """Scored tokens of all parts, on the CPU; owners already differ."""
        names = ("hidden", "likeliest", "log_p", "expected", "owners")
        return Scored(*(torch.cat([getattr(part, n).cpu() for part in parts]) for n in names))


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

    @property
    def shape(self) -> tuple[int, int]:
        """Size of the vocabulary, and width of the output layer's input."""

    def scored(self, objective: int, rows: Rows, sketch: TwoSided) -> Scored:
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
