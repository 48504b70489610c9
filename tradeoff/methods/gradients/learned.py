"""Rules that learn a scale for each loss while they train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tradeoff.methods.gradients.base import Array, GradientRule, Seen, State, ratio
from tradeoff.methods.gradients.values import LEAST, STEEP
from tradeoff.settings import NotNegative


@dataclass(frozen=True, kw_only=True)
class Uncertainty(GradientRule):
    """Uncertainty weighting: each loss has a learned noise level.

    Minimises ``weight * (loss * exp(-s) + s)`` over the policy and over a logarithm s for each
    loss, which starts at 0.

    Attributes
    ----------
    rate
        Step size of the logarithms, not negative; 0 is the weighted sum.

    Notes
    -----
    Card G19, after a second-hand description. The published rule has equal weights; a factor of
    1/2 is left out. Once s is at its optimum this is :class:`GeometricLoss`. Costs two gradients.
    """

    name: ClassVar[str] = "uncertainty"
    title: ClassVar[str] = "uncertainty weighting"
    source: ClassVar[str] = "arXiv 1705.07115"
    uses_losses: ClassVar[bool] = True
    above_optima: ClassVar[bool] = False
    rate: NotNegative = 0.025

    def start(self, runs: tuple[int, ...]) -> State:
        return {"logs": np.zeros((*runs, 2))}

    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        logs, losses = state["logs"], np.maximum(seen.losses, LEAST)
        factors = seen.weights * np.exp(-logs)
        moved = logs + self.rate * (losses * np.exp(-logs) - 1)
        return factors, {"logs": np.clip(moved, -STEEP, STEEP)}


@dataclass(frozen=True, kw_only=True)
class ImtlL(GradientRule):
    """Learned factors that bring both losses to the same size: minimises ``exp(s) loss - s``.

    Attributes
    ----------
    rate
        Step size of both s, not negative.

    Notes
    -----
    Card G06, after a second-hand description. No weights enter. It stops where uncertainty
    weighting with equal weights does. Costs two gradients.
    """

    name: ClassVar[str] = "imtl_l"
    title: ClassVar[str] = "IMTL-L"
    source: ClassVar[str] = "Liu et al., ICLR 2021"
    weighted: ClassVar[bool] = False
    uses_losses: ClassVar[bool] = True
    above_optima: ClassVar[bool] = False
    rate: NotNegative = 0.025

    def start(self, runs: tuple[int, ...]) -> State:
        return {"logs": np.zeros((*runs, 2))}

    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        factors = np.exp(state["logs"])
        moved = state["logs"] - self.rate * (factors * np.maximum(seen.losses, LEAST) - 1)
        return factors, {"logs": np.clip(moved, -STEEP, STEEP)}


@dataclass(frozen=True, kw_only=True)
class GradNorm(GradientRule):
    """Learns factors so that weighted gradients have lengths by how slowly each loss falls.

    The target length of an objective is the mean weighted length times ``r ** alpha``. Here r is
    the share of its first loss that is left, divided by the mean of both shares.

    Attributes
    ----------
    alpha
        Power of the training rate, not negative; 0 asks for equal lengths.
    rate
        Step size of the factors, not negative; 0 keeps both at 1/2.

    Notes
    -----
    Card G17, after a second-hand description. The slope of the published objective is divided by
    the mean length, so that units do not matter. Gradients of all weights stand for those of the
    last shared layer. Factors sum to one. Costs two gradients.
    """

    name: ClassVar[str] = "gradnorm"
    title: ClassVar[str] = "GradNorm"
    source: ClassVar[str] = "arXiv 1711.02257"
    weighted: ClassVar[bool] = False
    uses_losses: ClassVar[bool] = True
    above_optima: ClassVar[bool] = False
    alpha: NotNegative = 1.5
    rate: NotNegative = 0.025

    @property
    def total(self) -> float:
        return 1.0

    def start(self, runs: tuple[int, ...]) -> State:
        return {"factors": np.full((*runs, 2), 0.5), "first": np.full((*runs, 2), np.nan)}

    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        losses, own = np.maximum(seen.losses, LEAST), state["factors"]
        first = np.where(np.isnan(state["first"]), losses, state["first"])
        left = losses / first
        left = left / left.mean(axis=-1, keepdims=True)
        lengths = np.stack(seen.lengths, axis=-1)
        sizes = own * lengths
        target = sizes.mean(axis=-1, keepdims=True) * left**self.alpha
        slope = np.sign(sizes - target) * ratio(lengths, lengths.mean(axis=-1, keepdims=True))
        moved = np.maximum(own - self.rate * slope, 1e-3)
        moved = moved / moved.sum(axis=-1, keepdims=True)
        return own, {"factors": moved, "first": first}
