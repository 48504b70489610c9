"""The bases of losses of demonstrations and of losses of pairs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float, Int

from tradeoff.errors import InputError
from tradeoff.methods.losses.records import Array, Pairs, Responses
from tradeoff.parts import Part

Direction = Literal["forward", "reverse", "collision", "entropy"]
"""What a divergence compares, see :func:`tradeoff.methods.losses.divergences.divergence`."""


@dataclass(frozen=True, kw_only=True)
class SftLoss(Part):
    """A loss of demonstrations.

    Attributes
    ----------
    per_response
        Whether it is a loss of whole responses, a class attribute; else of tokens, and the loss
        of a batch is the mean over its tokens. Where a response is one token, both agree.
    needs_reference
        Whether it compares with the reference policy, a class attribute.
    convex
        Whether it is convex in the parameters of a log-linear policy, a class attribute.
    compares
        Direction of the divergence from the reference that it asks for, "forward" or "reverse", a
        class attribute; None if it asks for none. "entropy" asks for that of the policy instead.
    by_token
        Whether it is SFT where every response is one token, a class attribute.
    """

    kind: ClassVar[str] = "sft"
    by_token: ClassVar[bool] = False
    compares: ClassVar[Direction | None] = None
    per_response: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = False
    convex: ClassVar[bool] = False

    @abstractmethod
    def losses(self, tokens: Responses) -> Array:
        """(n,) one loss for each token, or each response where ``per_response``."""

    @property
    def divergence_slope(self) -> float:
        """Slope of the loss in the divergence from the reference."""
        return 0.0

    @property
    def fed_back(self) -> float:
        """Share of the policy's own predictions in the response tokens that it reads, in [0, 1]."""
        return 0.0

    @property
    def forwards(self) -> float:
        """Forward passes of a batch that it costs beside each gradient."""
        return 1.0 if self.fed_back else 0.0

    def hidden(self, progress: Array) -> Array:
        """Probability that a response token is hidden where the policy reads it.

        Parameters
        ----------
        progress
            Share of the updates of the stage that are done, in [0, 1).
        """
        return 0.0 * progress

    @property
    def hides(self) -> bool:
        """Whether it ever hides a token."""
        return False

    def unsupported(self, scale: str) -> str | None:
        if scale == "convex" and self.by_token:
            return "every response is one token there, with which it is SFT"
        if scale == "llm" and self.needs_reference:
            return "the trainer keeps no reference log-probabilities of demonstrations"
        return None


@dataclass(frozen=True, kw_only=True)
class TokenWeighted(SftLoss):
    """Negative log-likelihood with weights of tokens that do not depend on the policy."""

    convex: ClassVar[bool] = True

    def losses(self, tokens: Responses) -> Array:
        weights = tokens.weights
        return -tokens.log_probs if weights is None else -weights * tokens.log_probs

    @abstractmethod
    def weights_of_tokens(self, pieces: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Weights of the response tokens of each training demonstration, not negative.

        Their scale does not matter: an engine divides them by their mean over all tokens.

        Parameters
        ----------
        pieces
            Text of each token, for each demonstration.
        """

    def weights_of_rows(
        self,
        prompts: Int[np.ndarray, " n"],
        responses: Int[np.ndarray, " n"],
        shares: Float[np.ndarray, " n"],
    ) -> Float[np.ndarray, " n"]:
        """The same where the response of each demonstration is one token.

        Parameters
        ----------
        prompts, responses
            Numbers of the prompt and of the response of each training demonstration.
        shares
            How often each of them is shown.
        """
        return np.ones(len(prompts))


@dataclass(frozen=True, kw_only=True)
class PreferenceLoss(Part):
    """A loss of preference pairs.

    Attributes
    ----------
    needs_reference
        Whether it compares with the reference policy, a class attribute.
    margin_only
        Whether it depends on the log-probabilities through :attr:`Pairs.margin` alone, a class
        attribute. Such a loss needs no normaliser of a log-linear policy.
    whole_batch
        Whether the loss of a pair depends on the other pairs of its batch, a class attribute.
    convex
        Whether it is convex in the parameters of a log-linear policy, a class attribute.
    compares
        Direction of the divergence from the reference that it asks for; see :class:`SftLoss`.
        "collision" asks for the logarithm of the sum of squared probabilities instead.
    stopped
        Whether a factor of the loss is taken as a constant, so that slopes are not those of the
        value, a class attribute.
    grouped
        Whether it looks at all responses to the prompt of a pair, see
        :class:`tradeoff.methods.losses.ResponseGroup`; a class attribute.
    asks
        What it wants to know of them beside their probabilities: "rewards", "likeness"; a class
        attribute.
    by_token
        Whether the log-probabilities of its records are weighted sums over the tokens, see
        :meth:`token_weights`, a class attribute.
    """

    kind: ClassVar[str] = "preference"
    compares: ClassVar[Direction | None] = None
    needs_reference: ClassVar[bool] = True
    margin_only: ClassVar[bool] = False
    stopped: ClassVar[bool] = False
    whole_batch: ClassVar[bool] = False
    convex: ClassVar[bool] = False
    grouped: ClassVar[bool] = False
    asks: ClassVar[tuple[str, ...]] = ()
    by_token: ClassVar[bool] = False

    @property
    def cost(self) -> float:
        """Cost of a gradient, in gradients of as many pairs that are given."""
        return 1.0

    def priced(self, pair: float, response: float | None = None) -> float:
        """Cost of a gradient of a batch, in gradients of a batch of demonstrations.

        Parameters
        ----------
        pair
            Cost of a gradient of a batch of given pairs.
        response
            Cost of a gradient of a written response to each prompt of a batch, where such responses
            are drawn; None where all of them are listed.
        """
        return pair * self.cost

    @abstractmethod
    def losses(self, pairs: Pairs) -> Array:
        """(n,) one loss for each pair."""

    def token_weights(self, places: Array, lengths: Array, others: Array) -> Array:
        """(M,) weights of the log-probabilities of tokens, of the policy and of the reference.

        Parameters
        ----------
        places
            (M,) place of each token in its response, from 0.
        lengths, others
            (M,) tokens of that response, and of the other one of its pair.
        """
        return 0.0 * places + 1.0

    def divergence_slopes(self, pairs: Pairs) -> Array | None:
        """(n,) slopes in the divergence of the prompt; None where it counts as a constant."""
        return None

    def unsupported(self, scale: str) -> str | None:
        if scale == "convex" and self.by_token:
            return "every response is one token there, and no token is beyond the other response"
        if scale == "convex" and self.whole_batch:
            return "an update there sees one pair, and the loss sorts those of a batch"
        return None


@dataclass(frozen=True, kw_only=True)
class MarginLoss(PreferenceLoss):
    """A loss of the margin over the reference."""

    margin_only: ClassVar[bool] = True

    @abstractmethod
    def of_margin(self, margins: Array) -> Array:
        """(n,) losses of (n,) margins, in nats."""

    def losses(self, pairs: Pairs) -> Array:
        return self.of_margin(pairs.margin)


def losses_of(loss: SftLoss | PreferenceLoss, given: Responses | Pairs) -> Array:
    """Losses of a record, one for each of its rows.

    A mean in their place, which broadcasts, would change the size of every step unseen.

    Raises
    ------
    InputError
        If there is not one real number for each.
    """
    record: Any = given  # of the kind that the loss takes
    if isinstance(given, Pairs) and given.group is not None:
        rows = tuple(given.group.log_probs.shape[:-1])
    else:
        rows = tuple((given.chosen if isinstance(given, Pairs) else given).log_probs.shape)
    values = loss.losses(record)
    found = tuple(getattr(values, "shape", ()))
    if found != rows or "complex" in str(values.dtype):
        raise InputError(
            f"the loss {loss.name} must return one real number for each of its rows, shape {rows}",
            field=loss.kind,
            value=f"{type(values).__name__} of shape {found}",
            remedy="Take no mean or sum over rows; the engine does.",
        )
    return values
