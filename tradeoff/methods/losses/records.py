"""What a loss sees: log-probabilities of responses under the policy and under the reference."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from array_api_compat import array_namespace

from tradeoff.errors import InputError

Array = Any
"""A numpy array or a torch tensor."""


class Compared:
    """What records that may have a reference policy share."""

    reference: Array | None

    @property
    def known_reference(self) -> Array:
        """The reference's log-probabilities.

        Raises
        ------
        InputError
            If they are not known.
        """
        if self.reference is None:
            raise InputError(
                "the loss compares with a reference policy whose log-probabilities are not known",
                field="reference",
                remedy="Use a loss without a reference, or give the reference policy itself.",
            )
        return self.reference


@dataclass(frozen=True, eq=False)
class Responses(Compared):
    """Log-probabilities of n responses, or of n tokens where a loss counts tokens.

    Attributes
    ----------
    log_probs
        (n,) log pi(y|x), in nats: the sum over the tokens of each response.
    reference
        (n,) the same under the reference policy; ``None`` where no reference is known.
    lengths
        (n,) tokens of each response; ``None``: one each.
    divergence
        (n,) divergence between policy and reference over all responses of the same prompt, in the
        direction that the loss asks for; ``None``: zero, as where the policy is the reference.
    weights
        (n,) weight of each token, of mean one over all tokens of the training demonstrations, if
        the loss weighs tokens by what they are; ``None``: ones.
    """

    log_probs: Array
    reference: Array | None = None
    lengths: Array | None = None
    divergence: Array | None = None
    weights: Array | None = None

    @property
    def known_divergence(self) -> Array:
        """The divergence; zero where none is given beside a reference.

        Raises
        ------
        InputError
            If nothing is known of the reference.
        """
        return 0 * self.known_reference if self.divergence is None else self.divergence

    @property
    def ratio(self) -> Array:
        """(n,) log pi(y|x) - log pi_ref(y|x)."""
        return self.log_probs - self.known_reference

    def per_token(self, values: Array) -> Array:
        """(n,) values divided by the length of each response."""
        return values if self.lengths is None else values / self.lengths


@dataclass(frozen=True, eq=False)
class ResponseGroup(Compared):
    """All K responses to each of n prompts, which stand for those that a policy writes.

    Attributes
    ----------
    log_probs
        (n, K) log pi(y|x), in nats; minus infinity where a prompt has no more responses.
    reference
        (n, K) the same under the reference policy; ``None`` where no reference is known.
    rewards
        (n, K) rewards by the judge; finite also where there is no response.
    likeness
        (n, K) cosine of the features of each response and of the chosen one, in [-1, 1].
    """

    log_probs: Array
    reference: Array | None = None
    rewards: Array | None = None
    likeness: Array | None = None

    @property
    def shares(self) -> Array:
        """(n, K) what each response counts in a mean over what the policy writes, constants."""
        return array_namespace(self.log_probs).exp(fixed(self.log_probs))

    def per_token(self, values: Array) -> Array:
        """(n, K) values divided by the length of each response, which is one token here."""
        return values

    @property
    def present(self) -> Array:
        """(n, K) whether there is such a response."""
        return self.log_probs > -float("inf")

    @property
    def finite(self) -> Array:
        """(n, K) log-probabilities, zero where there is no response."""
        return _or_zero(self.present, self.log_probs)

    @property
    def ratio(self) -> Array:
        """(n, K) log pi(y|x) - log pi_ref(y|x), zero where there is no response."""
        return self.finite - _or_zero(self.present, self.known_reference)


@dataclass(frozen=True, eq=False)
class WrittenGroup(ResponseGroup):
    """K responses that were written to each of n prompts, where those that could be are too many.

    Rewards are those of an exact judge. All responses are there; the same one may occur twice.

    Attributes
    ----------
    lengths
        (n, K) tokens of each response, at least 1; ``None``: one each.
    """

    lengths: Array | None = None

    @property
    def shares(self) -> Array:
        """(n, K) one over K: a response counts as often as it was written."""
        return 0 * fixed(self.log_probs) + 1 / self.log_probs.shape[-1]

    def per_token(self, values: Array) -> Array:
        """(n, K) values divided by the length of each response."""
        return values if self.lengths is None else values / self.lengths


@dataclass(frozen=True, eq=False)
class Pairs:
    """The two responses of n preference pairs.

    Attributes
    ----------
    chosen, rejected
        Of the same prompts, in the same order.
    group
        All responses to these prompts; ``None`` where they are not known.
    """

    chosen: Responses
    rejected: Responses
    group: ResponseGroup | None = field(default=None, kw_only=True)

    @property
    def known_group(self) -> ResponseGroup:
        """The group of each prompt; without one, both responses of the pair are all there is.

        The chosen response then has a reward of 1 and the rejected one of 0, and they have nothing
        in common.
        """
        if self.group is not None:
            return self.group
        sides = self.chosen, self.rejected
        own = _among(*(side.log_probs for side in sides))
        known = None
        if all(side.reference is not None for side in sides):
            known = _among(*(side.known_reference for side in sides))
        first = fixed(self.chosen.log_probs * 0)
        label = _stacked(first + 1, first)
        return ResponseGroup(own, known, label, label)

    @property
    def margin(self) -> Array:
        """(n,) how much more the policy prefers chosen over rejected than the reference does."""
        return self.chosen.ratio - self.rejected.ratio

    @property
    def margin_per_token(self) -> Array:
        """(n,) the same with each log-ratio divided by the length of its response."""
        chosen, rejected = self.chosen, self.rejected
        return chosen.per_token(chosen.ratio) - rejected.per_token(rejected.ratio)


def _or_zero(present: Array, values: Array) -> Array:
    xp = array_namespace(values)
    return xp.where(present, values, xp.zeros_like(values))


def _stacked(first: Array, second: Array) -> Array:
    return array_namespace(first).stack([first, second], axis=-1)


def _among(first: Array, second: Array) -> Array:
    """(n, 2) log-probabilities of one of two responses, given that it is one of them."""
    return _stacked(-softplus(second - first), -softplus(first - second))


def fixed(values: Array) -> Array:
    """The values as constants: autograd does not go through them."""
    return values.detach() if hasattr(values, "detach") else values


def softplus(values: Array) -> Array:
    """``log(1 + exp(values))`` without overflow; minus log sigmoid of minus the values."""
    xp = array_namespace(values)
    return xp.logaddexp(xp.zeros_like(values), values)


def sigmoid(values: Array) -> Array:
    """``1 / (1 + exp(-values))`` without overflow."""
    return array_namespace(values).exp(-softplus(-values))
