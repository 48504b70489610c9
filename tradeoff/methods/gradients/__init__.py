"""Gradient rules: how the gradients of both objectives become one direction.

A rule acts in updates that follow both objectives, so it needs a schedule with such updates.
"""

from tradeoff.methods.gradients.base import GradientRule, Seen, State, WeightedSum
from tradeoff.methods.gradients.bisectors import AlignedMtl, ConFig, ImtlG, NashMtl
from tradeoff.methods.gradients.chance import RandomWeights
from tradeoff.methods.gradients.coordinates import CoordinateRule, GradDrop, Update, VectorRule
from tradeoff.methods.gradients.fairness import FairGrad, GradVac
from tradeoff.methods.gradients.learned import GradNorm, ImtlL, Uncertainty
from tradeoff.methods.gradients.limits import ConstraintDual, Gate
from tradeoff.methods.gradients.memory import Agem, Gem
from tradeoff.methods.gradients.min_norm import CaGrad, Mgda
from tradeoff.methods.gradients.projections import DualProj, PcGrad, UpGrad
from tradeoff.methods.gradients.rays import Epo, Ferero, ParetoMtl
from tradeoff.methods.gradients.regularised import LearnedMix, MoDo, SdmGrad
from tradeoff.methods.gradients.tracked import DbMtl, ExcessMtl, MoCo
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
    "ConstraintDual",
    "CoordinateRule",
    "DbMtl",
    "DualProj",
    "DynamicAverage",
    "Epo",
    "ExcessMtl",
    "FairGrad",
    "Famo",
    "Ferero",
    "Gate",
    "Gem",
    "GeometricLoss",
    "GradDrop",
    "GradNorm",
    "GradVac",
    "GradientRule",
    "ImtlG",
    "ImtlL",
    "LearnedMix",
    "Mgda",
    "MoCo",
    "MoDo",
    "NashMtl",
    "ParetoMtl",
    "PcGrad",
    "RandomWeights",
    "SdmGrad",
    "Seen",
    "SmoothTchebycheff",
    "State",
    "Uncertainty",
    "UpGrad",
    "Update",
    "VectorRule",
    "WeightedSum",
]
