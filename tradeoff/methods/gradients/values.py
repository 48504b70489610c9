"""Rules that weigh gradients by running means of the losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tradeoff.errors import InputError
from tradeoff.methods.gradients.base import Array, GradientRule, Seen, State, ratio
from tradeoff.settings import NotNegative, Positive, Updates

LEAST = 1e-8
"""Losses below this count as this where a rule divides by them or takes their logarithm."""
STEEP = 30.0
"""Largest size of a learned logarithm: factors stay finite."""


@dataclass(frozen=True, kw_only=True)
class Running(GradientRule):
    """Keeps a running mean of both losses.

    ``recent`` is the weight of the newest loss, in (0, 1]; 1 takes the losses as they are.
    """

    uses_losses: ClassVar[bool] = True
    recent: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.recent <= 1:
            raise InputError(
                "not a share", field="recent", value=self.recent, remedy="Give a number in (0, 1]."
            )

    def start(self, runs: tuple[int, ...]) -> State:
        return {"mean": np.full((*runs, 2), np.nan)}

    def mean(self, seen: Seen, state: State) -> Array:
        """(..., 2) running means of the losses, with those of this update."""
        before = state["mean"]
        moved = before + self.recent * (seen.losses - before)
        return np.where(np.isnan(before), seen.losses, moved)


@dataclass(frozen=True, kw_only=True)
class SmoothTchebycheff(Running):
    """The gradient of a smooth maximum of both weighted losses (STCH).

    Attributes
    ----------
    mu
        Temperature of the maximum, in nats; positive. Large: the weighted sum. Small: the
        objective of the larger weighted loss alone.
    recent
        Weight of the newest loss in the running means, in (0, 1].

    Notes
    -----
    mu log(sum_i exp(weight_i loss_i / mu)), with losses above their optima where these are
    known. The authors' code has a mu of 0.01; this default is smoother, for the losses of
    minibatches.
    """

    name: ClassVar[str] = "stch"
    title: ClassVar[str] = "STCH"
    source: ClassVar[str] = "arXiv 2402.19078, equation (7)"
    mu: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.mu < float("inf"):
            raise InputError(
                "not a positive number", field="mu", value=self.mu, remedy="Give a number above 0."
            )

    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        mean = self.mean(seen, state)
        return seen.weights * softmax(seen.weights * mean / self.mu), {"mean": mean}


@dataclass(frozen=True, kw_only=True)
class GeometricLoss(Running):
    """The gradient of the weighted sum of the logarithms of both losses.

    Uncertainty weighting (arXiv 1705.07115) and IMTL-L have this gradient, up to a factor, once
    their scales are at their optimum. Losses count from zero, not from their optima.

    Attributes
    ----------
    recent
        Weight of the newest loss in the running means, in (0, 1].
    """

    name: ClassVar[str] = "gls"
    title: ClassVar[str] = "GLS"
    source: ClassVar[str] = "Chennupati et al., CVPR workshops 2019"
    above_optima: ClassVar[bool] = False

    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        mean = self.mean(seen, state)
        return seen.weights / np.maximum(mean, LEAST), {"mean": mean}


@dataclass(frozen=True, kw_only=True)
class DynamicAverage(Running):
    """More weight for the loss that fell less between the last two windows of updates (DWA).

    Attributes
    ----------
    temperature
        Of the softmax over the two ratios; positive.
    window
        Updates over which losses are averaged.
    recent
        Not used: the windows are the averages.

    Notes
    -----
    Card G22, after a second-hand description.
    """

    name: ClassVar[str] = "dwa"
    title: ClassVar[str] = "DWA"
    source: ClassVar[str] = "arXiv 1803.10704, equation (7)"
    above_optima: ClassVar[bool] = False
    temperature: Positive = 2.0
    window: Updates = 25

    def start(self, runs: tuple[int, ...]) -> State:
        nothing = np.full((*runs, 2), np.nan)
        zero = np.zeros((*runs, 2))
        return {"sum": zero, "count": zero[..., 0], "last": nothing, "before": nothing}

    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        known = ~np.isnan(state["before"])
        fell = np.where(known, ratio(state["last"], np.where(known, state["before"], 1.0), 1.0), 1)
        weights = 2 * seen.weights * softmax(fell / self.temperature)
        total, count = state["sum"] + seen.losses, state["count"] + 1
        full = (count >= self.window)[..., None]
        return weights, {
            "sum": np.where(full, 0.0, total),
            "count": np.where(full[..., 0], 0.0, count),
            "last": np.where(full, total / count[..., None], state["last"]),
            "before": np.where(full, state["last"], state["before"]),
        }


@dataclass(frozen=True, kw_only=True)
class Famo(Running):
    """Learns weights so that both losses fall at the same relative rate.

    The published rule evaluates each minibatch again after its update. Here the change of the
    running means stands for it, which costs no second forward pass. Logits take plain steps, as in
    the paper; the authors' code takes those of Adam, which are longer. Losses count from zero, as
    in the authors' runs: from their optima, the logarithms would lead to one of these.

    Attributes
    ----------
    rate, decay
        Step size of the learned logits, and their decay towards equal weights; not negative.
    recent
        Weight of the newest loss in the running means, in (0, 1].
    """

    name: ClassVar[str] = "famo"
    title: ClassVar[str] = "FAMO"
    source: ClassVar[str] = "arXiv 2306.03792, Algorithm 1"
    weighted: ClassVar[bool] = False
    above_optima: ClassVar[bool] = False
    rate: NotNegative = 0.025
    decay: NotNegative = 0.01

    @property
    def total(self) -> float:
        return 1.0

    def start(self, runs: tuple[int, ...]) -> State:
        return super().start(runs) | {"logits": np.zeros((*runs, 2))}

    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        mean, logits = np.maximum(self.mean(seen, state), LEAST), state["logits"]
        before = np.where(np.isnan(state["mean"]), mean, state["mean"])
        fell = np.log(before) - np.log(mean)
        share = softmax(logits)
        slope = share * (fell - (share * fell).sum(axis=-1, keepdims=True))
        logits = logits - self.rate * (slope + self.decay * logits)
        share = softmax(logits)
        pulls = share / mean
        return pulls / pulls.sum(axis=-1, keepdims=True), {"mean": mean, "logits": logits}


def softmax(values: Array) -> Array:
    """Shares (..., k) of the exponentials of values (..., k)."""
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
