"""Worst-case bounds on the rounding errors of losses and gradients of a log-linear problem.

A logit is a sum of at most k products. Its error is at most (k + 2) u |phi| |theta|, u the unit of
rounding. A sum of n terms adds at most n u times its terms. An error e of the logits changes a loss
by at most 2 e times the mean probability that the policy misses a demonstration, or the label of a
pair. That probability is small where the loss is small, so the bounds stay tight in flat tails.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tradeoff._deferred import sparse as sp
from tradeoff.convex._validate import is_operator
from tradeoff.convex.problem import UNIT, Rounding

TINY = 1e-300
"""Added to every bound, for numbers below the normal range."""
BLOCK = 4096
"""Rows of a LinearOperator held in memory at once."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a problem from which the bounds on rounding are computed.

    Attributes
    ----------
    terms
        Largest number of products in one logit.
    longest_row
        Largest norm of a feature row.
    rows
        Number of feature rows and pairs: terms of the longest sum.
    widest_prompt
        Largest number of responses to one prompt.
    reference_norm, largest_shift
        |theta_ref| and the largest margin of the reference policy.
    beta, label_smoothing
        Attributes of the problem.
    """

    terms: int
    longest_row: float
    rows: int
    widest_prompt: int
    reference_norm: float
    largest_shift: float
    beta: float
    label_smoothing: float

    @classmethod
    def of(cls, problem: Any) -> Sizes:
        """Measure one :class:`~tradeoff.convex.LogLinear`."""
        reference = problem.reference
        return cls(
            terms=_terms(problem.features),
            longest_row=_longest_row(problem),
            rows=problem.features.shape[0] + len(problem.chosen),
            widest_prompt=int(np.max(np.diff(problem.offsets))),
            reference_norm=0.0 if reference is None else float(np.linalg.norm(reference)),
            largest_shift=float(np.max(np.abs(problem.margin_shift))),
            beta=problem.beta,
            label_smoothing=problem.label_smoothing,
        )

    def rounding(
        self,
        norm: float,
        losses: NDArray[np.float64],
        missed: tuple[float, float],
        weights: NDArray[np.float64],
    ) -> Rounding:
        """Bounds at |theta| = ``norm``.

        ``missed`` has two mean probabilities: that the policy misses a demonstration, and that it
        misses the label of a pair.
        """
        longest, beta = self.longest_row, self.beta
        sums = UNIT * (self.rows + 16)
        sft = UNIT * (2 * (self.terms + 5) * longest * norm + self.widest_prompt + 8)
        margin = (2 * self.terms + 8) * longest * (norm + self.reference_norm)
        dpo = UNIT * (beta * (margin + 2 * self.largest_shift) + 8)
        flipped = missed[1] + 2 * self.label_smoothing
        w_sft, w_dpo = weights.tolist()
        pull_sft = w_sft * (2 * sft + sums)  # relative error of the slopes, times their weight
        pull_dpo = w_dpo * (2 * dpo + sums)
        reach_sft, reach_dpo = 2 * longest, 2 * longest * beta
        tiny = TINY * (1 + reach_sft + reach_dpo) ** 2
        bent = pull_sft * min(missed[0], 0.25) * reach_sft**2
        bent += pull_dpo * min(flipped, 0.25) * reach_dpo**2
        return Rounding(
            np.array([sft * missed[0], dpo * flipped]) + sums * losses + TINY,
            pull_sft * reach_sft * missed[0] + pull_dpo * reach_dpo * flipped + tiny,
            2 * bent + tiny,
        )


def _terms(features: Any) -> int:
    if sp.issparse(features):
        return int(np.max(features.tocsr().count_nonzero(axis=1), initial=0))
    return int(features.shape[1])


def _longest_row(problem: Any) -> float:
    features = problem.features
    if not is_operator(features):
        return float(np.sqrt(np.max(_squares(features))))
    if hasattr(features, "squared_norms"):
        return float(np.sqrt(np.max(features.squared_norms())))
    count = features.shape[0]
    parts = np.array_split(np.arange(count), -(-count // BLOCK))
    return float(np.sqrt(max(np.max(_squares(problem.rows(part))) for part in parts)))


def _squares(rows: Any) -> NDArray[np.float64]:
    if sp.issparse(rows):
        return np.asarray(rows.multiply(rows).sum(axis=1)).ravel()
    return np.asarray(np.einsum("nd,nd->n", rows, rows))
