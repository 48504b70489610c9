"""Which weights move: masks, and filters of gradients."""

from tradeoff.methods.parameters.base import EveryParameter, Mask, Parameters
from tradeoff.methods.parameters.halves import HalfFineTuning
from tradeoff.methods.parameters.ogd import Ogd
from tradeoff.methods.parameters.sparse import LotteryTicket, TopGradient
from tradeoff.methods.parameters.subsets import Subset
from tradeoff.parts import collected

PARAMETERS: dict[str, type[Parameters]] = collected(__name__, Parameters)
"""Parts of the slot by name; a new one is a file in this folder."""

__all__ = [
    "PARAMETERS",
    "EveryParameter",
    "HalfFineTuning",
    "LotteryTicket",
    "Mask",
    "Ogd",
    "Parameters",
    "Subset",
    "TopGradient",
]
