"""Losses of the margin over the reference policy, under the names of TRL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from array_api_compat import array_namespace

from tradeoff import objectives
from tradeoff.methods.losses.base import MarginLoss
from tradeoff.methods.losses.records import Array, Pairs, sigmoid, softplus
from tradeoff.settings import BelowHalf, Positive, Within


@dataclass(frozen=True, kw_only=True)
class Dpo(MarginLoss):
    """Direct preference optimisation: the logistic loss of beta times the margin.

    Attributes
    ----------
    beta
        Inverse temperature; positive.
    label_smoothing
        Probability that a label is flipped (conservative DPO), in [0, 1/2).
    """

    name: ClassVar[str] = "sigmoid"
    source: ClassVar[str] = "arXiv 2305.18290, equation (7)"
    convex: ClassVar[bool] = True
    beta: Positive = 0.1
    label_smoothing: BelowHalf = 0.0

    @property
    def label(self) -> str:
        return "cDPO" if self.label_smoothing else "DPO"

    def of_margin(self, margins: Array) -> Array:
        return objectives.dpo(margins, self.beta, self.label_smoothing)


@dataclass(frozen=True, kw_only=True)
class DpoPerToken(Dpo):
    """DPO of log-probabilities per token.

    Attributes
    ----------
    beta, label_smoothing
        As for :class:`Dpo`.
    """

    name: ClassVar[str] = "sigmoid_norm"
    source: ClassVar[str] = "TRL, loss_type sigmoid_norm"
    margin_only: ClassVar[bool] = False

    @property
    def label(self) -> str:
        return f"{super().label} (per token)"

    def losses(self, pairs: Pairs) -> Array:
        return self.of_margin(pairs.margin_per_token)


@dataclass(frozen=True, kw_only=True)
class RobustDpo(MarginLoss):
    """DPO that is unbiased where labels are flipped with a known probability.

    Attributes
    ----------
    beta
        Inverse temperature; positive.
    label_smoothing
        Probability that a label is flipped, in [0, 1/2).

    Notes
    -----
    Card J03, after a second-hand description.
    """

    name: ClassVar[str] = "robust"
    title: ClassVar[str] = "robust DPO"
    source: ClassVar[str] = "arXiv 2403.00409"
    convex: ClassVar[bool] = True
    beta: Positive = 0.1
    label_smoothing: BelowHalf = 0.1

    def of_margin(self, margins: Array) -> Array:
        # The difference of both logistic losses is the reward itself.
        flipped = self.label_smoothing / (1 - 2 * self.label_smoothing)
        return softplus(-self.beta * margins) - flipped * self.beta * margins


@dataclass(frozen=True, kw_only=True)
class Hinge(MarginLoss):
    """Hinge loss: no slope once beta times the margin is one.

    Attributes
    ----------
    beta
        Inverse temperature; positive.

    Notes
    -----
    Card J05, after a second-hand description.
    """

    name: ClassVar[str] = "hinge"
    title: ClassVar[str] = "hinge"
    source: ClassVar[str] = "arXiv 2305.10425, 2309.06657"
    convex: ClassVar[bool] = True
    beta: Positive = 0.1

    def of_margin(self, margins: Array) -> Array:
        return objectives.hinge(margins, self.beta)


@dataclass(frozen=True, kw_only=True)
class Ipo(MarginLoss):
    """Squared distance of the margin per token from ``1 / (2 beta)``.

    Attributes
    ----------
    beta
        Strength of the regularisation; positive.

    Notes
    -----
    Card J04, after a second-hand description.
    """

    name: ClassVar[str] = "ipo"
    title: ClassVar[str] = "IPO"
    source: ClassVar[str] = "arXiv 2310.12036, equation (17)"
    margin_only: ClassVar[bool] = False
    convex: ClassVar[bool] = True
    beta: Positive = 0.1

    def of_margin(self, margins: Array) -> Array:
        return objectives.ipo(margins, self.beta)

    def losses(self, pairs: Pairs) -> Array:
        return self.of_margin(pairs.margin_per_token)


@dataclass(frozen=True, kw_only=True)
class Exo(MarginLoss):
    """Divergence of the policy's choice from the smoothed label: cDPO the other way round.

    Attributes
    ----------
    beta
        Inverse temperature; positive.
    label_smoothing
        Probability of the other label, in (0, 1/2).
    """

    name: ClassVar[str] = "exo_pair"
    title: ClassVar[str] = "EXO"
    source: ClassVar[str] = "arXiv 2402.00856, equation (16)"
    beta: Positive = 0.1
    label_smoothing: Annotated[float, Within(0, 0.5, "()")] = 1e-3

    def of_margin(self, margins: Array) -> Array:
        xp = array_namespace(margins)
        reward = self.beta * margins
        label = xp.asarray([self.label_smoothing, 1 - self.label_smoothing], dtype=reward.dtype)
        other, own = xp.log(label)
        right = sigmoid(reward) * (-softplus(-reward) - own)
        return right + sigmoid(-reward) * (-softplus(reward) - other)


@dataclass(frozen=True, kw_only=True)
class DiscoPop(MarginLoss):
    """A logistic and an exponential loss, mixed by the margin; found by program search.

    At the reference its slope has the wrong sign for tau below about 0.102.

    Attributes
    ----------
    beta, tau
        Inverse temperature, and temperature of the mixture; positive.

    Notes
    -----
    Card J22, after a second-hand description. The paper has a beta of 0.05; this default is
    that of DPO.
    """

    name: ClassVar[str] = "discopop"
    title: ClassVar[str] = "DiscoPOP"
    source: ClassVar[str] = "arXiv 2406.08414, equation (5)"
    beta: Positive = 0.1
    tau: Positive = 0.05

    def of_margin(self, margins: Array) -> Array:
        reward = self.beta * margins
        share = sigmoid(reward / self.tau)
        return (1 - share) * softplus(-reward) + share * array_namespace(reward).exp(-reward)
