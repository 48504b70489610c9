"""Tensors that move, by their names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from tradeoff.methods.hooks import Array, Moment, State
from tradeoff.methods.parameters.base import Mask


@dataclass(frozen=True, kw_only=True)
class Subset(Mask):
    """The tensors whose name fits a pattern move; the last layer by default.

    Attributes
    ----------
    pattern
        Regular expression that is searched in the name of a tensor. If it fits none, nothing
        moves.

    Notes
    -----
    Card S42, a transfer of an abstract.
    """

    name: ClassVar[str] = "subset"
    title: ClassVar[str] = "subset"
    source: ClassVar[str] = "arXiv 2208.13928"
    pattern: str = r"(^|\.)(lm_)?head\."

    @property
    def label(self) -> str:
        return "last layer" if self == Subset() else f"subset {self.pattern}"

    def unsupported(self, scale: str) -> str | None:
        return "there all parameters are one tensor" if scale == "convex" else None

    def free(self, weights: Array, state: State, moment: Moment) -> Array:
        every = weights == weights
        return every if re.search(self.pattern, moment.blocks[moment.block]) else ~every
