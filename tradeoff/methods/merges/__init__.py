"""Merges: one policy from the ends of two branches."""

from tradeoff.methods.hooks import Hook
from tradeoff.methods.merges.base import Merge, NoMerge
from tradeoff.methods.merges.lines import BlockMeans, Lines, Slerp, Soup, TaskArithmetic, WiseFt
from tradeoff.methods.merges.second_stage import FisherMerge, Graft, HalfReset
from tradeoff.methods.merges.sparse import Dare, Ties
from tradeoff.parts import collected

MERGES: dict[str, type[Hook]] = collected(__name__, Hook)
"""Parts of the slot by name; a new one is a file in this folder."""

__all__ = [
    "MERGES",
    "BlockMeans",
    "Dare",
    "FisherMerge",
    "Graft",
    "HalfReset",
    "Lines",
    "Merge",
    "NoMerge",
    "Slerp",
    "Soup",
    "TaskArithmetic",
    "Ties",
    "WiseFt",
]
