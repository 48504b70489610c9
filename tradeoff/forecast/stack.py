"""Calibration of candidates on runs that were measured, their stack, and conformal intervals.

All is fitted on the scale of :func:`~tradeoff.forecast.quantities.to_scale`, relative to the base
model. Each number has an intercept, which alone is the constant guess. Slopes are shared by the
numbers of one loss and not negative, so a candidate that is wrong on average has no say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from tradeoff.forecast.quantities import OBJECTIVE, from_scale, to_scale

Array = NDArray[np.float64]
RIDGE = 0.05
"""Penalty on squared slopes, in units of the variance of what they multiply."""
LEVEL = 0.9
"""Nominal coverage of the intervals."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What candidates say of one pair of data sets, and what runs ended with.

    Attributes
    ----------
    group
        Name of the pair; what is fitted for one pair uses the others only.
    variants
        (V, Q) losses by candidate.
    starts
        (2,) losses of the base model as each candidate measured them.
    base
        (2,) losses of the base model from which numbers are counted.
    truth
        (Q,) losses of the runs, NaN where there is none; None before any run.
    """

    group: str
    variants: Mapping[str, Float[np.ndarray, "V Q"]]
    starts: Mapping[str, Float[np.ndarray, " 2"]]
    base: Float[np.ndarray, " 2"]
    truth: Float[np.ndarray, " Q"] | None = None

    @property
    def target(self) -> Float[np.ndarray, " Q"]:
        """The truth on the scale, relative to the base model."""
        assert self.truth is not None
        return np.asarray(to_scale(self.truth) - to_scale(self.base)[OBJECTIVE])

    def input(self, name: str, variant: int) -> Float[np.ndarray, " Q"]:
        """What a candidate says, likewise."""
        start = to_scale(self.starts[name])[OBJECTIVE]
        return np.asarray(to_scale(self.variants[name][variant]) - start)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A calibrated stack of candidates.

    Attributes
    ----------
    variants
        The variant of each candidate that fits best alone.
    slopes
        (2, K) of the SFT and the preference losses.
    intercepts
        (Q,) of each number.
    """

    variants: Mapping[str, int]
    slopes: Float[np.ndarray, "2 K"]
    intercepts: Float[np.ndarray, " Q"]

    def values(self, one: Measured) -> Float[np.ndarray, " Q"]:
        """Forecast on the scale, relative to the base model."""
        found = self.intercepts.copy()
        for k, (name, variant) in enumerate(self.variants.items()):
            found += self.slopes[OBJECTIVE, k] * one.input(name, variant)
        return found

    def losses(self, one: Measured, shift: Any = 0.0) -> Float[np.ndarray, "*rows Q"]:
        """Forecast of the losses in nats, moved by ``shift`` (or each of its rows) on the scale."""
        return from_scale(self.values(one) + to_scale(one.base)[OBJECTIVE] + shift)


def fit(examples: Sequence[Measured], names: Sequence[str]) -> Fitted:
    """Choose each candidate's variant, then slopes and intercepts of all together."""
    variants = {name: _best_variant(examples, name) for name in names}
    return _fit(examples, variants)


def _best_variant(examples: Sequence[Measured], name: str) -> int:
    count = len(examples[0].variants[name])
    errors = []
    for variant in range(count if count > 1 else 0):
        alone = _fit(examples, {name: variant})
        errors.append(sum(np.nansum((alone.values(e) - e.target) ** 2) for e in examples))
    return int(np.argmin(errors)) if errors else 0


def _fit(examples: Sequence[Measured], variants: Mapping[str, int]) -> Fitted:
    from scipy.optimize import nnls

    target = np.stack([e.target for e in examples])
    mean = np.nanmean(target, axis=0)
    if not variants:
        return Fitted({}, np.zeros((2, 0)), mean)
    given = np.stack([[e.input(n, v) for n, v in variants.items()] for e in examples])
    known = np.isfinite(target)[:, None]
    centre = np.mean(given, axis=0, where=known)
    slopes = np.zeros((2, len(variants)))
    for objective in (0, 1):
        own = known[:, 0] & (objective == OBJECTIVE)
        x = (given - centre).transpose(0, 2, 1)[own]
        spread = np.sqrt(np.mean(x**2, axis=0))
        penalty = np.diag(np.sqrt(RIDGE * len(x)) * np.maximum(spread, 1e-12))
        y = np.concatenate([(target - mean)[own], np.zeros(len(penalty))])
        slopes[objective] = nnls(np.vstack([x, penalty]), y)[0]
    moved = np.einsum("qk,kq->q", slopes[OBJECTIVE], centre)
    return Fitted(dict(variants), slopes, mean - moved)


def left_out(
    examples: Sequence[Measured], names: Sequence[str]
) -> Iterator[tuple[Fitted, list[Measured], list[Measured]]]:
    """For each pair of data sets: what the others fit, its own examples, and the others'."""
    for group in dict.fromkeys(e.group for e in examples):
        own = [e for e in examples if e.group == group]
        others = [e for e in examples if e.group != group]
        yield fit(others, names), own, others


def half_widths(
    examples: Sequence[Measured], names: Sequence[str], level: float = LEVEL
) -> Float[np.ndarray, " Q"]:
    """Half-widths on the scale, from residuals of pairs that were left out (cross-conformal).

    Residuals are divided by their root mean square for each number, half of it shared, so that
    numbers that are hard to forecast have wider intervals.
    """
    found = left_out(examples, names)
    residuals = np.stack([fitted.values(e) - e.target for fitted, own, _ in found for e in own])
    spread = np.sqrt(0.5 * np.nanmean(residuals**2, axis=0) + 0.5 * np.nanmean(residuals**2))
    scores = np.abs(residuals / spread).ravel()
    # Residuals of all pairs are pooled, so the level holds on average over pairs. A correction for
    # few pairs would promise it in the worst case, with intervals that are too wide on average.
    wide = np.quantile(scores[np.isfinite(scores)], level, method="higher")
    return np.asarray(spread * wide)
