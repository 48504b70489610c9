"""Losses of demonstrations that stay near an old policy, or that stand for sampled tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from array_api_compat import array_namespace

from tradeoff.methods.losses.demonstrations import Weighted
from tradeoff.methods.losses.records import Array, Responses
from tradeoff.settings import Positive, Within


@dataclass(frozen=True, kw_only=True)
class ProximalSft(Weighted):
    """Weight r = p / p_ref while it is at most a bound; beyond it there is no slope (PSFT).

    Attributes
    ----------
    high
        How far above one the ratio may be; positive.

    Notes
    -----
    Card J43. The published rule renews its old policy every few updates; here that is the reference
    policy. Its lower bound has no effect on demonstrations. Costs the reference's probabilities.
    """

    name: ClassVar[str] = "psft"
    title: ClassVar[str] = "PSFT"
    source: ClassVar[str] = "arXiv 2508.17784"
    needs_reference: ClassVar[bool] = True
    high: Positive = 0.28

    def weights(self, tokens: Responses) -> Array:
        xp = array_namespace(tokens.log_probs)
        ratio = xp.exp(xp.clip(tokens.ratio, max=50.0))
        return xp.where(ratio <= 1 + self.high, ratio, 0 * ratio)


@dataclass(frozen=True, kw_only=True)
class OneTokenRollout(Weighted):
    """Policy gradient of one sampled token, rewarded where it is that of the data (OTR).

    Attributes
    ----------
    miss
        Reward of any other token, below 1; a hit has 1.

    Notes
    -----
    Card S18, after a second-hand description. The published rule samples tokens; this is its exact
    mean at temperature 1, which is ``1 - miss`` times DFT. The published reward is not known. Costs
    nothing more.
    """

    name: ClassVar[str] = "otr"
    title: ClassVar[str] = "OTR"
    source: ClassVar[str] = "arXiv 2509.26313"
    miss: Annotated[float, Within(-10, 1, "[)")] = -0.1

    def weights(self, tokens: Responses) -> Array:
        return (1 - self.miss) * array_namespace(tokens.log_probs).exp(tokens.log_probs)
