"""Losses of a batch of pairs as a whole: they compare sorted margins or sorted rewards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from array_api_compat import array_namespace

from tradeoff import objectives
from tradeoff.methods.losses.base import PreferenceLoss
from tradeoff.methods.losses.records import Array, Pairs
from tradeoff.settings import BelowHalf, Positive


@dataclass(frozen=True, kw_only=True)
class Aot(PreferenceLoss):
    """DPO of sorted margins: those of the policy should dominate those of the reference.

    Attributes
    ----------
    beta
        Inverse temperature; positive.
    label_smoothing
        Probability that a label is flipped, in [0, 1/2).

    Notes
    -----
    Card J23, after a second-hand description.
    """

    name: ClassVar[str] = "aot"
    title: ClassVar[str] = "AOT"
    source: ClassVar[str] = "arXiv 2406.05882"
    whole_batch: ClassVar[bool] = True
    beta: Positive = 0.1
    label_smoothing: BelowHalf = 0.0

    def losses(self, pairs: Pairs) -> Array:
        own = pairs.chosen.log_probs - pairs.rejected.log_probs
        reference = pairs.chosen.known_reference - pairs.rejected.known_reference
        margins = _sorted(own) - _sorted(reference)
        return objectives.dpo(margins, self.beta, self.label_smoothing)


@dataclass(frozen=True, kw_only=True)
class AotUnpaired(Aot):
    """DPO of sorted log-ratios: chosen responses should dominate rejected ones as a set.

    Attributes
    ----------
    beta, label_smoothing
        As for :class:`Aot`.
    """

    name: ClassVar[str] = "aot_unpaired"
    title: ClassVar[str] = "AOT (unpaired)"

    def losses(self, pairs: Pairs) -> Array:
        margins = _sorted(pairs.chosen.ratio) - _sorted(pairs.rejected.ratio)
        return objectives.dpo(margins, self.beta, self.label_smoothing)


def _sorted(values: Array) -> Array:
    return array_namespace(values).sort(values)
