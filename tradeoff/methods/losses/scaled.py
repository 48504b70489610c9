"""Margin losses that others become by a scale or by soft labels."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Annotated, ClassVar

from array_api_compat import array_namespace

from tradeoff.errors import InputError
from tradeoff.methods.losses.base import MarginLoss, PreferenceLoss
from tradeoff.methods.losses.records import Array, Pairs, softplus
from tradeoff.settings import Positive, Within


@dataclass(frozen=True, kw_only=True)
class Adpo(MarginLoss):
    """Divergence of the policy's choice, anchored at the reference, from a soft label.

    Attributes
    ----------
    tau
        Temperature of the choice; positive.
    flip
        Probability that the soft label gives to the rejected response, in (0, 1/2).

    Notes
    -----
    Card S25, of sets of two responses: conservative DPO with beta = 1 / tau, less the entropy of
    the label. Costs the reference's log-probabilities.
    """

    name: ClassVar[str] = "adpo"
    title: ClassVar[str] = "ADPO"
    source: ClassVar[str] = "arXiv 2510.18913"
    convex: ClassVar[bool] = True
    tau: Positive = 0.8
    flip: Annotated[float, Within(0, 0.5, "()")] = 0.1

    def of_margin(self, margins: Array) -> Array:
        xp = array_namespace(margins)
        scaled = margins / self.tau
        label = xp.asarray([1 - self.flip, self.flip], dtype=margins.dtype)
        entropy = -xp.sum(label * xp.log(label))
        return (1 - self.flip) * softplus(-scaled) + self.flip * softplus(scaled) - entropy


@dataclass(frozen=True, kw_only=True)
class UnitDpo(MarginLoss):
    """DPO divided by its slope at the reference, so that lam means the same for every beta.

    Attributes
    ----------
    beta
        Inverse temperature; positive.

    Notes
    -----
    Card X08, ours. Where the policy is the reference its slopes are -1 and 1.
    """

    name: ClassVar[str] = "unit_dpo"
    title: ClassVar[str] = "DPO of unit slope"
    source: ClassVar[str] = "ours"
    convex: ClassVar[bool] = True
    beta: Positive = 0.1

    def of_margin(self, margins: Array) -> Array:
        return 2 / self.beta * softplus(-self.beta * margins)


@dataclass(frozen=True, kw_only=True)
class MovingReferenceDpo(MarginLoss):
    """DPO whose reference becomes the policy after every update: the slope never falls (TR-DPO).

    The loss is ``log 2 - beta / 2 * margin``, which has the slope of DPO at its reference.

    Attributes
    ----------
    beta
        Inverse temperature; positive.

    Notes
    -----
    Card J20, after a second-hand description, in its limit: the published rule renews the
    reference after many updates, or moves it slowly. Without a bound on the weights there is no
    minimum. The paper has a beta of 0.05; this default is that of DPO.
    """

    name: ClassVar[str] = "tr_dpo"
    title: ClassVar[str] = "TR-DPO"
    source: ClassVar[str] = "arXiv 2404.09656"
    convex: ClassVar[bool] = True
    beta: Positive = 0.1

    def of_margin(self, margins: Array) -> Array:
        return log(2) - self.beta / 2 * margins


@dataclass(frozen=True, kw_only=True)
class Modpo(PreferenceLoss):
    """DPO for one of two rewards, the other of which is known: here, a reward of short responses.

    Attributes
    ----------
    beta
        Inverse temperature; positive.
    weight
        Weight of the reward that is learned, in (0, 1]; the other one has the rest. 1 is DPO.
    per_token
        Known reward that a token costs.

    Notes
    -----
    Card J32. The known reward is ours, as rows have none. Where all responses have one length this
    is DPO with ``beta / weight``. Costs the reference's log-probabilities.
    """

    name: ClassVar[str] = "modpo"
    title: ClassVar[str] = "MODPO"
    source: ClassVar[str] = "arXiv 2310.03708"
    convex: ClassVar[bool] = True
    beta: Positive = 0.1
    weight: Annotated[float, Within(0, 1, "(]")] = 0.5
    per_token: float = 0.02

    def losses(self, pairs: Pairs) -> Array:
        reward = self.beta * pairs.margin
        if pairs.chosen.lengths is not None and pairs.rejected.lengths is not None:
            known = self.per_token * (pairs.rejected.lengths - pairs.chosen.lengths)
            reward = reward - (1 - self.weight) * known
        return softplus(-reward / self.weight)


@dataclass(frozen=True, kw_only=True)
class AlphaDpo(PreferenceLoss):
    """DPO of an alpha-divergence from the reference, between the reverse and the forward KL.

    Attributes
    ----------
    beta
        Inverse temperature; positive.
    alpha
        Of the divergence, not zero; towards 0 this is DPO, and 1 is the forward KL.

    Notes
    -----
    Card J21, after a second-hand description. Costs the reference's log-probabilities.
    """

    name: ClassVar[str] = "alpha_dpo"
    title: ClassVar[str] = "DPO (alpha)"
    source: ClassVar[str] = "arXiv 2309.16240"
    beta: Positive = 0.1
    alpha: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not abs(self.alpha) > 0:
            remedy = "Give another number, or use Dpo."
            raise InputError("zero is DPO", field="alpha", value=self.alpha, remedy=remedy)

    def losses(self, pairs: Pairs) -> Array:
        xp = array_namespace(pairs.margin)
        powers = [xp.exp(-self.alpha * r.ratio) for r in (pairs.chosen, pairs.rejected)]
        return softplus(-self.beta * (powers[1] - powers[0]) / self.alpha)
