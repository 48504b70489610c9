"""Sample losses and gradients of a log-linear problem under the losses of a method."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.sampling import LogLinearSampler
from tradeoff.errors import InputError
from tradeoff.methods.losses import (
    Nll,
    Nominal,
    Pairs,
    PreferenceLoss,
    ResponseGroup,
    Responses,
    SftLoss,
    TokenWeighted,
    group_slopes,
    pair_slopes,
    sft_slopes,
)
from tradeoff.methods.losses.divergences import divergence
from tradeoff.methods.losses.judges import fitted_reward
from tradeoff.schedules import PREFERENCE, SFT

Array = NDArray[np.float64]


def row_weights(problem: LogLinear, loss: SftLoss) -> Float[np.ndarray, " n"] | None:
    """Weights of mean one that a loss gives to the demonstrations; None if they are equal."""
    if not isinstance(loss, TokenWeighted):
        return None
    shown, shares = problem.demonstrations, problem.sft_weights
    weights = loss.weights_of_rows(problem.prompt_of_row[shown], shown, shares)
    return None if weights.min() == weights.max() > 0 else weights / (shares @ weights)


class TrainedLossSampler(LogLinearSampler):
    """A :class:`LogLinearSampler` on the same draws, with other losses.

    Parameters
    ----------
    problem
        The problem; its reference policy is the reference of the losses.
    seed, replicas
        Root seed and (B,) replica number of each run.
    sft, preference
        Losses; every response counts as one token.
    compiled
        As for :class:`LogLinearSampler`.

    Raises
    ------
    InputError
        If a loss needs log-probabilities under the reference policy, and the problem has only the
        margins of the reference; or if it looks at all responses, and features are no array.
    """

    def __init__(
        self,
        problem: LogLinear,
        seed: int,
        replicas: NDArray[np.int64],
        sft: SftLoss,
        preference: PreferenceLoss,
        *,
        compiled: bool = False,
    ) -> None:
        super().__init__(problem, seed, replicas, compiled=compiled)
        self.sft, self.preference = sft, preference
        self.weights = row_weights(problem, sft)
        single = sft.needs_reference or (
            preference.needs_reference
            and not preference.margin_only
            and not isinstance(preference, Nominal)
        )
        if problem.reference_margins is not None and single:
            raise InputError(
                "the loss needs the reference's log-probability of each response",
                field="reference_margins",
                remedy="Give the problem a reference policy, or use a loss of the margin.",
            )
        if preference.grouped and not problem.is_dense:
            raise InputError(
                "responses are written and judged on problems with dense features alone",
                field="preference",
                value=preference.name,
                remedy="Give features as an array, or use another method.",
            )

    def evaluate(
        self, objective: int, theta: Array, index: NDArray[np.int64]
    ) -> tuple[Array, Array]:
        """(B,) losses and (B, d) gradients at theta (B, d) of the data points ``index`` (B,)."""
        nominal = isinstance((self.sft, self.preference)[objective], Nll | Nominal)
        if nominal:
            return super().evaluate(objective, theta, index)
        problem = self.problem
        if objective == SFT:
            rows = problem.demonstrations[index][:, None]
        else:
            rows = np.stack([problem.chosen[index], problem.rejected[index]], axis=1)
        if self.compiled:
            return self._of_compiled(theta, rows, objective, index)
        of_prompt = self._of_dense if problem.is_dense else self._of_sparse
        return of_prompt(theta, rows, objective, index)

    def mean_gradient(self, objective: int, theta: Array) -> Array:
        """(B, d) gradient of the mean loss over all data points."""
        weights = (self.problem.sft_weights, self.problem.preference_weights)[objective]
        total = np.zeros_like(theta)
        for point, weight in enumerate(weights.tolist()):
            index = np.full(len(theta), point)
            total += weight * self.evaluate(objective, theta, index)[1]
        return total

    def _of_dense(
        self, theta: Array, rows: Int[np.ndarray, "B k"], objective: int, index: NDArray[np.int64]
    ) -> tuple[Array, Array]:
        x = self.problem.prompt_of_row[rows[:, 0]]
        phi = self.problem.features[self._rows[x]]
        z = np.einsum("bnd,bd->bn", phi, theta)
        z[~self._present[x]] = -np.inf
        peak = z.max(axis=1, keepdims=True)
        odds = np.exp(z - peak)
        total = odds.sum(axis=1, keepdims=True)
        own = self.problem.features[rows]
        log_probs = np.einsum("bkd,bd->bk", own, theta) - peak - np.log(total)
        probabilities = odds / total
        every = z - peak - np.log(total)
        losses, slopes, pull = self._found(objective, log_probs, every, rows, index, self._rows[x])
        mean = np.einsum("bn,bnd->bd", probabilities, phi)
        gradient = np.einsum("bk,bkd->bd", slopes, own)
        if pull is not None:
            gradient = gradient + np.einsum("bn,bnd->bd", pull, phi)
        return losses, gradient - slopes.sum(axis=1, keepdims=True) * mean

    def _of_compiled(
        self, theta: Array, rows: Int[np.ndarray, "B k"], objective: int, index: NDArray[np.int64]
    ) -> tuple[Array, Array]:
        """As :meth:`_of_dense`, without a copy of the features for each run."""
        from tradeoff.convex import _sample_kernels  # numba is loaded only when it is used

        if objective == PREFERENCE and self.preference.margin_only:
            delta = self.problem.pair_differences[index]
            margins = np.einsum("bd,bd->b", delta, theta)
            shown = np.stack([margins, np.zeros_like(margins)], axis=1)
            losses, slopes, _ = self._slopes(objective, shown, rows, index, None, None)
            return losses, slopes[:, :1] * delta
        every = np.full((len(rows), self._rows.shape[1]), -np.inf)
        own = _sample_kernels.log_probabilities(self._data, theta, rows, every)
        prompts = self.problem.prompt_of_row[rows[:, 0]]
        place = self._rows[prompts]
        losses, slopes, pull = self._found(objective, own, every, rows, index, place)
        pull = np.zeros((len(rows), 0)) if pull is None else pull
        return losses, np.asarray(_sample_kernels.combine(self._data, rows, every, slopes, pull))

    def _of_sparse(
        self, theta: Array, rows: Int[np.ndarray, "B k"], objective: int, index: NDArray[np.int64]
    ) -> tuple[Array, Array]:
        every = self.problem.log_probs(theta)
        run = np.arange(len(theta))[:, None]
        same = self.problem.prompt_of_row[:, None] == self.problem.prompt_of_row[rows[:, 0]]
        own = np.where(same, every, -np.inf).T
        place, logs = np.arange(len(every))[None, :], every[rows, run]
        losses, slopes, pull = self._found(objective, logs, own, rows, index, place)
        by_logit = -np.where(same, np.exp(every), 0.0) * slopes.sum(axis=1)
        np.add.at(by_logit, (rows, run), slopes)
        if pull is not None:
            by_logit += pull.T
        return losses, np.asarray(self.problem.features.T @ by_logit).T

    def _found(
        self,
        objective: int,
        log_probs: Float[np.ndarray, "B k"],
        every: Float[np.ndarray, "B n"],
        rows: Int[np.ndarray, "B k"],
        index: NDArray[np.int64],
        place: NDArray[np.int64],
    ) -> tuple[Array, Float[np.ndarray, "B k"], Array | None]:
        """Losses, slopes in the log-probabilities of a data point's responses, and in the logits.

        ``place`` are the responses of ``every``, whose log-probabilities are minus infinity where a
        prompt has no more of them.
        """
        if objective == PREFERENCE and self.preference.grouped:
            losses, by_logit = self._of_group(every, rows, place)
            return losses, np.zeros(rows.shape), by_logit
        apart, turn = self._divergence(objective, every, place)
        return self._slopes(objective, log_probs, rows, index, apart, turn)

    def _of_group(
        self,
        every: Float[np.ndarray, "B n"],
        rows: Int[np.ndarray, "B 2"],
        place: Int[np.ndarray, "B n"],
    ) -> tuple[Array, Float[np.ndarray, "B n"]]:
        """Losses of all responses to the prompts of pairs, and slopes in their logits."""
        asks, present = self.preference.asks, np.isfinite(every)
        group = ResponseGroup(
            every,
            np.where(present, self._reference[place], -np.inf),
            self._rewards[place] if "rewards" in asks else None,
            _cosines(self.problem.features, place, rows[:, 0]) if "likeness" in asks else None,
        )
        sides = (Responses(np.zeros(len(rows))) for _ in range(2))
        losses, slopes = group_slopes(self.preference, Pairs(*sides, group=group))
        return losses, slopes - np.exp(every) * slopes.sum(axis=1, keepdims=True)

    def _slopes(
        self,
        objective: int,
        log_probs: Float[np.ndarray, "B k"],
        rows: Int[np.ndarray, "B k"],
        index: NDArray[np.int64],
        apart: Array | None,
        turn: Array | None,
    ) -> tuple[Array, Float[np.ndarray, "B k"], Array | None]:
        """As :meth:`_found`; the slopes in the logits are those of the divergence."""
        if objective == SFT:
            reference = self._reference[rows[:, 0]] if self.sft.needs_reference else None
            weights = None if self.weights is None else self.weights[index]
            record = Responses(log_probs[:, 0], reference, None, apart, weights)
            losses, slope = sft_slopes(self.sft, record)
            pull = None if turn is None else self.sft.divergence_slope * turn
            return losses, slope[:, None], pull
        if self.problem.reference_margins is None:
            known = self._reference[rows]
        else:
            # A loss of the margin depends on the reference through this difference alone.
            known = np.stack([self.problem.margin_shift[index], np.zeros(len(index))], axis=1)
        both = Pairs(*(Responses(log_probs[:, k], known[:, k], None, apart) for k in (0, 1)))
        losses, slopes = pair_slopes(self.preference, both)
        by = None if turn is None else self.preference.divergence_slopes(both)
        return losses, slopes, None if by is None or turn is None else by[:, None] * turn

    def _divergence(
        self, objective: int, log_probs: Float[np.ndarray, "B n"], rows: NDArray[np.int64]
    ) -> tuple[Array | None, Array | None]:
        """Divergences (B,) from the reference, and their slopes (B, n) in the logits.

        ``rows`` are the responses of the log-probabilities, which are minus infinity where there is
        no response.
        """
        loss = (self.sft, self.preference)[objective]
        if loss.compares is None:
            return None, None
        present = np.isfinite(log_probs)
        known = np.where(present, self._reference[rows], -np.inf)
        apart = divergence(log_probs, known, loss.compares)
        if loss.compares == "forward":
            return apart, np.exp(log_probs) - np.exp(known)
        return apart, None

    @cached_property
    def _reference(self) -> Array:
        """(N,) log-probabilities of all responses under the reference policy."""
        given = self.problem.reference
        return self.problem.log_probs(np.zeros(self.problem.dimension) if given is None else given)

    @cached_property
    def _rewards(self) -> Array:
        """(N,) rewards of all responses, by a judge that is fitted to the training pairs."""
        problem = self.problem
        found = fitted_reward(problem.dense_differences, problem.preference_weights)
        return np.asarray(problem.features @ found)


def _cosines(
    features: Array, place: Int[np.ndarray, "B n"], own: Int[np.ndarray, " B"]
) -> Float[np.ndarray, "B n"]:
    """Cosines of the features of responses (B, n) and of one response (B,) each."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-300)
    return np.asarray(np.einsum("bnd,bd->bn", unit[place], unit[own]))
