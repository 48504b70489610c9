"""What hooks may ask of a log-linear policy: pulls towards what another one says."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tradeoff.convex._padded import padded
from tradeoff.convex.log_linear import LogLinear
from tradeoff.methods.hooks import Moment
from tradeoff.schedules import OBJECTIVES

Array = NDArray[np.float64]
CELLS = 4096
"""A draw tells in which of so many cells it lies, and where in the cell."""


class PolicyView:
    """The policies of a log-linear problem, of many parameters at once.

    Parameters
    ----------
    problem
        With dense features.
    """

    def __init__(self, problem: LogLinear) -> None:
        self.problem = problem
        self._rows, self._present = padded(problem.offsets)
        shown = problem.prompt_of_row[problem.demonstrations], problem.prompt_of_row[problem.chosen]
        weights = problem.sft_weights, problem.preference_weights
        self._data = [(p, np.asarray(w)) for p, w in zip(shown, weights, strict=True)]

    def pull_of(self, about: Any, weights: Array, anchor: Array, moment: Moment) -> Array:
        """(..., d) gradient of the divergence that an anchor asks for.

        Parameters
        ----------
        about
            The anchor. If it has a `noise`, the policy sees features times factors.
        weights, anchor
            (..., d) parameters of the policy and of the one that it is compared with.
        moment
            The update, whose draws choose a row and the factors.
        """
        draws, objective = moment.uniform(), OBJECTIVES.index(about.of)
        row, noise = draws[..., 0], getattr(about, "noise", 0.0)
        if noise == 0:
            return self.pull(weights, anchor, objective, about, None if about.exact else row)
        factors = 1 + noise * 12**0.5 * (draws - 0.5)
        # The place within a cell hardly depends on the cell, and so on the factor.
        row = None if about.exact else (CELLS * row) % 1
        # Features times factors have the logits of weights times factors.
        return factors * self.pull(weights * factors, anchor, objective, about, row)

    def pull(
        self, weights: Array, anchor: Array, objective: int, about: Any, uniform: Array | None
    ) -> Array:
        """(..., d) gradient of the mean divergence from an earlier policy over prompts of rows.

        Parameters
        ----------
        weights, anchor
            (..., d) parameters of the policy and of the earlier one.
        objective
            Whose rows these are.
        about
            Has the `direction` and the `temperature` of the divergence, see
            :class:`tradeoff.methods.anchors.policies.KlToBase`.
        uniform
            (...) draws by which one row is chosen; None: the mean over all of them.
        """
        flat, earlier = (np.reshape(w, (-1, np.shape(w)[-1])) for w in (weights, anchor))
        prompts, mass = self._data[objective]
        if uniform is None:
            share = np.bincount(prompts, weights=mass, minlength=len(self._rows)) / mass.sum()
            found = np.zeros_like(flat)
            for x in np.flatnonzero(share):
                found += share[x] * self._of(flat, earlier, np.full(len(flat), x), about)
        else:
            places = np.searchsorted(np.cumsum(mass) / mass.sum(), np.ravel(uniform), side="right")
            drawn = prompts[np.minimum(places, len(prompts) - 1)]
            found = self._of(flat, earlier, drawn, about)
        return found.reshape(weights.shape)

    def main_directions(self, count: int) -> Array:
        """(k, d) orthonormal directions in which the responses to a prompt differ most.

        Parameters
        ----------
        count
            How many; all d if there are no more. All responses of all prompts count alike.
        """
        return self._directions[:count]

    @cached_property
    def _directions(self) -> Array:
        """(d, d) all of these directions, from the main one on."""
        phi, starts = np.asarray(self.problem.features), self.problem.offsets[:-1]
        sizes = np.diff(self.problem.offsets)[:, None]
        apart = phi - (np.add.reduceat(phi, starts, axis=0) / sizes)[self.problem.prompt_of_row]
        return np.asarray(np.linalg.eigh(apart.T @ apart)[1][:, ::-1].T.copy())

    def _of(self, theta: Array, anchor: Array, prompts: NDArray[np.int64], about: Any) -> Array:
        """(B, d) gradients on one prompt (B,) each."""
        phi = np.asarray(self.problem.features[self._rows[prompts]])
        present, warmth = self._present[prompts], about.temperature
        own, other = (np.einsum("bnd,bd->bn", phi, w) for w in (theta, anchor))
        if about.direction == "logits":
            return np.einsum("bn,bnd->bd", 2 * np.where(present, own - other, 0.0), phi)
        p, a = (_log_softmax(np.where(present, z / warmth, -np.inf)) for z in (own, other))
        if about.direction == "forward":
            slope = np.exp(p) - np.exp(a)
        else:
            apart = np.where(present, p - np.where(present, a, 0.0), 0.0)
            slope = np.exp(p) * (apart - (np.exp(p) * apart).sum(axis=1, keepdims=True))
        return np.asarray(np.einsum("bn,bnd->bd", warmth * slope, phi))


def _log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
