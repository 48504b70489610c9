"""Which weights move: masks, and filters of gradients."""

from tradeoff.methods.parameters.added import Added, LoraMoe
from tradeoff.methods.parameters.base import EveryParameter, Mask, Parameters
from tradeoff.methods.parameters.halves import HalfFineTuning
from tradeoff.methods.parameters.latents import LatentThoughts
from tradeoff.methods.parameters.ogd import Ogd
from tradeoff.methods.parameters.shifted import FeatureMasks, Nested, Sam, Shifted, StraightThrough
from tradeoff.methods.parameters.small_model import SmallModel
from tradeoff.methods.parameters.sparse import LotteryTicket, TopGradient
from tradeoff.methods.parameters.steering import Drift, GradientMemory
from tradeoff.methods.parameters.subsets import Subset
from tradeoff.methods.parameters.subspaces import (
    Frozen,
    OrthogonalSubspaces,
    PreservedDirections,
    Subspace,
)
from tradeoff.parts import collected

PARAMETERS: dict[str, type[Parameters]] = collected(__name__, Parameters)
"""Parts of the slot by name; a new one is a file in this folder."""

__all__ = [
    "PARAMETERS",
    "Added",
    "Drift",
    "EveryParameter",
    "FeatureMasks",
    "Frozen",
    "GradientMemory",
    "HalfFineTuning",
    "LatentThoughts",
    "LoraMoe",
    "LotteryTicket",
    "Mask",
    "Nested",
    "Ogd",
    "OrthogonalSubspaces",
    "Parameters",
    "PreservedDirections",
    "Sam",
    "Shifted",
    "SmallModel",
    "StraightThrough",
    "Subset",
    "Subspace",
    "TopGradient",
]
