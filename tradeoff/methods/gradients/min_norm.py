"""Rules that minimise over the segment between both gradients: MGDA and CAGrad."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tradeoff.errors import InputError
from tradeoff.methods.gradients.base import Array, GradientRule, Seen, State, ratio


@dataclass(frozen=True, kw_only=True)
class Mgda(GradientRule):
    """The shortest vector of the segment between both gradients; the weights do not enter.

    Attributes
    ----------
    scaled
        "none": the gradients as they are; the shorter one gets the larger factor. "length": of
        unit length. "loss": each divided by its loss, which then has to be positive.

    Notes
    -----
    The direction d has d.g_i >= |d|^2 for both gradients, with equality inside the segment.
    """

    name: ClassVar[str] = "mgda"
    source: ClassVar[str] = "arXiv 1810.04650, equation (4)"
    weighted: ClassVar[bool] = False
    above_optima: ClassVar[bool] = False
    scaled: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scaled not in ("none", "length", "loss"):
            raise InputError(
                "no such scale",
                field="scaled",
                value=self.scaled,
                remedy="Use 'none', 'length' or 'loss'.",
            )

    @property
    def uses_losses(self) -> bool:  # type: ignore[override]
        return self.scaled == "loss"

    @property
    def label(self) -> str:
        return "MGDA" if self.scaled == "none" else f"MGDA ({self.scaled})"

    @property
    def total(self) -> float | None:
        return 1.0 if self.scaled == "none" else None

    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        sizes = np.ones_like(seen.weights)
        if self.scaled == "length":
            sizes = np.sqrt(np.diagonal(seen.gram, axis1=-2, axis2=-1))
        elif self.scaled == "loss":
            sizes = seen.losses
        scale = ratio(np.ones_like(sizes), sizes)
        gram = seen.gram * scale[..., :, None] * scale[..., None, :]
        return shortest(gram) * scale, state


@dataclass(frozen=True, kw_only=True)
class CaGrad(GradientRule):
    """The weighted sum, moved towards the objective that it helps least.

    The direction lies within ``c`` times the length of the weighted sum from it, and is divided
    by 1 + c^2.

    Attributes
    ----------
    c
        Radius as a share; not negative, 0 is the weighted sum.

    Notes
    -----
    The published rule is that of equal weights. For two objectives the inner problem has a closed
    form: minimise g_w.g_0 + c |g_0| |g_w| over the segment of the g_w.
    """

    name: ClassVar[str] = "cagrad"
    title: ClassVar[str] = "CAGrad"
    source: ClassVar[str] = "arXiv 2110.14048, Algorithm 1"
    c: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.c < float("inf"):
            raise InputError(
                "negative or not finite", field="c", value=self.c, remedy="Give 0 or more."
            )

    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        sum_square = np.einsum("...i,...ij,...j->...", seen.weights, seen.gram, seen.weights)
        radius = self.c * np.sqrt(np.maximum(sum_square, 0.0))
        mixed = _least(seen, radius)
        square = np.einsum("...i,...ij,...j->...", mixed, seen.gram, mixed)
        moved = ratio(radius, np.sqrt(np.maximum(square, 0.0)))
        return (seen.weights + moved[..., None] * mixed) / (1 + self.c**2), state


def shortest(gram: Array) -> Array:
    """(..., 2) shares of the shortest vector between two of these inner products."""
    a, b, c = gram[..., 0, 0], gram[..., 1, 1], gram[..., 0, 1]
    across = a + b - 2 * c
    # Each by itself: the smaller one would lose its digits in one minus the other.
    shares = ratio(b - c, across, 0.5), ratio(a - c, across, 0.5)
    return np.clip(np.stack(shares, axis=-1), 0.0, 1.0)


def _least(seen: Seen, radius: Array) -> Array:
    """(..., 2) shares of the g_w that minimises g_w.g_0 + radius |g_w|."""
    a, b, c = seen.squares
    across = np.maximum(a + b - 2 * c, 0.0)  # |D|^2 of D = g_1 - g_2
    along = np.einsum("...ij,...j->...i", seen.gram, seen.weights)
    pull = along[..., 0] - along[..., 1]  # D.g_0
    onto = c - b  # D.g_2
    # Along the segment |g_w|^2 = height^2 + (w |D| + D.g_2 / |D|)^2.
    # The difference of b and the square would lose the digits of a short gradient.
    height = np.sqrt(np.maximum(ratio(a * b - c**2, across), 0.0))
    q = ratio(-pull, radius * np.sqrt(across))
    inside = np.abs(q) < 1
    slope = np.where(inside, q, 0.0) / np.sqrt(1 - np.where(inside, q, 0.0) ** 2)
    past = height * slope * np.sqrt(across)
    shares = ratio(past - onto, across, 0.5), ratio(a - c - past, across, 0.5)
    middle = np.clip(np.stack(shares, axis=-1), 0.0, 1.0)
    # Beyond that the pull decides alone; without a radius, too.
    ends = np.where(pull < 0, 1.0, np.where(pull > 0, 0.0, 0.5))
    at_end = np.stack([ends, 1 - ends], axis=-1)
    return np.where((inside & (radius > 0))[..., None], middle, at_end)
