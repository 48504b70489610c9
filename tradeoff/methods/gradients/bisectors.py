"""Rules that treat gradients by their directions: each points between both, whatever their size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tradeoff.methods.gradients.base import OPPOSITE, Array, GradientRule, Seen, State, ratio


@dataclass(frozen=True, kw_only=True)
class ImtlG(GradientRule):
    """Equal projections on both unit gradients, with factors that sum to one; no weights.

    Notes
    -----
    Card G05, after a second-hand description.
    """

    name: ClassVar[str] = "imtl_g"
    title: ClassVar[str] = "IMTL-G"
    source: ClassVar[str] = "Liu et al., ICLR 2021, equation (6)"
    weighted: ClassVar[bool] = False

    @property
    def total(self) -> float:
        return 1.0

    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        first, second = seen.lengths
        # Each by itself: the smaller one would lose its digits in one minus the other.
        shares = ratio(second, first + second, 0.5), ratio(first, first + second, 0.5)
        return np.stack(shares, axis=-1), state


@dataclass(frozen=True, kw_only=True)
class NashMtl(GradientRule):
    """The Nash bargaining solution: the factors x solve ``gram @ x = weights / x``.

    Notes
    -----
    The published rule has equal weights; as bargaining powers they bend the path. With factors
    times lengths as unknowns the two equations have a closed form. Where a gradient is zero, or
    both are opposite, there is no solution, and neither gradient is followed.
    """

    name: ClassVar[str] = "nash_mtl"
    title: ClassVar[str] = "Nash-MTL"
    source: ClassVar[str] = "arXiv 2202.01017, equation (4)"
    weighted: ClassVar[bool] = False

    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        lengths = np.stack(seen.lengths, axis=-1)
        cosine, powers = seen.cosine, seen.weights
        both, total = powers[..., 0] * powers[..., 1], powers.sum(axis=-1)
        root = np.sqrt((cosine * total) ** 2 + 4 * (1 - cosine**2) * both)
        # Two forms of one root: each loses no digits where it is used.
        near = ratio(2 * both, cosine * total + root)
        far = ratio(root - cosine * total, 2 * (1 - cosine**2))
        product = np.where(cosine >= 0, near, far)
        sizes = np.sqrt(np.maximum(powers - (cosine * product)[..., None], 0.0))
        usable = (lengths > 0).all(axis=-1) & (cosine > -1 + OPPOSITE)
        return np.where(usable[..., None], ratio(sizes, lengths), 0.0), state


@dataclass(frozen=True, kw_only=True)
class ConFig(GradientRule):
    """A direction whose cosines with both gradients have the ratio of the weights.

    Its length is the sum of the gradients' projections on it. Weights that are equal give equal
    cosines, which is the published rule.
    """

    name: ClassVar[str] = "config"
    title: ClassVar[str] = "ConFIG"
    source: ClassVar[str] = "arXiv 2408.11104, equation (2)"
    weighted: ClassVar[bool] = False

    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        first, second = seen.lengths
        cosine, w = seen.cosine, seen.weights
        # The direction in units of both unit gradients, up to its length.
        x, y = w[..., 0] - cosine * w[..., 1], w[..., 1] - cosine * w[..., 0]
        # Of parallel gradients every combination has their direction.
        parallel = cosine > 1 - 1e-12
        x, y = np.where(parallel, w[..., 0], x), np.where(parallel, w[..., 1], y)
        square = x**2 + y**2 + 2 * cosine * x * y
        length = first * (x + cosine * y) + second * (y + cosine * x)
        scale = ratio(length, square)
        return np.stack([ratio(scale * x, first), ratio(scale * y, second)], axis=-1), state


@dataclass(frozen=True, kw_only=True)
class AlignedMtl(GradientRule):
    """Gradients made orthogonal and equally long, then summed with the weights.

    Notes
    -----
    Card G10, after a second-hand description. The factors are ``sqrt(smallest eigenvalue) *
    gram^(-1/2) @ weights``, here in closed form. The squared length of the direction is the
    smallest eigenvalue times that of the weights.
    """

    name: ClassVar[str] = "aligned_mtl"
    title: ClassVar[str] = "Aligned-MTL"
    source: ClassVar[str] = "Senushkin et al., CVPR 2023, equation (13)"
    weighted: ClassVar[bool] = False

    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        a, b, c = seen.squares
        s = np.sqrt(np.maximum(a * b - c**2, 0.0))
        t = np.sqrt(a + b + 2 * s)
        apart = np.sqrt((a - b) ** 2 + 4 * c**2)
        largest = 0.5 * (a + b + apart)
        # The smallest eigenvalue is s^2 / largest, and s cancels.
        scale = ratio(np.ones_like(s), np.sqrt(largest) * t)
        rows = np.stack([np.stack([b + s, -c], -1), np.stack([-c, a + s], -1)], -2)
        return scale[..., None] * np.einsum("...ij,...j->...i", rows, seen.weights), state
