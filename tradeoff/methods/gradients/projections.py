"""Rules that project gradients so that the direction harms neither objective to first order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tradeoff.methods.gradients.base import Array, GradientRule, Seen, State, ratio


@dataclass(frozen=True, kw_only=True)
class PcGrad(GradientRule):
    """Each gradient loses its part along the other one where they conflict.

    Notes
    -----
    Card G03, after a second-hand description. Of weighted gradients: weight times projected
    gradient, summed. The published rule is that of weights 1 and 1, twice this one at lambda 1/2.
    """

    name: ClassVar[str] = "pcgrad"
    title: ClassVar[str] = "PCGrad"
    source: ClassVar[str] = "arXiv 2001.06782, Algorithm 1"
    weighted: ClassVar[bool] = False

    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        a, b, c = seen.squares
        against = np.minimum(c, 0.0)
        first, second = seen.weights[..., 0], seen.weights[..., 1]
        pair = first - second * ratio(against, a), second - first * ratio(against, b)
        return np.stack(pair, axis=-1), state


@dataclass(frozen=True, kw_only=True)
class UpGrad(PcGrad):
    """Weighted sum of both gradients' projections on the directions that harm neither.

    Of two objectives this is :class:`PcGrad`; of more it is not.
    """

    name: ClassVar[str] = "upgrad"
    title: ClassVar[str] = "UPGrad"
    source: ClassVar[str] = "arXiv 2406.16232"


@dataclass(frozen=True, kw_only=True)
class DualProj(GradientRule):
    """Projection of the weighted sum on the directions that harm neither objective."""

    name: ClassVar[str] = "dualproj"
    title: ClassVar[str] = "DualProj"
    source: ClassVar[str] = "arXiv 1706.08840, equation (11)"

    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        along = np.einsum("...ij,...j->...i", seen.gram, seen.weights)
        squares = np.diagonal(seen.gram, axis1=-2, axis2=-1)
        # The sum lies between both gradients, so that it can be against one of them only.
        return seen.weights - ratio(np.minimum(along, 0.0), squares), state
