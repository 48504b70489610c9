"""Losses that see the log-ratio of each response to the reference by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from array_api_compat import array_namespace

from tradeoff.errors import InputError
from tradeoff.methods.losses.base import PreferenceLoss
from tradeoff.methods.losses.records import Array, Pairs, sigmoid, softplus
from tradeoff.settings import NotNegative, Positive


@dataclass(frozen=True, kw_only=True)
class _Rewards(PreferenceLoss):
    """A loss of both implicit rewards, beta times the log-ratio of each response."""

    beta: Positive = 0.1

    def rewards(self, pairs: Pairs) -> tuple[Array, Array]:
        """(n,) implicit rewards of the chosen and of the rejected responses."""
        return self.beta * pairs.chosen.ratio, self.beta * pairs.rejected.ratio


@dataclass(frozen=True, kw_only=True)
class Nca(_Rewards):
    """Contrast with the reference: keeps the likelihood of the chosen response from falling.

    Attributes
    ----------
    beta
        Inverse temperature; positive.
    """

    name: ClassVar[str] = "nca_pair"
    title: ClassVar[str] = "NCA"
    source: ClassVar[str] = "arXiv 2402.05369"

    def losses(self, pairs: Pairs) -> Array:
        chosen, rejected = self.rewards(pairs)
        return softplus(-chosen) + 0.5 * softplus(chosen) + 0.5 * softplus(rejected)


@dataclass(frozen=True, kw_only=True)
class Bco(_Rewards):
    """Binary classifier of single responses, whose logit is the implicit reward.

    The shift by a running mean of rewards is left out, as in TRL.

    Attributes
    ----------
    beta
        Inverse temperature; positive.

    Notes
    -----
    Card J09, after a second-hand description.
    """

    name: ClassVar[str] = "bco_pair"
    title: ClassVar[str] = "BCO"
    source: ClassVar[str] = "arXiv 2404.04656"

    def losses(self, pairs: Pairs) -> Array:
        chosen, rejected = self.rewards(pairs)
        return softplus(-chosen) + softplus(rejected)


@dataclass(frozen=True, kw_only=True)
class ApoZero(_Rewards):
    """Raise the chosen response, lower the rejected one; both pulls saturate.

    On pairs this is also KTO without its estimate of the divergence.

    Attributes
    ----------
    beta
        Inverse temperature; positive.

    Notes
    -----
    Card J12, after a second-hand description.
    """

    name: ClassVar[str] = "apo_zero"
    title: ClassVar[str] = "APO-zero"
    source: ClassVar[str] = "arXiv 2408.06266, equation (7)"

    def losses(self, pairs: Pairs) -> Array:
        chosen, rejected = self.rewards(pairs)
        return sigmoid(-chosen) + sigmoid(rejected)


@dataclass(frozen=True, kw_only=True)
class ApoDown(_Rewards):
    """Lower both responses, the rejected one more: for policies better than their data.

    Attributes
    ----------
    beta
        Inverse temperature; positive.
    """

    name: ClassVar[str] = "apo_down"
    title: ClassVar[str] = "APO-down"
    source: ClassVar[str] = "arXiv 2408.06266, equation (8)"

    def losses(self, pairs: Pairs) -> Array:
        chosen, rejected = self.rewards(pairs)
        return sigmoid(chosen) + sigmoid(rejected - chosen)


@dataclass(frozen=True, kw_only=True)
class Sppo(PreferenceLoss):
    """Squared distances of both log-ratios from plus and minus ``1 / (2 beta)``; labels are hard.

    Attributes
    ----------
    beta
        Strength of the regularisation; positive.

    Notes
    -----
    The paper has a beta of 0.001; that of this default is TRL's.
    """

    name: ClassVar[str] = "sppo_hard"
    title: ClassVar[str] = "SPPO"
    source: ClassVar[str] = "arXiv 2405.00675, equation (4.7)"
    beta: Positive = 0.1

    def losses(self, pairs: Pairs) -> Array:
        half = 0.5 / self.beta
        return (pairs.chosen.ratio - half) ** 2 + (pairs.rejected.ratio + half) ** 2


@dataclass(frozen=True, kw_only=True)
class CalDpo(PreferenceLoss):
    """A logistic loss of the margin, and both log-ratios held at plus and minus ``1 / (2 beta)``.

    Attributes
    ----------
    beta
        Strength of the regularisation; positive. The logistic term has none.

    Notes
    -----
    The released script has a beta of 0.001; this default is that of DPO.
    """

    name: ClassVar[str] = "cal_dpo"
    title: ClassVar[str] = "Cal-DPO"
    source: ClassVar[str] = "arXiv 2412.14516"
    beta: Positive = 0.1

    def losses(self, pairs: Pairs) -> Array:
        half, chosen, rejected = 0.5 / self.beta, pairs.chosen.ratio, pairs.rejected.ratio
        held = (chosen - half) ** 2 + (rejected + half) ** 2
        return softplus(rejected - chosen) + 0.5 * held


@dataclass(frozen=True, kw_only=True)
class DpoPositive(_Rewards):
    """DPO with a penalty where the chosen response falls below the reference (DPOP).

    Attributes
    ----------
    beta
        Inverse temperature; positive.
    penalty
        Weight of that shortfall; not negative, 0 is DPO.

    Notes
    -----
    Card J15, after a second-hand description.
    """

    name: ClassVar[str] = "dpop"
    title: ClassVar[str] = "DPOP"
    source: ClassVar[str] = "arXiv 2402.13228"
    convex: ClassVar[bool] = True
    beta: float = 0.3
    penalty: NotNegative = 50.0

    def losses(self, pairs: Pairs) -> Array:
        chosen = pairs.chosen.ratio
        short = array_namespace(chosen).clip(-chosen, min=0.0)
        return softplus(-self.beta * (pairs.margin - self.penalty * short))


@dataclass(frozen=True, kw_only=True)
class DpoShift(_Rewards):
    """DPO in which the rejected response counts less: a path towards SFT on chosen responses.

    Attributes
    ----------
    beta
        Inverse temperature; positive.
    share
        What the rejected log-ratio counts, in [0, 1]; 1 is DPO.

    Notes
    -----
    Released settings have a beta of 0.01; this default is that of DPO.
    """

    name: ClassVar[str] = "dpo_shift"
    title: ClassVar[str] = "DPO-shift"
    source: ClassVar[str] = "arXiv 2502.07599"
    convex: ClassVar[bool] = True
    share: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.share <= 1:
            raise InputError(
                "not a share", field="share", value=self.share, remedy="Give a number in [0, 1]."
            )

    def losses(self, pairs: Pairs) -> Array:
        return softplus(-self.beta * (pairs.chosen.ratio - self.share * pairs.rejected.ratio))


@dataclass(frozen=True, kw_only=True)
class DivergenceDpo(_Rewards):
    """DPO of another divergence from the reference (f-DPO).

    Attributes
    ----------
    beta
        Inverse temperature; positive.
    divergence
        "forward": forward KL. "js": Jensen-Shannon. The reverse KL is DPO itself.
    """

    name: ClassVar[str] = "f_dpo"
    source: ClassVar[str] = "arXiv 2309.16240"
    divergence: str = "js"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.divergence not in ("forward", "js"):
            remedy = "Use 'forward' or 'js'."
            found = self.divergence
            raise InputError("no such divergence", field="divergence", value=found, remedy=remedy)

    @property
    def label(self) -> str:
        return f"DPO ({self.divergence})"

    def losses(self, pairs: Pairs) -> Array:
        chosen, rejected = (self._score(r.ratio) for r in (pairs.chosen, pairs.rejected))
        return softplus(-self.beta * (chosen - rejected))

    def _score(self, ratio: Array) -> Array:
        if self.divergence == "js":
            return -softplus(-ratio)  # up to a constant, which the difference cancels
        return -array_namespace(ratio).exp(-ratio)


@dataclass(frozen=True, kw_only=True)
class LengthDpo(_Rewards):
    """DPO whose margin is shifted by the difference of the lengths (R-DPO).

    Attributes
    ----------
    beta
        Inverse temperature; positive.
    alpha
        Reward that a token more of the chosen response explains away.

    Notes
    -----
    Card J18, after a second-hand description.
    """

    name: ClassVar[str] = "r_dpo"
    title: ClassVar[str] = "R-DPO"
    source: ClassVar[str] = "arXiv 2403.19159"
    convex: ClassVar[bool] = True
    alpha: float = 0.05

    def losses(self, pairs: Pairs) -> Array:
        reward = self.beta * pairs.margin
        if pairs.chosen.lengths is not None and pairs.rejected.lengths is not None:
            reward = reward + self.alpha * (pairs.chosen.lengths - pairs.rejected.lengths)
        return softplus(-reward)
