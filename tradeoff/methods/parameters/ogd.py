"""Orthogonal gradient descent: updates that leave remembered predictions as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from array_api_compat import array_namespace

from tradeoff.methods.hooks import Array, Moment, State
from tradeoff.methods.parameters.base import Parameters
from tradeoff.settings import Within

LEAST = 1e-10
"""A gradient adds no direction if projections leave less than this share of its length."""


@dataclass(frozen=True, kw_only=True)
class Ogd(Parameters):
    """After the first stage, gradients lose their part along remembered gradients of SFT rows.

    Attributes
    ----------
    count
        Rows that are remembered as a stage begins; their passes are part of what the method costs.

    Notes
    -----
    Card C09, after a second-hand description, with gradients of the loss of each row. Projections
    are by tensor. An optimiser with moments, such as Adam, does not step along the gradient, so
    that its updates are not orthogonal.
    """

    name: ClassVar[str] = "ogd"
    title: ClassVar[str] = "OGD"
    source: ClassVar[str] = "arXiv 1910.07104, Algorithm 1"
    staged: ClassVar[bool] = True
    count: Annotated[int, Within(1, 4096)] = 16

    def start(self, weights: Array) -> State:
        xp = array_namespace(weights)
        shape = (*weights.shape[:-1], self.count, weights.shape[-1])
        device = getattr(weights, "device", None)
        basis = xp.zeros(shape, dtype=weights.dtype, device=device)
        return {"basis": basis}

    def rows(self, moment: Moment) -> tuple[int, int]:
        return 0, self.count if moment.begins and moment.stage else 0

    def observe(self, gradient: Array, state: State, moment: Moment) -> State:
        xp = array_namespace(gradient)
        rest = across(gradient, state["basis"])
        rest = across(rest, state["basis"])  # twice: rounding of the first leaves a part
        before, length = (xp.sum(x * x, axis=-1) ** 0.5 for x in (gradient, rest))
        adds = length > LEAST * before
        unit = rest / xp.where(adds, length, xp.ones_like(length))[..., None]
        unit = xp.where(adds[..., None], unit, xp.zeros_like(unit))
        basis = xp.concat([unit[..., None, :], state["basis"][..., :-1, :]], axis=-2)
        return {**state, "basis": basis}

    def direct(
        self, gradient: Array, weights: Array, state: State, moment: Moment
    ) -> tuple[Array, State]:
        return across(gradient, state["basis"]), state


def across(vector: Array, basis: Array) -> Array:
    """Vectors (..., d) without their part in the span of orthonormal or zero rows (..., k, d)."""
    xp = array_namespace(vector)
    along = xp.sum(basis * vector[..., None, :], axis=-1)
    return vector - xp.sum(along[..., None] * basis, axis=-2)
