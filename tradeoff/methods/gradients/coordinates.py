"""Rules that join two gradients coordinate by coordinate."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from array_api_compat import array_namespace

from tradeoff.methods.gradients.base import Array, GradientRule, Seen, State
from tradeoff.settings import Share


@dataclass(frozen=True, kw_only=True)
class CoordinateRule(GradientRule):
    """A rule that needs the gradients themselves, and a draw for each coordinate."""

    coordinatewise: ClassVar[bool] = True

    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        """Factors of the mean over all draws, as far as the inner products tell them."""
        return seen.weights, state

    @abstractmethod
    def direction(self, first: Any, second: Any, uniform: Any) -> Any:
        """The direction (..., d) of an update.

        Parameters
        ----------
        first, second
            (..., d) gradients of (SFT, preference) times the weights of the schedule; numpy arrays
            or torch tensors.
        uniform
            (..., d) draws from [0, 1).
        """


@dataclass(frozen=True, kw_only=True)
class GradDrop(CoordinateRule):
    """At each coordinate keeps the positive parts or the negative ones, by a biased coin.

    The chance of the positive parts is ``(1 + sum / sum of sizes) / 2``. So the mean over draws
    is the weighted sum.

    Attributes
    ----------
    leak
        Share of the other parts that is kept, too, in [0, 1]; 1 is the weighted sum.

    Notes
    -----
    Card G15. The published rule has the weights 1 and 1.
    """

    name: ClassVar[str] = "graddrop"
    title: ClassVar[str] = "GradDrop"
    source: ClassVar[str] = "arXiv 2010.06808, Algorithm 1"
    leak: Share = 0.0

    def direction(self, first: Any, second: Any, uniform: Any) -> Any:
        xp = array_namespace(first)
        total, size = first + second, xp.abs(first) + xp.abs(second)
        chance = 0.5 * (1 + total / xp.where(size > 0, size, xp.ones_like(size)))
        # Sum of the parts with the sign that the coin gives: |g| and sum tell both.
        kept = xp.where(uniform < chance, 0.5 * (total + size), 0.5 * (total - size))
        return self.leak * total + (1 - self.leak) * kept
