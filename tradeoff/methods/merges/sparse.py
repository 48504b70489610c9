"""Merges of thinned changes: most entries of a change are dropped before both are added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from array_api_compat import array_namespace

from tradeoff.methods.hooks import Array, Moment, largest
from tradeoff.methods.merges.base import Merge, generator
from tradeoff.settings import BelowOne, Seed, Share, Within

Factor = Annotated[float, Within(-10, 10)]


@dataclass(frozen=True, kw_only=True)
class Ties(Merge):
    """Keeps the largest entries of each change, elects a sign, and averages what agrees with it.

    Attributes
    ----------
    lam, branches
        As of every merge; the changes have the weights 1 - lam and lam in election and mean.
    keep
        Share of the entries of each tensor that is kept, in [0, 1].
    scale
        Factor of the merged change.

    Notes
    -----
    Card C16. The published merge is that of lam = 1/2.
    """

    name: ClassVar[str] = "ties"
    title: ClassVar[str] = "TIES"
    source: ClassVar[str] = "arXiv 2306.01708, Algorithm 1"
    keep: Share = 0.2
    scale: Factor = 1.0

    def merged(self, base: Array, sft: Array, preference: Array, moment: Moment) -> Array:
        xp = array_namespace(base)
        zero = xp.zeros_like(base)
        total, mass = zero, zero
        kept = []
        for weight, end in ((1 - self.lam, sft), (self.lam, preference)):
            change = end - base
            change = xp.where(largest(xp.abs(change), self.keep), change, zero)
            kept.append((weight, change))
        sign = xp.sign(sum(weight * change for weight, change in kept))
        for weight, change in kept:
            agrees = (xp.sign(change) == sign) & (change != 0)
            total = total + xp.where(agrees, weight * change, zero)
            mass = mass + xp.where(agrees, weight + zero, zero)
        return base + self.scale * total / xp.where(mass > 0, mass, xp.ones_like(mass))


@dataclass(frozen=True, kw_only=True)
class Dare(Merge):
    """As the soup, after entries of each change were dropped at random and the rest scaled up.

    Attributes
    ----------
    lam, branches
        As of every merge.
    drop
        Probability that an entry is dropped, in [0, 1); the others are divided by 1 - drop.
    seed
        Of the choice, which is the same in all runs.

    Notes
    -----
    Card C17. The mean over seeds is the soup.
    """

    name: ClassVar[str] = "dare"
    title: ClassVar[str] = "DARE"
    source: ClassVar[str] = "arXiv 2311.03099, equation (1)"
    drop: BelowOne = 0.9
    seed: Seed = 0

    def merged(self, base: Array, sft: Array, preference: Array, moment: Moment) -> Array:
        xp = array_namespace(base)
        rng = generator(self.seed, moment)
        found = base
        for weight, end in ((1 - self.lam, sft), (self.lam, preference)):
            kept = rng.random(base.shape[-1]) >= self.drop
            mask = xp.asarray(kept, device=getattr(base, "device", None))
            change = xp.where(mask, end - base, xp.zeros_like(base))
            found = found + weight * change / (1 - self.drop)
        return found
