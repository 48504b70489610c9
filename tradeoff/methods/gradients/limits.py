"""Rules that train on preferences within a limit on the SFT loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tradeoff.methods.gradients.base import Array, Seen, State
from tradeoff.methods.gradients.values import Running
from tradeoff.settings import NotNegative


@dataclass(frozen=True, kw_only=True)
class Gate(Running):
    """The preference gradient always, and that of SFT while its loss is beyond a limit.

    Attributes
    ----------
    limit
        SFT loss above its optimum, in nats, from which on SFT is followed, too; not negative.
    strength
        Factor of the SFT gradient then; not negative.
    recent
        Weight of the newest loss in the running means, in (0, 1].

    Notes
    -----
    Card S22. The published gate counts successes of a verifier; the loss is our replacement. With
    the strength K it holds the limit where the front asks for a weight of at least ``1 / (1 + K)``.
    Costs two gradients.
    """

    name: ClassVar[str] = "gate"
    title: ClassVar[str] = "AHPO gate"
    source: ClassVar[str] = "arXiv 2510.08540"
    weighted: ClassVar[bool] = False
    limit: NotNegative = 0.05
    strength: NotNegative = 1.0

    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        mean = self.mean(seen, state)
        first = np.where(mean[..., 0] > self.limit, self.strength, 0.0)
        return np.stack([first, np.ones_like(first)], axis=-1), {"mean": mean}


@dataclass(frozen=True, kw_only=True)
class ConstraintDual(Running):
    """Preferences as long as SFT loses no more than a limit, by a multiplier that learns.

    The multiplier rises with the SFT loss beyond the limit and falls below it, down to zero. Its
    share of both gradients is ``multiplier / (1 + multiplier)``.

    Attributes
    ----------
    limit
        SFT loss above its optimum that is allowed, in nats; not negative.
    rate
        Step size of the multiplier; not negative.
    recent
        Weight of the newest loss in the running means, in (0, 1].

    Notes
    -----
    Card X07, ours. Where it stops, the weight of preferences is ``1 / (1 + multiplier)``. Costs
    two gradients.
    """

    name: ClassVar[str] = "constraint_dual"
    title: ClassVar[str] = "primal-dual limit"
    source: ClassVar[str] = "ours"
    weighted: ClassVar[bool] = False
    limit: NotNegative = 0.05
    rate: NotNegative = 0.05

    @property
    def total(self) -> float:
        return 1.0

    def start(self, runs: tuple[int, ...]) -> State:
        return super().start(runs) | {"multiplier": np.ones(runs)}

    def factors(self, seen: Seen, state: State) -> tuple[Array, State]:
        mean = self.mean(seen, state)
        moved = state["multiplier"] + self.rate * (mean[..., 0] - self.limit)
        multiplier = np.maximum(moved, 0.0)
        share = multiplier / (1 + multiplier)
        factors = np.stack([share, 1 - share], axis=-1)
        return factors, {"mean": mean, "multiplier": multiplier}
