"""Merges along lines: weighted means of ends, and sums of what the branches changed."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import Annotated, ClassVar, Literal

from array_api_compat import array_namespace

from tradeoff.methods.hooks import Array, Moment, depths
from tradeoff.methods.merges.base import Merge
from tradeoff.settings import Share, Within

Factor = Annotated[float, Within(-10, 10)]


@dataclass(frozen=True, kw_only=True)
class Soup(Merge):
    """``(1 - lam) * sft + lam * preference``: the weighted mean of both ends.

    Notes
    -----
    Card S58, with two ingredients. The segment between the optima is the front of two quadratics
    if their Hessians are proportional.
    """

    name: ClassVar[str] = "soup"
    title: ClassVar[str] = "soup"
    source: ClassVar[str] = "arXiv 2203.05482, Table 1"

    def merged(self, base: Array, sft: Array, preference: Array, moment: Moment) -> Array:
        return (1 - self.lam) * sft + self.lam * preference


@dataclass(frozen=True, kw_only=True)
class WiseFt(Soup):
    """As :class:`Soup`, of a second stage that starts where the first one ended.

    Notes
    -----
    Card C14.
    """

    name: ClassVar[str] = "wise_ft"
    title: ClassVar[str] = "WiSE-FT"
    source: ClassVar[str] = "arXiv 2109.01903, equation (1)"
    branches: Literal["parallel", "sequential"] = "sequential"


@dataclass(frozen=True, kw_only=True)
class TaskArithmetic(Merge):
    """``base + scale * (2 (1 - lam) * change of SFT + 2 lam * change of preferences)``.

    Attributes
    ----------
    lam, branches
        As of every merge.
    scale
        Factor of both changes; 1/2 makes it the soup.

    Notes
    -----
    Card C15, with weights by lam.
    """

    name: ClassVar[str] = "task_arithmetic"
    title: ClassVar[str] = "task arithmetic"
    source: ClassVar[str] = "arXiv 2212.04089, section 2"
    scale: Factor = 1.0

    def merged(self, base: Array, sft: Array, preference: Array, moment: Moment) -> Array:
        both = (1 - self.lam) * (sft - base) + self.lam * (preference - base)
        return base + 2 * self.scale * both


@dataclass(frozen=True, kw_only=True)
class Lines(Merge):
    """As :class:`Soup`, with changes of early layers scaled down.

    The change of the mean from the first weights is multiplied by ``first + (1 - first) * depth``,
    where the depth of a layer goes from 0 to 1. What is in no layer counts as the first layer.

    Attributes
    ----------
    lam, branches
        As of every merge.
    first
        Factor at the first layer, in [0, 1]; 1 makes it the soup.

    Notes
    -----
    Card S49.
    """

    name: ClassVar[str] = "lines"
    title: ClassVar[str] = "LiNeS"
    source: ClassVar[str] = "arXiv 2410.17146, equation (2)"
    first: Share = 0.5

    def unsupported(self, scale: str) -> str | None:
        return "there all parameters are one tensor, without layers" if scale == "convex" else None

    def merged(self, base: Array, sft: Array, preference: Array, moment: Moment) -> Array:
        mean = (1 - self.lam) * sft + self.lam * preference
        return base + (self.first + (1 - self.first) * moment.depth) * (mean - base)


@dataclass(frozen=True, kw_only=True)
class BlockMeans(Soup):
    """As :class:`Soup`, of a second stage, with more of it in late layers or in early ones (HMA).

    The weight of the second stage is lam times ``sigmoid(tilt * (2 * depth - 1))``, divided by the
    mean of this factor over all tensors, and at most 1.

    Attributes
    ----------
    lam, branches
        As of every merge.
    tilt
        Positive: more of the second stage in late layers. Zero: WiSE-FT.

    Notes
    -----
    Card C22. The published ratios of blocks are optimised on held-out rows; a tilt by depth is
    ours. Costs nothing more.
    """

    name: ClassVar[str] = "block_means"
    title: ClassVar[str] = "HMA"
    source: ClassVar[str] = "arXiv 2309.06256"
    branches: Literal["parallel", "sequential"] = "sequential"
    tilt: Factor = 2.0

    def unsupported(self, scale: str) -> str | None:
        return "there all parameters are one tensor, without layers" if scale == "convex" else None

    def weight(self, moment: Moment) -> float:
        """Weight of the second stage in a tensor."""
        every = [1 / (1 + exp(-self.tilt * (2 * d - 1))) for d in depths(moment.blocks)]
        return min(1.0, self.lam * every[moment.block] * len(every) / sum(every))

    def merged(self, base: Array, sft: Array, preference: Array, moment: Moment) -> Array:
        weight = self.weight(moment)
        return (1 - weight) * sft + weight * preference


@dataclass(frozen=True, kw_only=True)
class Slerp(Merge):
    """Both ends interpolated along an arc, tensor by tensor, so that the length hardly shrinks.

    With the angle a between the weights of a tensor at both ends, the factors are ``sin((1 - lam)
    a) / sin(a)`` and ``sin(lam a) / sin(a)``.

    Notes
    -----
    Card J39. Ends that are almost parallel are interpolated linearly.
    """

    name: ClassVar[str] = "slerp"
    title: ClassVar[str] = "SLERP"
    source: ClassVar[str] = "Shoemake, SIGGRAPH 1985"

    def merged(self, base: Array, sft: Array, preference: Array, moment: Moment) -> Array:
        xp = array_namespace(sft)
        lengths = [xp.sum(end**2, axis=-1, keepdims=True) ** 0.5 for end in (sft, preference)]
        product = lengths[0] * lengths[1]
        positive = product > 0
        cosine = xp.sum(sft * preference, axis=-1, keepdims=True)
        cosine = xp.where(positive, cosine / xp.where(positive, product, product + 1), product + 1)
        angle = xp.acos(xp.clip(cosine, -1.0, 1.0))
        sine = xp.sin(angle)
        bent = sine > 1e-6
        sine = xp.where(bent, sine, xp.ones_like(sine))
        first = xp.where(bent, xp.sin((1 - self.lam) * angle) / sine, 1 - self.lam + 0 * sine)
        second = xp.where(bent, xp.sin(self.lam * angle) / sine, self.lam + 0 * sine)
        return first * sft + second * preference
