"""What is compared: methods, made of a schedule and parts that fill named slots.

A :class:`Method` runs on convex problems, small networks and language models. Every slot but the
schedule has an identity default, so a schedule alone is a method.
"""

from tradeoff.methods.catalogue import METHODS, find, names, restored
from tradeoff.methods.gradients import GRADIENT_RULES, GradientRule
from tradeoff.methods.losses import PREFERENCE_LOSSES, SFT_LOSSES, PreferenceLoss, SftLoss
from tradeoff.methods.method import Method, told_apart
from tradeoff.parts import Part

__all__ = [
    "GRADIENT_RULES",
    "METHODS",
    "PREFERENCE_LOSSES",
    "SFT_LOSSES",
    "GradientRule",
    "Method",
    "Part",
    "PreferenceLoss",
    "SftLoss",
    "find",
    "names",
    "restored",
    "told_apart",
]
