"""Stochastic gradients of many runs at once, one data point per run."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tradeoff import draws, objectives
from tradeoff._deferred import sparse as sp
from tradeoff.convex._padded import padded
from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.problem import Simulated
from tradeoff.errors import InputError
from tradeoff.schedules import PREFERENCE

Array = NDArray[np.float64]
_AT_ONCE = 256
Runs = NDArray[np.int64] | slice
ALL = slice(None)


@runtime_checkable
class Sampler(Protocol):
    """Sample losses and gradients of many runs; each replica has its own draws."""

    def gradient(self, objective: int, theta: Array, step: int, runs: Runs = ALL) -> Array:
        """(B, d) gradients at theta (B, d), for update ``step`` of these runs."""

    def sample(
        self, objective: int, theta: Array, step: int, runs: Runs = ALL
    ) -> tuple[Array, Array]:
        """Losses (B,) and gradients (B, d) at theta (B, d), for update ``step`` of these runs."""

    def loss(self, objective: int, theta: Array, step: int, samples: int) -> Array:
        """(B,) loss at theta (B, d), estimated on ``samples`` new data points."""


class PlainSampler:
    """Sampler of a problem that computes a sample gradient from one number in [0, 1).

    Parameters
    ----------
    problem
        An object with the members of :class:`~tradeoff.convex.problem.Simulated`.
    seed, replicas
        Root seed and (B,) replica number of each run; runs of one replica see the same draws.
    """

    def __init__(self, problem: Simulated, seed: int, replicas: NDArray[np.int64]) -> None:
        self.problem = problem
        streams = (draws.SFT_SAMPLE, draws.PREFERENCE_SAMPLE)
        self._keys = [draws.keys(seed, replicas, stream) for stream in streams]

    def gradient(self, objective: int, theta: Array, step: int, runs: Runs = ALL) -> Array:
        """(B, d) sample gradients at theta (B, d), for update ``step`` of these runs."""
        u = draws.uniform(self._keys[objective][runs], step)
        # A copy, as `theta -= centre` in a problem's code would move the iterates themselves.
        found = np.asarray(self.problem.sample_gradients(objective, theta.copy(), u))
        if found.shape != theta.shape:
            raise InputError(
                "sample_gradients does not return one gradient per run",
                field="sample_gradients",
                value=found.shape,
                remedy=f"Return an array of shape {theta.shape}.",
            )
        return found

    def sample(
        self, objective: int, theta: Array, step: int, runs: Runs = ALL
    ) -> tuple[Array, Array]:
        """Exact losses (B,) and sample gradients (B, d) at theta (B, d)."""
        losses = np.asarray(self.problem.losses(theta))[:, objective]
        return losses, self.gradient(objective, theta, step, runs)

    def loss(self, objective: int, theta: Array, step: int, samples: int) -> Array:
        """(B,) exact loss; `Simulated` has no data points on which to estimate it."""
        return np.asarray(self.problem.losses(theta))[:, objective]


class LogLinearSampler:
    """Losses and gradients of single data points, chosen by counter-based draws.

    Parameters
    ----------
    problem
        The problem. Dense features are evaluated for all runs together, sparse ones run by run.
    seed, replicas
        Root seed and (B,) replica number of each run; runs of one replica see the same data.
    compiled
        Evaluate dense features by compiled functions, which agree with numpy up to rounding.
    """

    def __init__(
        self,
        problem: LogLinear,
        seed: int,
        replicas: NDArray[np.int64],
        *,
        compiled: bool = False,
    ) -> None:
        self.problem, self.compiled = problem, compiled and problem.is_dense
        streams = (draws.SFT_SAMPLE, draws.PREFERENCE_SAMPLE)
        estimates = (draws.SFT_ESTIMATE, draws.PREFERENCE_ESTIMATE)
        self._keys = [draws.keys(seed, replicas, stream) for stream in streams]
        self._estimate_keys = [draws.keys(seed, replicas, stream) for stream in estimates]
        self._rows, self._present = padded(problem.offsets)

    def gradient(self, objective: int, theta: Array, step: int, runs: Runs = ALL) -> Array:
        """(B, d) gradients of one data point's loss each at theta (B, d), for update ``step``.

        Parameters
        ----------
        runs
            Numbers of these runs among all; by default all.
        """
        return self.sample(objective, theta, step, runs)[1]

    def sample(
        self, objective: int, theta: Array, step: int, runs: Runs = ALL
    ) -> tuple[Array, Array]:
        """Losses (B,) and gradients (B, d) of the data points of update ``step``."""
        u = draws.uniform(self._keys[objective][runs], step)
        return self.evaluate(objective, theta, self.index(objective, u))

    def loss(self, objective: int, theta: Array, step: int, samples: int) -> Array:
        """(B,) mean loss of ``samples`` new data points at theta (B, d)."""
        total = np.zeros(len(theta))
        for j in range(samples):
            u = draws.uniform(self._estimate_keys[objective], step * samples + j)
            total += self.evaluate(objective, theta, self.index(objective, u))[0]
        return total / samples

    def index(self, objective: int, u: Array) -> NDArray[np.int64]:
        """Data points selected by draws in [0, 1), in proportion to their weights."""
        cumulative = self.problem.cumulative_weights[objective]
        if cumulative is None:
            count = len((self.problem.demonstrations, self.problem.chosen)[objective])
            return np.asarray((u * count).astype(np.int64))
        found = np.searchsorted(cumulative, u, side="right")
        return np.asarray(np.minimum(found, len(cumulative) - 1))

    def evaluate(
        self, objective: int, theta: Array, index: NDArray[np.int64]
    ) -> tuple[Array, Array]:
        """(B,) losses and (B, d) gradients at theta (B, d) of the data points ``index`` (B,)."""
        if not self.problem.is_dense:
            results = [
                self._sparse(objective, t, i) for t, i in zip(theta, index.tolist(), strict=True)
            ]
            return np.array([loss for loss, _ in results]), np.stack([g for _, g in results])
        if self.compiled:
            return self._fast(objective, theta, index)
        if objective == PREFERENCE:
            return self._pair(self.problem.pair_differences[index], theta, index)
        return self._demonstration(theta, self.problem.demonstrations[index])

    def _fast(self, objective: int, theta: Array, index: NDArray[np.int64]) -> tuple[Array, Array]:
        from tradeoff.convex import _sample_kernels  # numba is loaded only when it is used

        if objective == PREFERENCE:
            found = _sample_kernels.pairs(self._data, theta, index)
        else:
            rows = self.problem.demonstrations[index]
            found = _sample_kernels.demonstrations(self._data, theta, rows)
        return found[0], found[1]

    @cached_property
    def _data(self) -> Any:
        """The problem as arrays for the compiled functions."""
        from tradeoff.convex import _sample_kernels

        return _sample_kernels.data_of(self.problem)

    def drawn(self, objective: int, steps: range) -> NDArray[np.int64]:
        """(steps x B,) data points of the gradients of these updates, update by update."""
        key = self._keys[objective]
        found = [self.index(objective, draws.uniform(key, step)) for step in steps]
        return np.concatenate(found)

    def squares(self, objective: int, theta: Array, index: NDArray[np.int64]) -> Array:
        """(n,) squared norms of the gradients of data points ``index`` (n,) at theta (d,)."""
        parts = np.array_split(index, -(-len(index) // _AT_ONCE))
        z = self.problem.logits(theta)
        measure = self._pair_squares if objective == PREFERENCE else self._shown_squares
        return np.concatenate([measure(z, part) for part in parts])

    def _pair_squares(self, z: Array, index: NDArray[np.int64]) -> Array:
        problem = self.problem
        rows = problem.chosen[index], problem.rejected[index]
        margins = z[rows[0]] - z[rows[1]] - problem.margin_shift[index]
        slope = objectives.dpo_slope(margins, problem.beta, problem.label_smoothing)
        return np.asarray(slope**2 * _row_squares(problem.rows(rows[0]) - problem.rows(rows[1])))

    def _shown_squares(self, z: Array, index: NDArray[np.int64]) -> Array:
        problem = self.problem
        shown = problem.demonstrations[index]
        prompt = problem.prompt_of_row[shown]
        first, sizes = problem.offsets[prompt], np.diff(problem.offsets)[prompt]
        ends = np.cumsum(sizes)
        rows = np.arange(ends[-1]) + np.repeat(first - ends + sizes, sizes)
        slope = problem.probabilities(z)[rows] - (rows == np.repeat(shown, sizes))
        starts = np.concatenate([[0], ends])
        gather = sp.csr_array((slope, np.arange(ends[-1]), starts), shape=(len(index), ends[-1]))
        return _row_squares(gather @ problem.rows(rows))

    def _pair(self, delta: Array, theta: Array, index: NDArray[np.int64]) -> tuple[Array, Array]:
        problem = self.problem
        margins = np.einsum("bd,bd->b", delta, theta) - problem.margin_shift[index]
        loss = objectives.dpo(margins, problem.beta, problem.label_smoothing)
        slope = objectives.dpo_slope(margins, problem.beta, problem.label_smoothing)
        return loss, slope[:, None] * delta

    def _demonstration(self, theta: Array, shown: NDArray[np.int64]) -> tuple[Array, Array]:
        x = self.problem.prompt_of_row[shown]
        phi = self.problem.features[self._rows[x]]
        z = np.einsum("bnd,bd->bn", phi, theta)
        z[~self._present[x]] = -np.inf
        peak = z.max(axis=1, keepdims=True)
        p = np.exp(z - peak)
        total = p.sum(axis=1, keepdims=True)
        own = self.problem.features[shown]
        loss = (peak + np.log(total))[:, 0] - np.einsum("bd,bd->b", own, theta)
        return loss, np.einsum("bn,bnd->bd", p / total, phi) - own

    def _sparse(self, objective: int, theta: Array, index: int) -> tuple[float, Array]:
        problem = self.problem
        if objective == PREFERENCE:
            delta = problem.rows([problem.chosen[index]]) - problem.rows([problem.rejected[index]])
            margin = delta @ theta - problem.margin_shift[index]
            loss = objectives.dpo(margin, problem.beta, problem.label_smoothing)
            slope = objectives.dpo_slope(margin, problem.beta, problem.label_smoothing)
            return float(loss[0]), np.asarray(delta.T @ slope)
        shown = problem.demonstrations[index]
        x = problem.prompt_of_row[shown]
        start = problem.offsets[x]
        phi = problem.rows(np.arange(start, problem.offsets[x + 1]))
        z = phi @ theta
        p = np.exp(z - z.max())
        loss = z.max() + np.log(p.sum()) - z[shown - start]
        p /= p.sum()
        p[shown - start] -= 1
        return float(loss), np.asarray(phi.T @ p)


def _row_squares(rows: Any) -> Array:
    squared = rows.power(2) if sp.issparse(rows) else np.square(rows)
    return np.asarray(squared.sum(axis=1)).ravel()
