"""Gradients that are taken at other weights than those that are trained."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from array_api_compat import array_namespace

from tradeoff.methods.hooks import Array, Moment, State, copied
from tradeoff.methods.parameters.base import Parameters
from tradeoff.settings import BelowOne, Count, NotNegative, Within


@dataclass(frozen=True, kw_only=True)
class Shifted(Parameters):
    """Each update takes its gradient at changed weights, and its step from unchanged ones."""

    def start(self, weights: Array) -> State:
        return {"own": copied(weights), "shifted": copied(weights)}

    def begin(self, weights: Array, state: State, moment: Moment) -> tuple[Array, State]:
        shifted = self.shifted(weights, state, moment)
        return shifted, {**state, "own": copied(weights), "shifted": copied(shifted)}

    def finish(self, weights: Array, state: State, moment: Moment) -> tuple[Array, State]:
        return state["own"] + (weights - state["shifted"]), state

    @abstractmethod
    def shifted(self, weights: Array, state: State, moment: Moment) -> Array:
        """Weights (..., d) at which the gradient of an update is taken."""


@dataclass(frozen=True, kw_only=True)
class Sam(Shifted):
    """Sharpness-aware updates: gradients at the weights where the loss seems to be worse.

    Attributes
    ----------
    rho
        How far away these are, along the gradient of the update before; not negative.
    stages
        "first": in the first stage, so that its optimum is flat. "all": in every stage.

    Notes
    -----
    Card C13. The published rule climbs along the gradient of the same batch, at the price of a
    second gradient; that of the update before costs none. Distances are by tensor.
    """

    name: ClassVar[str] = "sam"
    title: ClassVar[str] = "SAM"
    source: ClassVar[str] = "arXiv 2010.01412"
    rho: NotNegative = 0.05
    stages: Literal["first", "all"] = "first"

    def start(self, weights: Array) -> State:
        return {**super().start(weights), "climb": array_namespace(weights).zeros_like(weights)}

    def shifted(self, weights: Array, state: State, moment: Moment) -> Array:
        if self.stages == "first" and moment.stage:
            return weights
        return weights + self.rho * state["climb"]

    def direct(
        self, gradient: Array, weights: Array, state: State, moment: Moment
    ) -> tuple[Array, State]:
        return gradient, {**state, "climb": unit(gradient)}


@dataclass(frozen=True, kw_only=True)
class StraightThrough(Shifted):
    """Training of weights that are rounded to a few bits: gradients are those at rounded weights.

    Attributes
    ----------
    bits
        Of each weight; the largest one of a tensor sets the scale.

    Notes
    -----
    Card S16, a transfer of RoSTE without its rotations and without rounded activations. What is
    evaluated and saved are the rounded weights.
    """

    name: ClassVar[str] = "straight_through"
    title: ClassVar[str] = "rounded weights"
    source: ClassVar[str] = "arXiv 2502.09003"
    bits: Annotated[int, Within(2, 32)] = 4

    def shifted(self, weights: Array, state: State, moment: Moment) -> Array:
        return self.rounded(weights)

    def output(self, weights: Array, state: State, moment: Moment) -> Array:
        return self.rounded(weights)

    def rounded(self, weights: Array) -> Array:
        """The nearest weights (..., d) of so many bits."""
        xp = array_namespace(weights)
        largest = xp.max(xp.abs(weights), axis=-1, keepdims=True)
        scale = xp.where(largest > 0, largest, 0 * largest + 1) / (2 ** (self.bits - 1) - 1)
        return xp.round(weights / scale) * scale


@dataclass(frozen=True, kw_only=True)
class _Hidden(Shifted):
    """Gradients with some features hidden, which is the same as weights of zero."""

    def shifted(self, weights: Array, state: State, moment: Moment) -> Array:
        return weights * self.seen(weights, moment)

    def direct(
        self, gradient: Array, weights: Array, state: State, moment: Moment
    ) -> tuple[Array, State]:
        return gradient * self.seen(weights, moment), state

    @abstractmethod
    def seen(self, weights: Array, moment: Moment) -> Array:
        """Factors (..., d) of the features in an update."""

    def unsupported(self, scale: str) -> str | None:
        if scale != "convex":
            return "a weight of zero hides a feature of log-linear policies alone"
        return super().unsupported(scale)


@dataclass(frozen=True, kw_only=True)
class FeatureMasks(_Hidden):
    """Random groups of features are hidden in each update, and the others scaled up.

    Attributes
    ----------
    groups
        Number of groups; feature k is in group k modulo this.
    drop
        Probability that a group is hidden, in [0, 1).

    Notes
    -----
    Card S28, a transfer of an abstract, and what card S09 comes to for responses of one token. The
    policy that is evaluated sees all features: its logits are the mean of those over masks.
    """

    name: ClassVar[str] = "feature_masks"
    title: ClassVar[str] = "hidden features"
    source: ClassVar[str] = "arXiv 2510.10068"
    groups: Count = 8
    drop: BelowOne = 0.2

    def seen(self, weights: Array, moment: Moment) -> Array:
        xp, uniform = array_namespace(weights), moment.uniform()
        size = weights.shape[-1]
        count = min(self.groups, size)
        repeats = -(-size // count)
        kept = xp.concat([uniform[..., :count]] * repeats, axis=-1)[..., :size] >= self.drop
        return xp.where(kept, 0 * weights + 1 / (1 - self.drop), 0 * weights)


@dataclass(frozen=True, kw_only=True)
class Nested(_Hidden):
    """Each update trains a policy of the first features alone, of a size that is drawn.

    Attributes
    ----------
    levels
        Number of sizes, from one part of the features to all of them; 1 is plain training.

    Notes
    -----
    Card S04, a transfer of SoFT after a second-hand description: features for exits of layers.
    """

    name: ClassVar[str] = "nested"
    title: ClassVar[str] = "nested policies"
    source: ClassVar[str] = "arXiv 2309.08968"
    levels: Count = 4

    def seen(self, weights: Array, moment: Moment) -> Array:
        xp, size = array_namespace(weights), weights.shape[-1]
        level = xp.floor(moment.uniform()[..., :1] * self.levels) + 1
        place = xp.cumulative_sum(0 * weights + 1, axis=-1)
        return xp.where(place <= size * level / self.levels + 1e-9, 0 * weights + 1, 0 * weights)


def unit(vector: Array) -> Array:
    """Vectors (..., d) of length one; zero where they are zero."""
    xp = array_namespace(vector)
    length = xp.sum(vector * vector, axis=-1, keepdims=True) ** 0.5
    return vector / xp.where(length > 0, length, 0 * length + 1)
