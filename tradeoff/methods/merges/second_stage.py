"""Merges that keep a part of what the second stage changed, or that look at gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from array_api_compat import array_namespace

from tradeoff.methods.hooks import Array, Moment, State, largest
from tradeoff.methods.merges.base import Merge, generator
from tradeoff.methods.merges.lines import Soup
from tradeoff.settings import Positive, Seed, Share


@dataclass(frozen=True, kw_only=True)
class Graft(Merge):
    """The end of SFT, with the largest changes of the preference branch alone.

    Attributes
    ----------
    lam, branches
        As of every merge; the second stage starts where SFT ended.
    keep
        Share of the weights of each tensor that keep their change; None: lam.

    Notes
    -----
    Card S54. The published graft learns which weights these are, from the largest ones on. Costs
    nothing more.
    """

    name: ClassVar[str] = "graft"
    title: ClassVar[str] = "graft"
    source: ClassVar[str] = "arXiv 2302.06600"
    branches: Literal["parallel", "sequential"] = "sequential"
    keep: Share | None = None

    def merged(self, base: Array, sft: Array, preference: Array, moment: Moment) -> Array:
        xp, change = array_namespace(sft), preference - sft
        share = self.lam if self.keep is None else self.keep
        kept = largest(xp.abs(change), share) if share else change != change
        return xp.where(kept, preference, sft)


@dataclass(frozen=True, kw_only=True)
class HalfReset(Merge):
    """The end of both stages, with a random part of it set back to the end of SFT.

    Attributes
    ----------
    lam, branches
        As of every merge; the second stage starts where SFT ended.
    share
        Of the weights that are set back; None: 1 - lam.
    seed
        Of the choice, which is the same in all runs.

    Notes
    -----
    Card C23, after a second-hand description, by single weights in place of tensors. Costs nothing
    more.
    """

    name: ClassVar[str] = "half_reset"
    title: ClassVar[str] = "half reset"
    source: ClassVar[str] = "arXiv 2404.18466"
    branches: Literal["parallel", "sequential"] = "sequential"
    share: Share | None = None
    seed: Seed = 0

    def merged(self, base: Array, sft: Array, preference: Array, moment: Moment) -> Array:
        xp, size = array_namespace(sft), sft.shape[-1]
        share = 1 - self.lam if self.share is None else self.share
        reset = np.zeros(size, dtype=bool)
        reset[generator(self.seed, moment).permutation(size)[: round(share * size)]] = True
        mask = xp.asarray(reset, device=getattr(sft, "device", None))
        return xp.where(mask, sft, preference)


@dataclass(frozen=True, kw_only=True)
class FisherMerge(Soup):
    """A mean of both ends that weighs each weight by the squared gradients of its branch.

    Attributes
    ----------
    lam, branches
        As of every merge; the weights 1 - lam and lam multiply the squares.
    damping
        Added to the mean squared gradient of each weight; positive.

    Notes
    -----
    Card C18. The published squares are those of passes after training; here they are of the updates
    of each branch, which cost nothing more. Large damping gives the soup.
    """

    name: ClassVar[str] = "fisher_merge"
    title: ClassVar[str] = "Fisher merge"
    source: ClassVar[str] = "arXiv 2111.09832"
    damping: Positive = 1e-6

    def start(self, weights: Array) -> State:
        zero = array_namespace(weights).zeros_like(weights)
        return {**super().start(weights), "sft squares": zero, "preference squares": zero}

    def direct(
        self, gradient: Array, weights: Array, state: State, moment: Moment
    ) -> tuple[Array, State]:
        name = f"{self.branch(moment)} squares"
        mean = state[name] + (gradient**2 - state[name]) / moment.clock
        return gradient, {**state, name: mean}

    def output(self, weights: Array, state: State, moment: Moment) -> Array:
        ends = {**state, self.branch(moment): weights}
        sft = (1 - self.lam) * (state["sft squares"] + self.damping)
        preference = self.lam * (state["preference squares"] + self.damping)
        return (sft * ends["sft"] + preference * ends["preference"]) / (sft + preference)
