"""Anchors: penalties with a weight that hold the policy near an earlier one."""

from tradeoff.methods.anchors.base import Anchor, NoAnchor, QuadraticAnchor
from tradeoff.methods.anchors.consistency import ViewConsistency
from tradeoff.methods.anchors.dr_tune import DrTune
from tradeoff.methods.anchors.ewc import Ewc
from tradeoff.methods.anchors.l2_sp import L2Sp
from tradeoff.methods.anchors.policies import KlToBase, LearningWithoutForgetting
from tradeoff.methods.anchors.si import SynapticIntelligence
from tradeoff.parts import collected

ANCHORS: dict[str, type[Anchor]] = collected(__name__, Anchor)
"""Parts of the slot by name; a new one is a file in this folder."""

__all__ = [
    "ANCHORS",
    "Anchor",
    "DrTune",
    "Ewc",
    "KlToBase",
    "L2Sp",
    "LearningWithoutForgetting",
    "NoAnchor",
    "QuadraticAnchor",
    "SynapticIntelligence",
    "ViewConsistency",
]
