"""Advice on two datasets: repeated measures, anchors that give a scale, and a page of plain words.

`tradeoff.conflict` analyses one split and one draw in detail. Here the same question is asked
several times, so that every number has an interval, and beside three sets of known conflict.
"""

from tradeoff.advice.advice import Advice, advise
from tradeoff.advice.anchors import ANCHORS
from tradeoff.advice.repeated import Estimate

__all__ = ["ANCHORS", "Advice", "Estimate", "advise"]
