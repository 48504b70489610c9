"""What is kept while training: averages of the weights, and merges of each update."""

from tradeoff.methods.after.averages import Bema, Ema
from tradeoff.methods.after.base import After, LastIterate
from tradeoff.methods.after.online_merging import OnlineMerging
from tradeoff.methods.after.resa import Resa
from tradeoff.parts import collected

AFTER: dict[str, type[After]] = collected(__name__, After)
"""Parts of the slot by name; a new one is a file in this folder."""

__all__ = ["AFTER", "After", "Bema", "Ema", "LastIterate", "OnlineMerging", "Resa"]
