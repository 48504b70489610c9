"""Rules that remember gradients: running means of them, or of their squares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from array_api_compat import array_namespace

from tradeoff.methods.gradients.coordinates import Update, VectorRule
from tradeoff.methods.gradients.values import LEAST, STEEP
from tradeoff.settings import BelowOne, NotNegative, Share

Kept = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class TrackingRule(VectorRule):
    """A rule whose memory is as large as the gradients, of the whole model."""

    weighted: ClassVar[bool] = False
    uses_losses: ClassVar[bool] = True
    above_optima: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class DbMtl(TrackingRule):
    """Gradients of the logarithms of both losses, as running means, brought to the longer length.

    Attributes
    ----------
    decay
        Weight of the mean so far, in [0, 1); 0 points along the bisector of both gradients.

    Notes
    -----
    Card G18. The weights of the schedule count in the longer length alone; an objective of weight
    zero is left out. Costs two gradients.
    """

    name: ClassVar[str] = "db_mtl"
    title: ClassVar[str] = "DB-MTL"
    source: ClassVar[str] = "arXiv 2308.12029"
    decay: BelowOne = 0.9

    def remembered(self, like: Any) -> Kept:
        zero = array_namespace(like).zeros_like(like)
        return {"first": zero, "second": zero}

    def joined(self, first: Any, second: Any, about: Update, state: Kept) -> tuple[Any, Kept]:
        losses = _floored(about.losses)
        means = {
            name: self.decay * state[name] + (1 - self.decay) * gradient / losses[..., k : k + 1]
            for k, (name, gradient) in enumerate((("first", first), ("second", second)))
        }
        one, two = means["first"], means["second"]
        lengths = _length(one), _length(two)
        longer = array_namespace(one).maximum(*lengths)
        return longer * (_over(one, lengths[0]) + _over(two, lengths[1])), means


@dataclass(frozen=True, kw_only=True)
class MoCo(TrackingRule):
    """Weights that descend to the shortest vector between running means of both gradients.

    Attributes
    ----------
    recent
        Weight of the newest gradient in the means, in [0, 1]; at update t, over the root of t.
    rate
        Step size of the weights, not negative; at update t, over the root of t. With 0 they stay
        those of the schedule.

    Notes
    -----
    Card G13, after a second-hand description. Each gradient is brought to the length of its loss.
    Weights are projected on shares, as in the paper. An objective that the schedule gives no
    weight counts as one without gradients. Costs two gradients.
    """

    name: ClassVar[str] = "moco"
    title: ClassVar[str] = "MoCo"
    source: ClassVar[str] = "arXiv 2210.12624"
    recent: Share = 0.5
    rate: NotNegative = 0.1

    def remembered(self, like: Any) -> Kept:
        xp = array_namespace(like)
        zero = xp.zeros_like(like)
        return {"first": zero, "second": zero, "share": zero[..., :1] - 1, "count": zero[..., :1]}

    def joined(self, first: Any, second: Any, about: Update, state: Kept) -> tuple[Any, Kept]:
        xp, losses = array_namespace(first), _floored(about.losses)
        count = state["count"] + 1
        recent = xp.where(count > 1, self.recent / count**0.5, xp.ones_like(count))
        one, two = (
            state[name] + recent * (_over(g, _length(g)) * losses[..., k : k + 1] - state[name])
            for k, (name, g) in enumerate((("first", first), ("second", second)))
        )
        weights = about.weights
        given = weights[..., :1] / xp.sum(weights, axis=-1, keepdims=True)
        share = xp.where(count > 1, state["share"], given)
        d = share * one + (1 - share) * two
        slope = xp.sum((one - two) * d, axis=-1, keepdims=True)
        # The projection of both moved weights on shares.
        moved = xp.clip(share - 0.5 * self.rate / count**0.5 * slope, 0.0, 1.0)
        return d, {"first": one, "second": two, "share": moved, "count": count}


@dataclass(frozen=True, kw_only=True)
class ExcessMtl(TrackingRule):
    """More weight for the objective that seems further from its optimum.

    The excess of a loss is estimated by its squared gradients over the roots of their sums so far,
    as a share of the first estimate. Factors grow by ``exp(rate * excess)`` and sum to one.

    Attributes
    ----------
    rate
        Of growth; not negative, 0 is the weighted sum.

    Notes
    -----
    Card G24. Twice these factors multiply the weights of the schedule. Costs two gradients.
    """

    name: ClassVar[str] = "excess_mtl"
    title: ClassVar[str] = "ExcessMTL"
    source: ClassVar[str] = "He et al., ICML 2024"
    uses_losses: ClassVar[bool] = False
    rate: NotNegative = 0.01

    def remembered(self, like: Any) -> Kept:
        zero = array_namespace(like).zeros_like(like)
        return {"first": zero, "second": zero, "base": zero[..., :2] - 1, "log odds": zero[..., :1]}

    def joined(self, first: Any, second: Any, about: Update, state: Kept) -> tuple[Any, Kept]:
        xp = array_namespace(first)
        squares = {"first": state["first"] + first**2, "second": state["second"] + second**2}
        found = [
            xp.sum(g**2 / (squares[name] + 1e-7) ** 0.5, axis=-1, keepdims=True)
            for name, g in (("first", first), ("second", second))
        ]
        excess = xp.concat(found, axis=-1)
        base = xp.where(state["base"] < 0, excess, state["base"])
        excess = _over(excess, base)
        odds = state["log odds"]
        share = 1 / (1 + xp.exp(-odds))
        moved = odds + self.rate * (excess[..., :1] - excess[..., 1:])
        direction = 2 * (share * first + (1 - share) * second)
        # Bounded, so that a share can come back from both ends.
        return direction, {**squares, "base": base, "log odds": xp.clip(moved, -STEEP, STEEP)}


def _length(vector: Any) -> Any:
    return array_namespace(vector).sum(vector**2, axis=-1, keepdims=True) ** 0.5


def _over(above: Any, below: Any) -> Any:
    """``above / below``, and zero where ``below`` is not positive."""
    xp = array_namespace(above)
    positive = below > 0
    return xp.where(positive, above, 0 * above) / xp.where(positive, below, 0 * below + 1)


def _floored(losses: Any) -> Any:
    xp = array_namespace(losses)
    return xp.clip(losses, min=LEAST)
