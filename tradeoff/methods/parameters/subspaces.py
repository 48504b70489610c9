"""Updates within a subspace, or across the directions that matter to the first objective."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar

import numpy as np
from array_api_compat import array_namespace

from tradeoff.methods.hooks import Array, Moment, State
from tradeoff.methods.parameters.base import Mask, Parameters
from tradeoff.methods.parameters.ogd import across
from tradeoff.settings import Seed, Within

Rank = Annotated[int, Within(1, 4096)]


@dataclass(frozen=True, kw_only=True)
class Subspace(Parameters):
    """After the first stage, gradients keep their part in a random subspace alone.

    Attributes
    ----------
    rank
        Dimensions of the subspace of each tensor; all of them if it has no more.
    seed
        Of the subspace, which is the same in all runs.

    Notes
    -----
    Card C11: what an adapter of low rank comes to where a tensor is a vector. Costs nothing more.
    """

    name: ClassVar[str] = "subspace"
    title: ClassVar[str] = "random subspace"
    source: ClassVar[str] = "arXiv 2106.09685"
    staged: ClassVar[bool] = True
    rank: Rank = 8
    seed: Seed = 0

    def block(self, moment: Moment) -> int | None:
        """Which part of a basis spans the subspace of a stage; None: everything."""
        return 0 if moment.stage else None

    def direct(
        self, gradient: Array, weights: Array, state: State, moment: Moment
    ) -> tuple[Array, State]:
        block = self.block(moment)
        if block is None:
            return gradient, state
        xp = array_namespace(gradient)
        rows = _basis(gradient.shape[-1], self.seed, moment.block)
        part = rows[block * self.rank : (block + 1) * self.rank].copy()
        basis = xp.asarray(part, dtype=gradient.dtype, device=getattr(gradient, "device", None))
        along = xp.sum(gradient[..., None, :] * basis, axis=-1)
        return xp.sum(along[..., None] * basis, axis=-2), state

    def unsupported(self, scale: str) -> str | None:
        if scale == "llm":
            return "a basis is too large there; the trainer's own LoRA keeps to a low rank"
        return super().unsupported(scale)


@dataclass(frozen=True, kw_only=True)
class OrthogonalSubspaces(Subspace):
    """Each stage has a random subspace of its own, orthogonal to those of the stages before.

    Attributes
    ----------
    rank, seed
        As for :class:`Subspace`. A stage for which no dimensions are left does not move.

    Notes
    -----
    Card C12, with exact orthogonality in place of a penalty. Costs nothing more.
    """

    name: ClassVar[str] = "o_lora"
    title: ClassVar[str] = "O-LoRA"
    source: ClassVar[str] = "arXiv 2310.14152"

    def block(self, moment: Moment) -> int | None:
        return moment.stage


@dataclass(frozen=True, kw_only=True)
class PreservedDirections(Parameters):
    """After the first stage, gradients lose their part along the main directions of SFT gradients.

    Attributes
    ----------
    rank
        Number of directions that are preserved: those of the largest eigenvalues of the mean outer
        product of gradients of single rows.
    count
        Rows for that mean; their passes are part of what the method costs.

    Notes
    -----
    Card S52, a transfer of CorDA, which starts an adapter in the directions of least variance of
    the inputs of a layer. On log-linear policies the gradients of rows are such inputs, centred.
    """

    name: ClassVar[str] = "corda"
    title: ClassVar[str] = "CorDA"
    source: ClassVar[str] = "arXiv 2406.05223"
    staged: ClassVar[bool] = True
    rank: Rank = 4
    count: Annotated[int, Within(1, 4096)] = 64

    def start(self, weights: Array) -> State:
        xp, size = array_namespace(weights), weights.shape[-1]
        outer = 0 * weights[..., None, :] * weights[..., :, None]
        return {"outer": outer, "basis": xp.zeros_like(outer[..., : min(self.rank, size), :])}

    def rows(self, moment: Moment) -> tuple[int, int]:
        return 0, self.count if moment.begins and moment.stage else 0

    def observe(self, gradient: Array, state: State, moment: Moment) -> State:
        outer = state["outer"] + gradient[..., None, :] * gradient[..., :, None]
        return {**state, "outer": outer}

    def conclude(self, state: State, moment: Moment) -> State:
        xp = array_namespace(state["outer"])
        vectors = xp.linalg.eigh(state["outer"])[1]
        rank = state["basis"].shape[-2]
        basis = xp.matrix_transpose(vectors[..., :, -rank:])
        return {"outer": 0 * state["outer"], "basis": basis}

    def direct(
        self, gradient: Array, weights: Array, state: State, moment: Moment
    ) -> tuple[Array, State]:
        return across(gradient, state["basis"]), state

    def unsupported(self, scale: str) -> str | None:
        if scale != "convex":
            return "the outer products of gradients of whole tensors are too large there"
        return super().unsupported(scale)


@dataclass(frozen=True, kw_only=True)
class Frozen(Mask):
    """Nothing moves: the placebo that every method has to beat.

    Notes
    -----
    Card X09, ours.
    """

    name: ClassVar[str] = "frozen"
    title: ClassVar[str] = "no training"
    source: ClassVar[str] = "ours"

    def free(self, weights: Array, state: State, moment: Moment) -> Array:
        return weights != weights


@lru_cache(maxsize=64)
def _basis(size: int, seed: int, block: int) -> np.ndarray:
    """(size, size) orthonormal rows; the first ones of larger tensors alone."""
    count = min(size, 128)
    rng = np.random.default_rng((seed, block))
    rows = np.linalg.qr(rng.normal(size=(size, count)))[0].T
    rows.setflags(write=False)
    return np.asarray(rows)
