"""Rules that see the gradients themselves; some join them coordinate by coordinate."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from array_api_compat import array_namespace

from tradeoff.errors import InputError
from tradeoff.methods.gradients.base import (
    Array,
    GradientRule,
    Seen,
    State,
    WithoutLosses,
    check_pair,
)
from tradeoff.settings import Share


@dataclass(frozen=True, kw_only=True)
class VectorRule(GradientRule):
    """A rule that needs the gradients themselves, not only their inner products.

    Attributes
    ----------
    by_tensor
        Whether it can join tensor by tensor, as the trainer does; a class attribute.
    """

    coordinatewise: ClassVar[bool] = True
    by_tensor: ClassVar[bool] = False

    def unsupported(self, scale: str) -> str | None:
        """Reason why it cannot run at a scale: the trainer has gradients tensor by tensor."""
        if scale == "llm" and not self.by_tensor:
            return "the trainer joins tensor by tensor, and keeps no copies of gradients"
        return super().unsupported(scale)

    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        """The weights of the schedule: what inner products alone tell of the direction."""
        return seen.weights, state

    def remembered(self, like: Any) -> dict[str, Any]:
        """What the rule remembers before the first update whose gradients are like these (..., d).

        Nothing by default.
        """
        return {}

    @abstractmethod
    def joined(
        self, first: Any, second: Any, about: Update, state: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """The direction (..., d) of an update, and what is remembered.

        Parameters
        ----------
        first, second
            (..., d) gradients of (SFT, preference) times the weights of the schedule: zeros where
            a weight is zero; numpy arrays or torch tensors.
        about
            What else is known of the update.
        state
            What :meth:`remembered` or the update before gave; it is not changed.
        """


@dataclass(frozen=True, eq=False)
class Update:
    """What a rule that sees gradients knows beside them, as arrays of the same kind.

    Attributes
    ----------
    uniform
        (..., d) draws from [0, 1).
    weights, losses
        (..., 2) as in :class:`~tradeoff.methods.gradients.base.Seen`.
    """

    uniform: Any
    weights: Any
    losses: Any


class _UpdateWithoutLosses(WithoutLosses, Update):
    """What a rule that sees gradients knows beside them if it does not use the losses."""


def direction_of(
    rule: VectorRule, first: Any, second: Any, about: Update, state: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The direction of an update by a rule, and what it remembers, as `VectorRule.joined` has them.

    Raises
    ------
    InputError
        If the rule does not return a pair of these, of the shape of the gradients, or reads losses
        that it does not say it uses.
    """
    about = about if rule.uses_losses else _UpdateWithoutLosses(**vars(about))
    found: Any = rule.joined(first, second, about, state)
    check_pair(rule, found, "a direction", "joined(first, second, about, state)")
    shape = tuple(np.shape(found[0]))
    same_kind = isinstance(found[0], type(first))
    if shape != tuple(first.shape) or not same_kind:
        raise InputError(
            f"the rule {rule.name} must return a direction of the shape of the gradients, "
            f"{tuple(first.shape)}",
            field="gradient",
            value=shape if same_kind else type(found[0]).__name__,
            remedy="Keep the axes, and return an array of the kind of first and second.",
        )
    return found


@dataclass(frozen=True, kw_only=True)
class CoordinateRule(VectorRule):
    """A rule that joins both gradients at each coordinate by itself, with a draw for each.

    So it runs tensor by tensor too, in the trainer.
    """

    by_tensor: ClassVar[bool] = True

    def joined(
        self, first: Any, second: Any, about: Update, state: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        return self.direction(first, second, about.uniform), state

    @abstractmethod
    def direction(self, first: Any, second: Any, uniform: Any) -> Any:
        """The direction (..., d) of an update.

        Parameters
        ----------
        first, second, uniform
            As for :meth:`VectorRule.joined`, of each coordinate.
        """


@dataclass(frozen=True, kw_only=True)
class GradDrop(CoordinateRule):
    """At each coordinate keeps the positive parts or the negative ones, by a biased coin.

    The chance of the positive parts is ``(1 + sum / sum of sizes) / 2``. So the mean over draws
    is the weighted sum.

    Attributes
    ----------
    leak
        Share of the other parts that is kept, too, in [0, 1]; 1 is the weighted sum.

    Notes
    -----
    Card G15, after a second-hand description. The published rule has the weights 1 and 1.
    """

    name: ClassVar[str] = "graddrop"
    title: ClassVar[str] = "GradDrop"
    source: ClassVar[str] = "arXiv 2010.06808, Algorithm 1"
    leak: Share = 0.0

    def direction(self, first: Any, second: Any, uniform: Any) -> Any:
        xp = array_namespace(first)
        total, size = first + second, xp.abs(first) + xp.abs(second)
        chance = 0.5 * (1 + total / xp.where(size > 0, size, xp.ones_like(size)))
        # Sum of the parts with the sign that the coin gives: |g| and sum tell both.
        kept = xp.where(uniform < chance, 0.5 * (total + size), 0.5 * (total - size))
        return self.leak * total + (1 - self.leak) * kept
