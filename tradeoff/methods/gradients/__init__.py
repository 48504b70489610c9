"""Gradient rules: how the gradients of both objectives become one direction.

A rule acts in updates that follow both objectives, so it needs a schedule with such updates.
"""

from tradeoff.methods.gradients.base import GradientRule, Seen, State, WeightedSum
from tradeoff.methods.gradients.bisectors import AlignedMtl, ConFig, ImtlG, NashMtl
from tradeoff.methods.gradients.coordinates import CoordinateRule, GradDrop
from tradeoff.methods.gradients.memory import Agem, Gem
from tradeoff.methods.gradients.min_norm import CaGrad, Mgda
from tradeoff.methods.gradients.projections import DualProj, PcGrad, UpGrad
from tradeoff.methods.gradients.values import (
    DynamicAverage,
    Famo,
    GeometricLoss,
    SmoothTchebycheff,
)
from tradeoff.parts import collected

GRADIENT_RULES: dict[str, type[GradientRule]] = collected(__name__, GradientRule)  # type: ignore[type-abstract]
"""Gradient rules by name; a new one is a file in this folder."""

__all__ = [
    "GRADIENT_RULES",
    "Agem",
    "AlignedMtl",
    "CaGrad",
    "ConFig",
    "CoordinateRule",
    "DualProj",
    "DynamicAverage",
    "Famo",
    "Gem",
    "GeometricLoss",
    "GradDrop",
    "GradientRule",
    "ImtlG",
    "Mgda",
    "NashMtl",
    "PcGrad",
    "Seen",
    "SmoothTchebycheff",
    "State",
    "UpGrad",
    "WeightedSum",
]
