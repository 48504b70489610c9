"""The base of gradient rules: how two gradients become one direction.

With two objectives a rule that combines gradients linearly needs three numbers of them, the inner
products. So one rule serves all scales, and the engines hand a gradient to those rules alone that
work coordinate by coordinate.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from tradeoff.errors import InputError
from tradeoff.parts import Part

Array = Any
"""A numpy array with the runs as leading axes; of a single run that may be a number."""
State = dict[str, Array]
"""What a rule remembers of each run; every array has the runs as leading axes."""
OPPOSITE = 1e-12
"""Gradients whose cosine is no further above -1 count as opposite."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What a rule sees of an update that follows both objectives.

    Attributes
    ----------
    gram
        (..., 2, 2) inner products of the gradients of (SFT, preference), not weighted.
    weights
        (..., 2) weights that the schedule gives both gradients, such as (1 - lam, lam).
    losses
        (..., 2) losses of the minibatches, above the optima where these are known; as they are
        for a rule that says so.
    coins
        (..., 2) draws from [0, 1) of this update, for rules that draw; None where there are none.
    """

    gram: Float[np.ndarray, "*runs 2 2"]
    weights: Float[np.ndarray, "*runs 2"]
    losses: Float[np.ndarray, "*runs 2"]
    coins: Float[np.ndarray, "*runs 2"] | None = None

    @property
    def squares(self) -> tuple[Array, Array, Array]:
        """Squared length of both gradients, and their inner product."""
        return self.gram[..., 0, 0], self.gram[..., 1, 1], self.gram[..., 0, 1]

    @property
    def lengths(self) -> tuple[Array, Array]:
        """Length of both gradients."""
        first, second, _ = self.squares
        return np.sqrt(first), np.sqrt(second)

    @property
    def cosine(self) -> Array:
        """Cosine of the angle between both gradients; 0 where one of them is zero."""
        first, second, product = self.squares
        return np.clip(ratio(product, np.sqrt(first * second)), -1.0, 1.0)


class WithoutLosses:
    """What a rule sees that does not say that it uses the losses: to read them is an error.

    The convex scale computes no losses that nobody uses, so a rule would see zeros there.
    """

    def __getattribute__(self, name: str) -> Any:
        if name == "losses":
            raise InputError(
                "a gradient rule reads the losses, but does not say that it uses them",
                field="uses_losses",
                value=False,
                remedy="Write uses_losses = True in the class of the rule.",
            )
        return super().__getattribute__(name)


class _SeenWithoutLosses(WithoutLosses, Seen):
    """What a rule of inner products sees that does not say that it uses the losses."""


@dataclass(frozen=True, kw_only=True)
class GradientRule(Part):
    """Turns two gradients into factors of them.

    Attributes
    ----------
    weighted
        Whether the weights of the schedule decide where a run ends, a class attribute. Other
        rules stop at a point of the front that depends on the start.
    uses_losses
        Whether the rule looks at the losses, a class attribute; others cannot read them.
    above_optima
        Whether these are above the optima, where they are known, or as they are; a class attribute.
    coordinatewise
        Whether the rule needs the gradients themselves, a class attribute; see
        :class:`~tradeoff.methods.gradients.coordinates.VectorRule`.
    draws
        Whether the rule needs the coins of :class:`Seen`, a class attribute.
    """

    kind: ClassVar[str] = "gradient"
    weighted: ClassVar[bool] = True
    uses_losses: ClassVar[bool] = False
    above_optima: ClassVar[bool] = True
    coordinatewise: ClassVar[bool] = False
    draws: ClassVar[bool] = False

    @property
    def total(self) -> float | None:
        """What the factors of an update sum to, where the rule promises it; else None.

        The weights of the schedule are taken to sum to one, as those of Mix do.
        """
        return None

    def start(self, runs: tuple[int, ...]) -> State:
        """What the rule remembers before the first update; empty by default.

        Parameters
        ----------
        runs
            Leading axes of all arrays.
        """
        return {}

    @abstractmethod
    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        """Factors (..., 2) of both gradients in this update, and what is remembered.

        Parameters
        ----------
        seen
            Gradients and losses of this update.
        state
            What :meth:`start` or the update before gave; it is not changed.
        """


@dataclass(frozen=True, kw_only=True)
class WeightedSum(GradientRule):
    """The weights of the schedule as they are: the identity of the slot."""

    name: ClassVar[str] = "sum"
    title: ClassVar[str] = "weighted sum"

    @property
    def total(self) -> float:
        return 1.0

    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        return seen.weights, state


def factors_of(rule: GradientRule, seen: Seen, state: State) -> tuple[Array, State]:
    """Factors of both gradients by a rule, and what it remembers.

    Raises
    ------
    InputError
        If the rule does not return a pair of these, with one factor for each gradient, or reads
        losses that it does not say it uses.
    """
    seen = seen if rule.uses_losses else _SeenWithoutLosses(**vars(seen))
    found: Any = rule.factors(seen, state)
    shape = np.shape(seen.weights)
    check_pair(rule, found, "factors", "factors(seen, state)")
    if np.shape(found[0]) not in (shape, shape[-1:]):
        raise InputError(
            f"the rule {rule.name} must return one factor for each gradient, shape {shape}",
            field="gradient",
            value=np.shape(found[0]),
            remedy="Keep the axes of seen.weights.",
        )
    before, after = ({k: np.shape(v) for k, v in each.items()} for each in (state, found[1]))
    if before != after:
        raise InputError(
            f"the rule {rule.name} remembers {before or 'nothing'} from its start or the update "
            "before, and returns another state, which no checkpoint could restore",
            field="gradient",
            value=after,
            remedy="Give all that it remembers a first value of the same shape in start(runs).",
        )
    return found


def check_pair(rule: GradientRule, found: Any, what: str, call: str) -> None:
    """Refuse what a rule returned, unless it is a pair with the state of the rule.

    Parameters
    ----------
    what
        Word for the first of the pair.
    call
        The method that returned it, with its arguments.
    """
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], dict)):
        raise InputError(
            f"the rule {rule.name} must return {what} and its state, a dict of arrays",
            field="gradient",
            value=found,
            remedy=f"Return {what.split()[-1]}, state from {call}.",
        )


def ratio(above: Array, below: Array, otherwise: float | Array = 0.0) -> Array:
    """``above / below``, and another value where ``below`` is not positive."""
    above, below = np.broadcast_arrays(above, below)
    filled = np.broadcast_to(np.asarray(otherwise, dtype=float), above.shape).copy()
    return np.divide(above, below, out=filled, where=below > 0)
