"""The squared distance to earlier weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tradeoff.methods.anchors.base import QuadraticAnchor
from tradeoff.methods.hooks import Array, State
from tradeoff.settings import NotNegative


@dataclass(frozen=True, kw_only=True)
class L2Sp(QuadraticAnchor):
    """``weight / 2 * |weights - anchor| ** 2``: weight decay towards the start of the stage.

    Notes
    -----
    Card C03.
    """

    name: ClassVar[str] = "l2_sp"
    title: ClassVar[str] = "L2-SP"
    source: ClassVar[str] = "arXiv 1802.01483, equation (2)"
    weight: NotNegative = 0.1

    def importance(self, state: State) -> Array:
        return 1.0
