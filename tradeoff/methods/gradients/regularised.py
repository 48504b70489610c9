"""Rules between the weighted sum and the shortest vector of the segment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tradeoff.methods.gradients.base import Array, GradientRule, Seen, State, ratio
from tradeoff.settings import NotNegative


@dataclass(frozen=True, kw_only=True)
class SdmGrad(GradientRule):
    """The shortest vector of the segment, shifted by a multiple of the weighted sum.

    Attributes
    ----------
    pull
        That multiple, kappa, not negative; 0 is MGDA, and a large one the weighted sum.

    Notes
    -----
    Card G12. The published rule takes the share from two more independent batches, six gradients
    in all. Here it has a closed form in those of one batch, which biases it. A stop has its weight
    in ``[kappa lam / (1 + kappa), (kappa lam + 1) / (1 + kappa)]``. Costs two gradients.
    """

    name: ClassVar[str] = "sdmgrad"
    title: ClassVar[str] = "SDMGrad"
    source: ClassVar[str] = "arXiv 2305.18409"
    pull: NotNegative = 0.3

    @property
    def total(self) -> float:
        return 1.0

    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        a, b, c = seen.squares
        along = np.einsum("...ij,...j->...i", seen.gram, seen.weights)
        onto = c - b + self.pull * (along[..., 0] - along[..., 1])
        first = np.clip(ratio(-onto, a + b - 2 * c, 0.5), 0.0, 1.0)
        shares = np.stack([first, 1 - first], axis=-1)
        return (shares + self.pull * seen.weights) / (1 + self.pull), state


@dataclass(frozen=True, kw_only=True)
class MoDo(GradientRule):
    """Weights that start at those of the schedule and descend to the shortest vector.

    Attributes
    ----------
    rate
        Step size of the weights, not negative; 0 is the weighted sum.
    pull
        Strength of the regularisation of the weights; not negative.

    Notes
    -----
    Card G14, after a second-hand description. The published rule takes the step of the weights
    from two independent batches, six gradients in all; here it is from one. Costs two gradients.
    """

    name: ClassVar[str] = "modo"
    title: ClassVar[str] = "MoDo"
    source: ClassVar[str] = "arXiv 2305.20057"
    rate: NotNegative = 1e-3
    pull: NotNegative = 0.1

    @property
    def total(self) -> float:
        return 1.0

    def start(self, runs: tuple[int, ...]) -> State:
        return {"weights": np.full((*runs, 2), np.nan)}

    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        own = np.where(np.isnan(state["weights"]), seen.weights, state["weights"])
        slope = np.einsum("...ij,...j->...i", seen.gram, own) + self.pull * own
        moved = own - self.rate * slope
        first = np.clip(0.5 * (1 + moved[..., 0] - moved[..., 1]), 0.0, 1.0)
        return own, {"weights": own if self.rate == 0 else np.stack([first, 1 - first], axis=-1)}


@dataclass(frozen=True, kw_only=True)
class LearnedMix(GradientRule):
    """Weights that follow the slope of the weighted loss after one more step (AMFT).

    Attributes
    ----------
    rate
        Step of the SFT weight for gradients whose difference and weighted sum are parallel; not
        negative, and 0 is the weighted sum.

    Notes
    -----
    Card J48, after a second-hand description, with the one-step estimate of the meta-gradient and
    without its entropy term. The training batch stands for held-out rows. Costs two gradients.
    """

    name: ClassVar[str] = "amft"
    title: ClassVar[str] = "AMFT"
    source: ClassVar[str] = "arXiv 2508.06944"
    rate: NotNegative = 0.01

    @property
    def total(self) -> float:
        return 1.0

    def start(self, runs: tuple[int, ...]) -> State:
        return {"sft": np.full(runs, np.nan)}

    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        own = np.where(np.isnan(state["sft"]), seen.weights[..., 0], state["sft"])
        along = np.einsum("...ij,...j->...i", seen.gram, seen.weights)
        a, b, c = seen.squares
        square = (seen.weights * along).sum(axis=-1) * (a + b - 2 * c)
        cosine = ratio(along[..., 0] - along[..., 1], np.sqrt(np.maximum(square, 0.0)))
        moved = np.clip(own + self.rate * cosine, 0.0, 1.0)
        rest = seen.weights[..., 1] if self.rate == 0 else 1 - own
        return np.stack([own, rest], axis=-1), {"sft": moved}
