"""DPO in which the tokens that only the longer response has count less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from array_api_compat import array_namespace

from tradeoff import objectives
from tradeoff.methods.losses.base import MarginLoss
from tradeoff.methods.losses.records import Array
from tradeoff.settings import Positive, Share


@dataclass(frozen=True, kw_only=True)
class LdDpo(MarginLoss):
    """DPO whose log-probabilities count tokens beyond the shorter response by a share (LD-DPO).

    Attributes
    ----------
    beta
        Inverse temperature; positive.
    alpha
        Weight of each token beyond the length of the other response, in [0, 1]; 1 is DPO, and 0
        compares as many tokens of both responses.

    Notes
    -----
    Card J19, after a second-hand description. Costs nothing more; the trainer keeps the reference's
    log-probabilities with these weights beside those without.
    """

    name: ClassVar[str] = "ld_dpo"
    title: ClassVar[str] = "LD-DPO"
    source: ClassVar[str] = "arXiv 2409.06411"
    by_token: ClassVar[bool] = True
    convex: ClassVar[bool] = True
    beta: Positive = 0.1
    alpha: Share = 0.5

    def of_margin(self, margins: Array) -> Array:
        return objectives.dpo(margins, self.beta)

    def token_weights(self, places: Array, lengths: Array, others: Array) -> Array:
        xp = array_namespace(places)
        ones = super().token_weights(places, lengths, others)
        return xp.where(places >= xp.minimum(lengths, others), self.alpha * ones, ones)
