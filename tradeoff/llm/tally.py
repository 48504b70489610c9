"""Training losses since the last log line, added up on the device without waiting for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tradeoff.schedules import OBJECTIVES, PREFERENCE, SFT


class Tally:
    """Sums of losses and rewards, and of what they are divided by.

    Attributes
    ----------
    updates
        Updates that followed (SFT, preference) since the run began.
    """

    def __init__(self) -> None:
        self.updates = [0, 0]
        self.clear()

    def clear(self) -> None:
        """Begin a new log line."""
        self._sums: dict[str, Tensor] = {}
        self._counts = [0.0, 0.0]
        self._norms: list[Tensor] = []

    def add(self, objective: int, sums: dict[str, Tensor], count: float, counted: float) -> None:
        """Add a pass's summed values; `count` tokens or pairs, none if `counted` is 0."""
        for name, value in sums.items():
            key = f"{OBJECTIVES[objective]}/{name}"
            self._sums[key] = self._sums.get(key, 0.0) + counted * value.double()
        self._counts[objective] += counted * count

    def norm(self, value: Tensor) -> None:
        """Add the norm of an update's gradient."""
        self._norms.append(value.detach().double())

    def means(self, scorer: Any) -> dict[str, float]:
        """Means over all processes; only what was seen since the last line.

        Which objectives were followed is the same on every process, so all add the same names.
        """
        names = sorted(self._sums)
        if not names:
            return {}
        device = self._sums[names[0]].device
        counts = torch.tensor(self._counts, dtype=torch.float64, device=device)
        norm = torch.stack(self._norms).mean().to(device)
        packed = torch.stack([*(self._sums[name] for name in names), *counts])
        *total, sft, preference = scorer.add_up(packed).tolist()
        count = {OBJECTIVES[SFT]: sft, OBJECTIVES[PREFERENCE]: preference}
        means = {n: v / count[n.split("/")[0]] for n, v in zip(names, total, strict=True)}
        return means | {"grad_norm": float(norm)}
