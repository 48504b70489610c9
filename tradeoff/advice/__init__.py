"""Advice on two data sets: repeated measures, anchors that give a scale, and a page.

`tradeoff.conflict` analyses one split and one draw in detail. Here the analysis is repeated, so
that every number has an interval. Three sets of known conflict are analysed, too.
"""

from tradeoff.advice.advice import Advice, advise
from tradeoff.advice.anchors import ANCHORS
from tradeoff.advice.repeated import Estimate

__all__ = ["ANCHORS", "Advice", "Estimate", "advise"]
