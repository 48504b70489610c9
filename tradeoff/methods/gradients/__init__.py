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

GRADIENT_RULES: dict[str, type[GradientRule]] = {
    cls.name: cls
    for cls in (
        *(WeightedSum, PcGrad, UpGrad, DualProj, Mgda, CaGrad),
        *(ImtlG, NashMtl, ConFig, AlignedMtl),
        *(SmoothTchebycheff, GeometricLoss, DynamicAverage, Famo),
        *(Agem, Gem, GradDrop),
    )
}
"""Gradient rules by name; a new one is a class and a place in this row."""

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
