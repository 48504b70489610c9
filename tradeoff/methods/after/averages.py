"""Averages of the weights over the updates of a stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from tradeoff.methods.after.base import After
from tradeoff.methods.hooks import Array, Moment, State, copied
from tradeoff.settings import NotNegative, Positive, Share, Updates, Within


@dataclass(frozen=True, kw_only=True)
class Ema(After):
    """Exponential moving average of the weights, which begins anew with each stage.

    Attributes
    ----------
    decay
        Weight of the average so far, in [0, 1]. 0 gives the weights themselves.
    warm
        After t updates of a stage the weight is at most ``1 - 1 / t``: then the first weights do
        not count, and with a decay of 1 this is the arithmetic mean.

    Notes
    -----
    Card C19, after a second-hand description. ``mean <- decay * mean + (1 - decay) * weights``.
    """

    name: ClassVar[str] = "ema"
    title: ClassVar[str] = "EMA"
    source: ClassVar[str] = "Polyak and Juditsky, SIAM J. Control Optim. 30(4), 1992"
    decay: Share = 0.99
    warm: bool = True

    def start(self, weights: Array) -> State:
        return {"mean": copied(weights)}

    def begin(self, weights: Array, state: State, moment: Moment) -> tuple[Array, State]:
        restarted = moment.begins and moment.stage > 0
        return weights, {"mean": copied(weights)} if restarted else state

    def finish(self, weights: Array, state: State, moment: Moment) -> tuple[Array, State]:
        decay = min(self.decay, 1 - 1 / moment.clock) if self.warm else self.decay
        return weights, {"mean": state["mean"] + (1 - decay) * (weights - state["mean"])}

    def output(self, weights: Array, state: State, moment: Moment) -> Array:
        return state["mean"]


@dataclass(frozen=True, kw_only=True)
class Bema(After):
    """A moving average of the weights plus a correction for how far it lags behind.

    After t updates of the stage the average gets the weight ``(rho + gamma t) ** -kappa`` of the
    newest weights, and what is evaluated is ``mean + (rho + gamma t) ** -eta * (weights - first
    weights)``.

    Attributes
    ----------
    kappa
        Power of the weight of the newest weights, not negative.
    eta
        Power of the correction, not negative; None: no correction, so that this is an average.
    rho, gamma
        Lag and speed of both, positive.
    every
        Updates between two changes of the average.
    start_at
        Updates of a stage before the first change; until then the weights are evaluated.

    Notes
    -----
    Card C20, after a second-hand description. The trainer of TRL changes it every 400 updates,
    which suits long runs.
    """

    name: ClassVar[str] = "bema"
    title: ClassVar[str] = "BEMA"
    source: ClassVar[str] = "arXiv 2508.00180, Algorithm 1"
    kappa: NotNegative = 0.5
    eta: NotNegative | None = 0.2
    rho: Positive = 10.0
    gamma: Positive = 1.0
    every: Updates = 1
    start_at: Annotated[int, Within(0, 10**8)] = 0

    def start(self, weights: Array) -> State:
        return {"mean": copied(weights), "first": copied(weights), "shown": copied(weights)}

    def begin(self, weights: Array, state: State, moment: Moment) -> tuple[Array, State]:
        restarted = moment.begins and moment.stage > 0
        return weights, self.start(weights) if restarted else state

    def finish(self, weights: Array, state: State, moment: Moment) -> tuple[Array, State]:
        past = moment.clock - self.start_at
        if past <= 0:
            return weights, self.start(weights)
        if past % self.every:
            return weights, state
        lag = self.rho + self.gamma * moment.clock
        mean = state["mean"] + min(1.0, lag**-self.kappa) * (weights - state["mean"])
        correction = 0.0 if self.eta is None else lag**-self.eta
        shown = mean + correction * (weights - state["first"])
        return weights, {**state, "mean": mean, "shown": shown}

    def output(self, weights: Array, state: State, moment: Moment) -> Array:
        return state["shown"]
