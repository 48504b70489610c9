"""Log-linear policies over finite response sets: the model class of arXiv 2410.15483.

pi_theta(y|x) = exp(theta . phi(x, y)) / sum over y' of exp(theta . phi(x, y')), |theta| <= R.

Both losses are convex in theta, because they depend on it only through the logits
z = Phi theta: f_SFT through log-sum-exp, f_DPO through the margins z[chosen] - z[rejected],
from which the normalisers cancel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike, NDArray

from tradeoff import objectives
from tradeoff._deferred import sparse as sp
from tradeoff.convex._rounding import Sizes
from tradeoff.convex._validate import (
    as_indices,
    as_prompts,
    check_log_linear,
    check_responses,
    is_operator,
)
from tradeoff.convex.problem import LocalModel
from tradeoff.schedules import PREFERENCE, SFT

Features = Any
"""(N, d) numpy array, scipy sparse array, or LinearOperator with a ``rows(index)`` method."""

CHUNK = 10_000_000
"""Logits held in memory at once."""


@dataclass(frozen=True, eq=False, repr=False)
class LogLinear:
    """A pair of convex objectives, SFT and DPO, for one log-linear policy on a ball.

    Attributes
    ----------
    features
        (N, d) one row phi(x, y) for every response of every prompt, one prompt after another.
    offsets
        (P + 1,) rows ``offsets[x]:offsets[x + 1]`` belong to prompt x; at least two each.
    demonstrations
        (M,) row of the response of each demonstration.
    chosen, rejected
        (J,) rows of the two responses of each preference pair, both of one prompt.
    radius
        R of the ball |theta| <= R.
    beta
        Inverse temperature of DPO.
    reference
        (d,) parameters of the reference policy; ``None`` is the uniform policy.
    reference_margins
        (J,) log pi_ref(chosen) - log pi_ref(rejected), for a reference outside the model class;
        excludes ``reference``.
    label_smoothing
        Flip probability of conservative DPO, in [0, 1/2).
    demonstration_weights, pair_weights
        Relative weights of the data points, (M,) and (J,); uniform by default.
    """

    features: Features
    offsets: Int[np.ndarray, " P1"]
    demonstrations: Int[np.ndarray, " M"]
    chosen: Int[np.ndarray, " J"]
    rejected: Int[np.ndarray, " J"]
    radius: float
    beta: float = 0.1
    reference: Float[np.ndarray, " d"] | None = None
    reference_margins: Float[np.ndarray, " J"] | None = None
    label_smoothing: float = 0.0
    demonstration_weights: Float[np.ndarray, " M"] | None = None
    pair_weights: Float[np.ndarray, " J"] | None = None

    def __post_init__(self) -> None:
        check_log_linear(self)

    def __repr__(self) -> str:
        prompts, responses = len(self.offsets) - 1, int(self.features.shape[0])
        return (
            f"LogLinear({prompts} prompts, {responses} responses, d = {self.dimension}, "
            f"{len(self.demonstrations)} demonstrations, {len(self.chosen)} pairs, "
            f"radius={self.radius:g}, beta={self.beta:g})"
        )

    # ------------------------------------------------------------------ construction

    @classmethod
    def from_prompts(
        cls,
        prompts: Iterable[ArrayLike],
        demonstrations: Sequence[tuple[int, int]],
        preferences: Sequence[tuple[int, int, int]],
        **settings: Any,
    ) -> LogLinear:
        """Build a problem from one (n_x, d) feature array per prompt.

        Parameters
        ----------
        prompts
            Feature arrays; the number of responses may differ from prompt to prompt.
        demonstrations
            (prompt, response) of each demonstration.
        preferences
            (prompt, chosen, rejected) of each preference pair.
        **settings
            ``radius`` and the other attributes of the class.
        """
        arrays = as_prompts(prompts)
        offsets = np.concatenate([[0], np.cumsum([len(a) for a in arrays])]).astype(np.int64)
        shown = as_indices("demonstrations", demonstrations, 2)
        pairs = as_indices("preferences", preferences, 3)
        check_responses("demonstrations", shown, offsets)
        check_responses("preferences", pairs, offsets)
        return cls(
            features=np.concatenate(arrays) if arrays else np.zeros((0, 1)),
            offsets=offsets,
            demonstrations=offsets[shown[:, 0]] + shown[:, 1],
            chosen=offsets[pairs[:, 0]] + pairs[:, 1],
            rejected=offsets[pairs[:, 0]] + pairs[:, 2],
            **settings,
        )

    # ------------------------------------------------------------------ shapes and parts

    @property
    def dimension(self) -> int:
        """Number of parameters d."""
        return int(self.features.shape[1])

    @property
    def is_dense(self) -> bool:
        """Whether the features are a numpy array."""
        return isinstance(self.features, np.ndarray)

    @cached_property
    def prompt_of_row(self) -> NDArray[np.int64]:
        """(N,) prompt of each feature row."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    @cached_property
    def sft_weights(self) -> NDArray[np.float64]:
        """(M,) weights of the demonstrations, summing to one."""
        return _normalised(self.demonstration_weights, len(self.demonstrations))

    @cached_property
    def preference_weights(self) -> NDArray[np.float64]:
        """(J,) weights of the pairs, summing to one."""
        return _normalised(self.pair_weights, len(self.chosen))

    @cached_property
    def cumulative_weights(self) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
        """Cumulative weights of demonstrations and of pairs; ``None`` where they are uniform."""
        return (
            None if self.demonstration_weights is None else np.cumsum(self.sft_weights),
            None if self.pair_weights is None else np.cumsum(self.preference_weights),
        )

    @cached_property
    def demonstrated(self) -> NDArray[np.float64]:
        """(N,) weight with which each response is demonstrated."""
        shown = np.zeros(self.features.shape[0])
        np.add.at(shown, self.demonstrations, self.sft_weights)
        return shown

    @cached_property
    def prompt_weights(self) -> NDArray[np.float64]:
        """(P,) weight of each prompt in f_SFT."""
        return np.asarray(np.add.reduceat(self.demonstrated, self.offsets[:-1]))

    @cached_property
    def margin_shift(self) -> NDArray[np.float64]:
        """(J,) margins of the reference policy."""
        if self.reference_margins is not None:
            return np.asarray(self.reference_margins, dtype=float)
        if self.reference is None:
            return np.zeros(len(self.chosen))
        z = self.logits(self.reference)
        return np.asarray(z[self.chosen] - z[self.rejected])

    def rows(self, index: ArrayLike) -> Any:
        """Feature rows, dense or sparse as the features are."""
        if is_operator(self.features):
            return self.features.rows(index)
        return self.features[np.asarray(index)]

    @cached_property
    def pair_differences(self) -> Any:
        """(J, d) delta = phi(chosen) - phi(rejected) of each pair."""
        return self.rows(self.chosen) - self.rows(self.rejected)

    @cached_property
    def dense_features(self) -> NDArray[np.float64]:
        """(N, d) features as a numpy array, for problems of few parameters."""
        return _dense(self.rows(np.arange(self.features.shape[0])))

    @cached_property
    def dense_differences(self) -> NDArray[np.float64]:
        """(J, d) :attr:`pair_differences` as a numpy array."""
        return _dense(self.pair_differences)

    def strong_convexity(self, weights: NDArray[np.float64]) -> float:
        """Zero: a log-linear loss is constant along a line on which no logit changes."""
        return 0.0

    # ------------------------------------------------------------------ the policy

    def logits(self, theta: ArrayLike) -> NDArray[np.float64]:
        """Logits of all responses: (N,) for theta (d,), (N, B) for theta (B, d)."""
        theta = np.asarray(theta, dtype=float)
        return np.asarray(self.features @ (theta if theta.ndim == 1 else theta.T))

    def log_probs(self, theta: ArrayLike) -> NDArray[np.float64]:
        """Log-probabilities of all responses, shaped as :meth:`logits`."""
        z = self.logits(theta)
        return np.asarray(z - self._log_normalisers(z)[self.prompt_of_row])

    def project(self, theta: NDArray[np.float64]) -> NDArray[np.float64]:
        """Nearest point of the ball, for theta (..., d)."""
        norm = np.sqrt(np.sum(theta * theta, axis=-1, keepdims=True))
        return np.asarray(theta * (self.radius / np.maximum(norm, self.radius)))

    def _log_normalisers(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        peak, others = self._peaks(z)[:2]
        return np.asarray(peak + np.log1p(others))

    def _peaks(self, z: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """Parts of the softmax in each prompt, accurate also where one probability is almost 1.

        The largest logit ("peak"), the sum over all other rows of exp(z - peak), and for each row
        z - peak and its exponential.
        """
        start = self.offsets[:-1]
        peak = np.maximum.reduceat(z, start, axis=0)
        below = z - peak[self.prompt_of_row]
        odds = np.exp(below)
        top = below == 0
        others = np.add.reduceat(np.where(top, 0.0, odds), start, axis=0)
        others += np.add.reduceat(top, start, axis=0, dtype=np.int64) - 1  # ties with the largest
        return peak, others, below, odds

    def _shares(
        self, others: NDArray[np.float64], below: NDArray[np.float64], odds: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Probability of each row, and one minus it without cancellation."""
        rest = others[self.prompt_of_row]
        p = odds / (1 + rest)
        return p, np.where(below == 0, rest / (1 + rest), 1 - p)

    # ------------------------------------------------------------------ the two objectives

    def losses(self, theta: ArrayLike) -> NDArray[np.float64]:
        """(f_SFT, f_DPO): shape (2,) for theta (d,), (B, 2) for theta (B, d)."""
        theta = np.asarray(theta, dtype=float)
        at_once = max(1, CHUNK // self.features.shape[0])
        if theta.ndim == 1 or len(theta) <= at_once:
            return self._losses(self.logits(theta))
        chunks = np.array_split(theta, -(-len(theta) // at_once))
        return np.concatenate([self._losses(self.logits(chunk)) for chunk in chunks])

    def _losses(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        _, others, below, _ = self._peaks(z)
        return self._combine(others, below, self._margins(z))

    def _combine(
        self,
        others: NDArray[np.float64],
        below: NDArray[np.float64],
        margins: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        # -log p = log(1 + others) + (peak - z): two terms that are never negative.
        sft = self.prompt_weights @ np.log1p(others) - self.demonstrated @ below
        losses = objectives.dpo(margins, self.beta, self.label_smoothing)
        return np.array([sft, self.preference_weights @ losses]).T

    def accuracies(self, theta: ArrayLike) -> NDArray[np.float64]:
        """(2,) shares of demonstrations ranked first in their prompt and of pairs ranked correctly.

        Of k responses tied for the first place, each counts 1/k. A tied pair counts one half. A
        pair is ranked by its margin over the reference policy.
        """
        z = self.logits(theta)
        first = z >= np.maximum.reduceat(z, self.offsets[:-1])[self.prompt_of_row]
        tied = np.add.reduceat(first.astype(float), self.offsets[:-1])[self.prompt_of_row]
        right = 0.5 * (1 + np.sign(self._margins(z)))
        top = (first / tied)[self.demonstrations]
        return np.array([self.sft_weights @ top, self.preference_weights @ right])

    def gradients(self, theta: ArrayLike) -> NDArray[np.float64]:
        """Gradients of both losses: (2, d) for theta (d,), (B, 2, d) for theta (B, d)."""
        z = self.logits(theta)
        slopes = np.stack([self.sft_slope(z), self.preference_slope(z)], axis=-1)
        if z.ndim == 1:
            return np.asarray((self.features.T @ slopes).T)
        flat = self.features.T @ slopes.reshape(len(z), -1)
        return np.moveaxis(flat.reshape(self.dimension, -1, 2), 0, -1)

    def sft_slope(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Derivative of f_SFT in the logits, of the shape of ``z``."""
        p, rest = self._shares(*self._peaks(z)[1:])
        shown, unshown = self.demonstrated, self._unshown
        if z.ndim == 2:
            shown, unshown = shown[:, None], unshown[:, None]
        return np.asarray(p * unshown - shown * rest)

    @cached_property
    def _unshown(self) -> NDArray[np.float64]:
        """(N,) weight of the demonstrations of the same prompt with another response."""
        # The difference cancels where one response has nearly all of a prompt's weight.
        start, prompt, shown = self.offsets[:-1], self.prompt_of_row, self.demonstrated
        top = shown == np.maximum.reduceat(shown, start)[prompt]
        most = np.flatnonzero(top)
        most = most[np.searchsorted(most, start)]  # the first of equal ones
        others = shown.copy()
        others[most] = 0.0
        found = self._prompt_weight_of_row - shown
        found[most] = np.add.reduceat(others, start)
        return np.asarray(found)

    def preference_slope(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Derivative of f_DPO in the logits, of the shape of ``z``."""
        slope = objectives.dpo_slope(self._margins(z), self.beta, self.label_smoothing)
        return self.spread((self.preference_weights * slope.T).T)

    def local_model(self, theta: NDArray[np.float64], weights: NDArray[np.float64]) -> LocalModel:
        """Second-order model of ``weights @ losses`` at theta (d,), for the solver."""
        z = self.logits(theta)
        _, others, below, odds = self._peaks(z)
        margins = self._margins(z)
        p, rest = self._shares(others, below, odds)
        dpo_slope = objectives.dpo_slope(margins, self.beta, self.label_smoothing)
        missed = self.label_smoothing - dpo_slope / self.beta  # sigma(-beta m) of each pair
        bend = weights[PREFERENCE] * self.beta**2 * self.preference_weights * missed * (1 - missed)
        mass_of_row = weights[SFT] * self._prompt_weight_of_row * p
        slope = self.spread(weights[PREFERENCE] * self.preference_weights * dpo_slope)
        slope += weights[SFT] * (p * self._unshown - self.demonstrated * rest)
        mass = weights[SFT] * self.prompt_weights

        def likeliest() -> NDArray[np.int64]:
            """For each row, the row of its prompt's likeliest response."""
            top = np.flatnonzero(below == 0)
            return np.asarray(top[np.searchsorted(top, self.offsets[:-1])][self.prompt_of_row])

        # Where one response has almost all of the probability, its features are subtracted from
        # those of the others. This keeps the covariance of the features accurate.
        certain = bool(np.min(others) < 1e-3)

        def curvature(direction: NDArray[np.float64]) -> NDArray[np.float64]:
            u = self.features @ direction
            centred = u - u[likeliest()] if certain else u.copy()
            centred -= np.add.reduceat(p * centred, self.offsets[:-1])[self.prompt_of_row]
            moved = self.spread(bend * (u[self.chosen] - u[self.rejected]))
            return np.asarray(self.features.T @ (mass_of_row * centred + moved))

        def hessian() -> NDArray[np.float64]:
            phi, delta = self.dense_features, self.dense_differences
            phi = phi - phi[likeliest()] if certain else phi
            means = np.add.reduceat(p[:, None] * phi, self.offsets[:-1], axis=0)
            sft = phi.T @ (mass_of_row[:, None] * phi)
            return np.asarray(
                sft - means.T @ (mass[:, None] * means) + delta.T @ (bend[:, None] * delta)
            )

        losses = self._combine(others, below, margins)
        share = float(self.demonstrated @ rest), float(self.preference_weights @ missed)
        rounding = self._sizes.rounding(float(np.linalg.norm(theta)), losses, share, weights)
        steepest = max(1.0, self.beta) if weights[PREFERENCE] > 0 else 1.0
        concordance = 2 * self._sizes.longest_row * steepest
        return LocalModel(
            losses, self.features.T @ slope, hessian, curvature, rounding, concordance
        )

    @cached_property
    def _prompt_weight_of_row(self) -> NDArray[np.float64]:
        return np.asarray(self.prompt_weights[self.prompt_of_row])

    @cached_property
    def _sizes(self) -> Sizes:
        return Sizes.of(self)

    def probabilities(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Softmax of the logits within each prompt."""
        return self._shares(*self._peaks(z)[1:])[0]

    def _margins(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        margins = z[self.chosen] - z[self.rejected]
        return np.asarray((margins.T - self.margin_shift).T)

    def spread(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add one value per pair (J,) to its chosen row and subtract it from its rejected row."""
        return np.asarray(self._spreader @ values)

    @cached_property
    def _spreader(self) -> Any:
        """(N, J) sparse matrix with +1 at chosen and -1 at rejected."""
        pairs = np.arange(len(self.chosen))
        entries = np.concatenate([np.ones(len(pairs)), -np.ones(len(pairs))])
        where = (np.concatenate([self.chosen, self.rejected]), np.concatenate([pairs, pairs]))
        shape = (self.features.shape[0], len(pairs))
        return sp.coo_array((entries, where), shape=shape).tocsr()


def _normalised(weights: NDArray[np.float64] | None, size: int) -> NDArray[np.float64]:
    if weights is None:
        return np.full(size, 1.0 / size)
    return np.asarray(weights / np.sum(weights), dtype=float)


def _dense(matrix: Any) -> NDArray[np.float64]:
    return np.asarray(matrix.toarray() if sp.issparse(matrix) else matrix)
