"""Rules that steer both losses to a ray or a sector that the weights ask for.

The ray is where ``(1 - lam) * SFT loss = lam * preference loss``, of losses above their optima:
the target of MAXRIGHT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from tradeoff.methods.gradients.base import Array, Seen, State, ratio
from tradeoff.methods.gradients.min_norm import shortest
from tradeoff.methods.gradients.values import LEAST, Running
from tradeoff.settings import NotNegative, Positive, Within


@dataclass(frozen=True, kw_only=True)
class Epo(Running):
    """Exact Pareto search: balances the weighted losses, then lowers both.

    Attributes
    ----------
    tolerance
        Divergence of the shares of the weighted losses from equal ones, in nats, below which they
        count as balanced; not negative.
    recent
        Weight of the newest loss in the running means, in (0, 1].

    Notes
    -----
    Card G27. The linear program over the shares of both gradients is one over an interval. Where
    its constraints exclude each other, the middle is taken. Costs two gradients.
    """

    name: ClassVar[str] = "epo"
    title: ClassVar[str] = "EPO"
    source: ClassVar[str] = "Mahapatra and Rajan, ICML 2020"
    tolerance: NotNegative = 1e-4

    @property
    def total(self) -> float:
        return 1.0

    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        mean = self.mean(seen, state)
        sizes = seen.weights * np.maximum(mean, LEAST)
        shares = np.maximum(sizes / sizes.sum(axis=-1, keepdims=True), 1e-300)
        logs = np.log(2 * shares)
        uneven = (shares * logs).sum(axis=-1, keepdims=True)
        pull = seen.weights * (logs - uneven)
        along = np.einsum("...ij,...j->...i", seen.gram, pull)
        balance = uneven[..., 0] > self.tolerance
        # Constraints gram @ w >= least, row by row, of w = (first, 1 - first).
        largest = sizes >= sizes.max(axis=-1, keepdims=True)
        least = np.where(along > 0, np.where(largest, 0.0, -np.inf), along)
        least = np.where(balance[..., None], least, 0.0)
        low, high = _interval(seen.gram, least)
        total = seen.gram.sum(axis=-2)
        slope = np.where(balance, along[..., 0] - along[..., 1], total[..., 0] - total[..., 1])
        # Without a slope, as where a weight is zero, the larger weighted loss is lowered.
        rises = (slope > 0) | ((slope == 0) & (sizes[..., 0] > sizes[..., 1]))
        first: Array = np.where(rises, high, low)
        first = np.where(low > high, np.clip(0.5 * (low + high), 0.0, 1.0), first)
        return np.stack([first, 1 - first], axis=-1), {"mean": mean}


@dataclass(frozen=True, kw_only=True)
class Ferero(Running):
    """Lowers both losses along the ray, and corrects what is off the ray.

    With ``h = (1 - lam) f1 - lam f2`` and its gradient b, the direction is the shortest vector of
    the segment, across b, plus the multiple of b by which h falls at the rate `gain`.

    Attributes
    ----------
    gain
        Rate at which the distance from the ray falls; positive.
    most
        Largest size of that multiple; positive.
    recent
        Weight of the newest loss in the running means, in (0, 1].

    Notes
    -----
    Card G28. Costs two gradients.
    """

    name: ClassVar[str] = "ferero"
    title: ClassVar[str] = "FERERO"
    source: ClassVar[str] = "arXiv 2412.01773"
    gain: Positive = 0.1
    most: Positive = 10.0

    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        mean, gram = self.mean(seen, state), seen.gram
        b = seen.weights * np.array([1.0, -1.0])
        off = (b * mean).sum(axis=-1)
        onto = np.einsum("...ij,...j->...i", gram, b)  # b.g_i
        square = np.einsum("...i,...i->...", b, onto)
        unit = ratio(np.ones_like(square), square)
        across = gram - unit[..., None, None] * onto[..., :, None] * onto[..., None, :]
        apart = across[..., 0, 0] + across[..., 1, 1] - 2 * across[..., 0, 1]
        pull = across[..., 0, 1] - across[..., 1, 1]
        pull = pull + self.gain * off * unit * (onto[..., 0] - onto[..., 1])
        first = np.clip(ratio(-pull, apart, 0.5), 0.0, 1.0)
        shares = np.stack([first, 1 - first], axis=-1)
        back = (self.gain * off - (shares * onto).sum(axis=-1)) * unit
        back = np.clip(back, -self.most, self.most)
        return shares + back[..., None] * b, {"mean": mean}


@dataclass(frozen=True, kw_only=True)
class ParetoMtl(Running):
    """Pareto multi-task learning: MGDA within a sector of losses about the ray.

    Outside the sector the gradient of the constraint that is violated is followed alone.

    Attributes
    ----------
    sectors
        Into how many the quarter plane of losses is divided; at least 2.
    recent
        Weight of the newest loss in the running means, in (0, 1].

    Notes
    -----
    Card G29. The published rule enters the sector in a first phase, and later joins a constraint
    with both gradients; here it enters whenever it is outside. Costs two gradients.
    """

    name: ClassVar[str] = "pmtl"
    title: ClassVar[str] = "Pareto MTL"
    source: ClassVar[str] = "arXiv 1912.12854"
    sectors: Annotated[int, Within(2, 1000)] = 10

    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        mean = self.mean(seen, state)
        # On the ray both losses are as 1 / weight.
        ray = np.arctan2(seen.weights[..., 0], seen.weights[..., 1])
        found = np.arctan2(np.maximum(mean[..., 1], LEAST), np.maximum(mean[..., 0], LEAST))
        half = np.pi / (4 * self.sectors)
        side = np.sign(found - ray) * (np.abs(found - ray) > half)
        beyond = ray + side * 2 * half
        back = np.cos(beyond) - np.cos(ray), np.sin(beyond) - np.sin(ray)
        inside = (side == 0)[..., None]
        return np.where(inside, shortest(seen.gram), np.stack(back, axis=-1)), {"mean": mean}


def _interval(gram: Array, least: Array) -> tuple[Array, Array]:
    """Shares of the first gradient between which ``gram @ (first, 1 - first) >= least``."""
    rise, need = gram[..., 0] - gram[..., 1], least - gram[..., 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        limit = np.where(rise == 0, np.nan, need / rise)
    low = np.where((rise > 0) & np.isfinite(limit), limit, 0.0).max(axis=-1)
    high = np.where((rise < 0) & np.isfinite(limit), limit, 1.0).min(axis=-1)
    return np.maximum(low, 0.0), np.minimum(high, 1.0)
