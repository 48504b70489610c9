"""Losses of demonstrations of which the policy reads other tokens than those it is scored on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tradeoff.methods.losses.base import SftLoss, TokenWeighted
from tradeoff.methods.losses.records import Array, Responses
from tradeoff.settings import BelowOne, Share


@dataclass(frozen=True, kw_only=True)
class MaskedThought(SftLoss):
    """SFT in which the policy does not see some of the response tokens before (MFT).

    Each response token is replaced, where it is read, by a mask token, which is the padding token
    where a tokenizer has none. All tokens are scored.

    Attributes
    ----------
    rate
        Probability that a token is replaced, in [0, 1]; 0 is SFT.
    warm
        Share of the updates of a stage over which the rate rises from zero, in [0, 1].

    Notes
    -----
    Card S09. Costs nothing more.
    """

    name: ClassVar[str] = "mft"
    title: ClassVar[str] = "MFT"
    source: ClassVar[str] = "arXiv 2403.02178"
    by_token: ClassVar[bool] = True
    convex: ClassVar[bool] = True
    rate: Share = 0.4
    warm: Share = 2 / 3

    def losses(self, tokens: Responses) -> Array:
        return -tokens.log_probs

    @property
    def hides(self) -> bool:
        return self.rate > 0

    def hidden(self, progress: Array) -> Array:
        risen = np.minimum(np.asarray(progress) / self.warm, 1.0) if self.warm else 1.0
        return self.rate * risen * np.ones_like(progress)


@dataclass(frozen=True, kw_only=True)
class IntuitiveSft(TokenWeighted):
    """SFT that reads a part of its own predictions, and in which later tokens count more (IFT).

    The embedding of each response token that is read is a mean of that of the token and that of
    the policy's likeliest token. The objective of each token is the discounted sum of its loss and
    of those after it.

    Attributes
    ----------
    own
        Share of the policy's own tokens in the embeddings, in [0, 1].
    discount
        Of later losses, in [0, 1). The t-th token of a response has the weight
        ``1 + discount + ... + discount**(t-1)``, over the mean of that. SFT: `own` and discount 0.

    Notes
    -----
    Card J38. Costs a forward pass of each batch for the predictions, through which no gradient
    goes, unless `own` is 0.
    """

    name: ClassVar[str] = "ift"
    title: ClassVar[str] = "IFT"
    source: ClassVar[str] = "arXiv 2405.11870"
    by_token: ClassVar[bool] = True
    own: Share = 0.2
    discount: BelowOne = 0.95

    @property
    def fed_back(self) -> float:
        return self.own

    def weights_of_tokens(self, pieces: Sequence[Sequence[str]]) -> list[np.ndarray]:
        found = [np.cumsum(self.discount ** np.arange(len(each))) for each in pieces]
        return [each / each.mean() if len(each) else each for each in found]
