"""Compiled losses and gradients of single data points of dense log-linear problems.

They compute what :class:`tradeoff.convex.sampling.LogLinearSampler` and
:class:`tradeoff.convex._trained_losses.TrainedLossSampler` compute, run by run, without a copy of
the features for each run. Numba's cache misses edits of the functions that are imported from
`kernels.py`: after such an edit, remove `__pycache__`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tradeoff.convex._kernels import FAST, PART, _add, _exp, _exponentials, _log, _logistic_loss
from tradeoff.convex.log_linear import LogLinear

Array = NDArray[np.float64]
Index = NDArray[np.int64]
_FAST: dict[str, Any] = FAST
_PART: dict[str, Any] = PART


class SampleData(NamedTuple):
    """A dense problem as arrays for the compiled functions."""

    features: Array
    offsets: Index
    prompt_of_row: Index
    differences: Array
    shift: Array
    beta: float
    smoothing: float


# Numba reads its stored index, which names the class, before it sees that the source has changed.
Data = SampleData
"""The earlier name, without which a cache of then would be an error."""


def data_of(problem: LogLinear) -> SampleData:
    """The arrays of a dense problem, contiguous and of fixed types."""
    return SampleData(
        features=np.ascontiguousarray(problem.features, dtype=float),
        offsets=np.asarray(problem.offsets, dtype=np.int64),
        prompt_of_row=problem.prompt_of_row.astype(np.int64),
        differences=np.ascontiguousarray(problem.pair_differences, dtype=float),
        shift=np.ascontiguousarray(problem.margin_shift, dtype=float),
        beta=float(problem.beta),
        smoothing=float(problem.label_smoothing),
    )


@njit(**_FAST, nogil=True, cache=True)
def demonstrations(data: SampleData, theta: Array, rows: Index) -> tuple[Array, Array]:
    """Negative log-likelihoods (B,) of responses (B,) at theta (B, d), and their gradients."""
    losses, gradients = np.empty(len(rows)), np.zeros(theta.shape)
    line = np.empty(len(data.features))
    for b in range(len(rows)):
        x = data.prompt_of_row[rows[b]]
        low, size = data.offsets[x], data.offsets[x + 1] - data.offsets[x]
        peak, own = _logits(data.features, low, size, theta, b, line), rows[b] - low
        losses[b] = -line[own]
        total = _odds(line, size, peak)
        losses[b] += peak + _log(total)
        for i in range(size):
            factor = line[i] / total
            if i == own:
                factor -= 1.0
            _add(gradients, b, factor, data.features, low + i)
    return losses, gradients


@njit(**_FAST, nogil=True, cache=True)
def pairs(data: SampleData, theta: Array, index: Index) -> tuple[Array, Array]:
    """DPO losses (B,) of pairs (B,) at theta (B, d), and their gradients."""
    losses, gradients = np.empty(len(index)), np.empty(theta.shape)
    for b in range(len(index)):
        j, margin = index[b], 0.0
        for k in range(theta.shape[1]):
            margin += theta[b, k] * data.differences[j, k]
        reward = data.beta * (margin - data.shift[j])
        losses[b] = _logistic_loss(reward, data.smoothing)
        odds = _exp(-reward)
        slope = data.beta * (data.smoothing - odds / (1.0 + odds))
        for k in range(theta.shape[1]):
            gradients[b, k] = slope * data.differences[j, k]
    return losses, gradients


@njit(**_FAST, nogil=True, cache=True)
def log_probabilities(data: SampleData, theta: Array, rows: Index, every: Array) -> Array:
    """Log-probabilities (B, k) of responses (B, k), each k to one prompt, at theta (B, d).

    The log-probabilities of all responses to the prompt are written to ``every`` (B, n), n being
    the largest number of responses to a prompt. Entries beyond those of a prompt are not changed.
    """
    own, line = np.empty(rows.shape), np.empty(len(data.features))
    for b in range(len(rows)):
        x = data.prompt_of_row[rows[b, 0]]
        low, size = data.offsets[x], data.offsets[x + 1] - data.offsets[x]
        peak = _logits(data.features, low, size, theta, b, line)
        for i in range(size):
            every[b, i] = line[i]
        normaliser = peak + _log(_odds(line, size, peak))
        for i in range(size):
            every[b, i] -= normaliser
        for k in range(rows.shape[1]):
            own[b, k] = every[b, rows[b, k] - low]
    return own


@njit(**_FAST, nogil=True, cache=True)
def combine(data: SampleData, rows: Index, every: Array, slopes: Array, pull: Array) -> Array:
    """Gradients (B, d) of losses, from their slopes in the log-probabilities of responses.

    ``rows`` and ``slopes`` are (B, k), ``every`` is as :func:`log_probabilities` writes it, and
    ``pull`` has slopes (B, n) in the logits of all responses to the prompt, or is (B, 0).
    """
    found = np.zeros((len(rows), data.features.shape[1]))
    for b in range(len(rows)):
        x, total = data.prompt_of_row[rows[b, 0]], 0.0
        for k in range(rows.shape[1]):
            total += slopes[b, k]
            _add(found, b, slopes[b, k], data.features, rows[b, k])
        low = data.offsets[x]
        for i in range(data.offsets[x + 1] - low):
            factor = -total * _exp(every[b, i])
            if pull.shape[1] > 0:
                factor += pull[b, i]
            _add(found, b, factor, data.features, low + i)
    return found


@njit(**_PART)
def _logits(features: Array, low: int, size: int, theta: Array, b: int, line: Array) -> float:
    """Write the logits of ``size`` responses from row ``low`` on, and return the largest."""
    peak = -np.inf
    for i in range(size):
        z = 0.0
        for k in range(theta.shape[1]):
            z += theta[b, k] * features[low + i, k]
        line[i] = z
        peak = max(peak, z)
    return peak


@njit(**_PART)
def _odds(line: Array, size: int, peak: float) -> float:
    """Replace logits by the exponentials of logits less the largest, and return their sum."""
    for i in range(size):
        line[i] -= peak
    _exponentials(line, size)
    total = 0.0
    for i in range(size):
        total += line[i]
    return total
