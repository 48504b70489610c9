"""The base of parts that decide which weights move."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from array_api_compat import array_namespace

from tradeoff.methods.hooks import Array, Hook, Moment, State, copied


@dataclass(frozen=True, kw_only=True)
class Parameters(Hook):
    """Decides which weights move, or which directions a gradient may take.

    Attributes
    ----------
    adds
        Whether it trains tensors of its own beside a network, a class attribute; see
        :class:`tradeoff.methods.parameters.added.Added`.
    by_token
        Whether it acts within responses of several tokens, a class attribute.
    """

    kind: ClassVar[str] = "parameters"
    adds: ClassVar[bool] = False
    by_token: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class EveryParameter(Parameters):
    """All weights move: the identity of the slot."""

    name: ClassVar[str] = "all"
    title: ClassVar[str] = "all parameters"


@dataclass(frozen=True, kw_only=True)
class Mask(Parameters):
    """Some weights move and the others keep their values, bit for bit.

    The mask is made anew at the start of each stage. The gradients of weights that stay are zero,
    so that they do not count where gradients are clipped.
    """

    def start(self, weights: Array) -> State:
        return {"free": weights == weights, "kept": copied(weights)}

    def begin(self, weights: Array, state: State, moment: Moment) -> tuple[Array, State]:
        if not moment.begins:
            return weights, state
        free = self.free(weights, state, moment)
        return weights, {**state, "free": free, "kept": copied(weights)}

    def direct(
        self, gradient: Array, weights: Array, state: State, moment: Moment
    ) -> tuple[Array, State]:
        zero = array_namespace(gradient).zeros_like(gradient)
        return array_namespace(gradient).where(state["free"], gradient, zero), state

    def finish(self, weights: Array, state: State, moment: Moment) -> tuple[Array, State]:
        return array_namespace(weights).where(state["free"], weights, state["kept"]), state

    @abstractmethod
    def free(self, weights: Array, state: State, moment: Moment) -> Array:
        """Which weights (..., d) move in the stage that begins."""
