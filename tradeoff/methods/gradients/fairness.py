"""Rules that share out progress: a level of fairness, or a cosine that is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tradeoff.methods.gradients.base import OPPOSITE, Array, GradientRule, Seen, State, ratio
from tradeoff.settings import Positive, Share

FAR = 300.0
"""Largest logarithm of the ratio of both factors, so that these are finite."""
HALVINGS = 48
"""Halvings of the interval in which the ratio of both factors is looked for."""


@dataclass(frozen=True, kw_only=True)
class FairGrad(GradientRule):
    """Factors w with ``gram @ w = w ** (-1 / alpha)``: alpha-fair progress of both objectives.

    Attributes
    ----------
    alpha
        Level of fairness, positive. 1 is the Nash bargaining solution; small: the plain sum; large:
        equal progress.

    Notes
    -----
    Card G08, after a second-hand description. The two equations become one for the ratio of both
    factors, in which its left side rises. Where a gradient is zero, or both are opposite, neither
    is followed. Where gradients disagree and (length 1 / length 2) ** (1 / alpha - 1) is beyond
    1e9 or below 1e-9, the progress of one objective cancels in double precision, and the factors
    are approximate. Costs two gradients.
    """

    name: ClassVar[str] = "fairgrad"
    title: ClassVar[str] = "FairGrad"
    source: ClassVar[str] = "arXiv 2402.15638"
    weighted: ClassVar[bool] = False
    alpha: Positive = 2.0

    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        power, cosine = 1 / self.alpha, seen.cosine
        lengths = np.stack(seen.lengths, axis=-1)
        usable = (lengths > 0).all(axis=-1) & (cosine > -1 + OPPOSITE)
        lengths = np.where(usable[..., None], lengths, 1.0)
        cosine = np.where(usable, cosine, 0.0)
        # With u = w * length: u_i + cosine * u_j = length_i ** (power - 1) * u_i ** -power.
        wanted = (power - 1) * (np.log(lengths[..., 0]) - np.log(lengths[..., 1]))
        top = np.where(cosine < 0, -np.log(np.maximum(-cosine, 1e-300)), np.inf)
        high = np.minimum(np.minimum(np.abs(wanted) / power, top * (1 - 1e-12)), FAR)
        low, sign = np.zeros_like(high), np.where(wanted < 0, -1.0, 1.0)
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            small = np.exp(-middle)
            rise = middle + np.log(np.maximum(1 + cosine * small, 1e-300))
            rise = rise - np.log(np.maximum(1 + cosine / small, 1e-300)) + power * middle
            above = rise > np.abs(wanted)
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        share = np.exp(sign * 0.5 * (low + high))
        second = lengths[..., 1] ** (power - 1) / np.maximum(1 + cosine * share, 1e-300)
        second = second ** (1 / (1 + power))
        found = np.stack([share * second, second], axis=-1) / lengths
        return np.where(usable[..., None], found, 0.0), state


@dataclass(frozen=True, kw_only=True)
class GradVac(GradientRule):
    """Turns each gradient towards the other until their cosine is a running mean of cosines.

    Gradients whose cosine is above the mean stay as they are.

    Attributes
    ----------
    recent
        Weight of the newest cosine in the mean, in [0, 1]; 0 keeps the mean at 0, which is PCGrad.

    Notes
    -----
    Card G16, after a second-hand description. Of weighted gradients: weight times turned gradient,
    summed. Costs two gradients.
    """

    name: ClassVar[str] = "gradvac"
    title: ClassVar[str] = "GradVac"
    source: ClassVar[str] = "arXiv 2010.05874"
    weighted: ClassVar[bool] = False
    recent: Share = 0.01

    def start(self, runs: tuple[int, ...]) -> State:
        return {"mean": np.zeros(runs)}

    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        cosine, mean = seen.cosine, state["mean"]
        first, second = seen.lengths
        sine, wanted = np.sqrt(1 - cosine**2), np.sqrt(np.maximum(1 - mean**2, 1e-12))
        turn = np.where(cosine < mean, (mean * sine - cosine * wanted) / wanted, 0.0)
        a, b = seen.weights[..., 0], seen.weights[..., 1]
        pair = a + b * turn * ratio(second, first), b + a * turn * ratio(first, second)
        return np.stack(pair, axis=-1), {"mean": mean + self.recent * (cosine - mean)}
