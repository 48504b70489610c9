"""Sums of training losses since the last log line, kept on the device without waiting for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tradeoff.schedules import OBJECTIVES


class Tally:
    """Sums of losses and rewards, and their divisors.

    Attributes
    ----------
    updates
        Numbers of updates that followed (SFT, preference) since the run began.
    """

    def __init__(self) -> None:
        self.updates = [0, 0]
        self.clear()

    def clear(self) -> None:
        """Begin a new log line."""
        self._sums: dict[str, float | Tensor] = {}
        self._counts = [0.0, 0.0]
        self._norms: list[float | Tensor] = []

    def add(self, objective: int, sums: dict[str, Tensor], count: float, counted: float) -> None:
        """Add the summed values of a pass over `count` tokens or pairs, unless `counted` is 0."""
        for name, value in sums.items():
            key = f"{OBJECTIVES[objective]}/{name}"
            self._sums[key] = self._sums.get(key, 0.0) + counted * value.double()
        self._counts[objective] += counted * count

    def norm(self, value: Tensor) -> None:
        """Add the norm of an update's gradient."""
        self._norms.append(value.detach().double())

    def means(self, scorer: Any) -> dict[str, float]:
        """Means over all processes since the last line.

        All processes follow the same objectives, so all add the same names.
        """
        if not self._sums:
            return {}
        found = self.state(scorer)
        count = dict(zip(OBJECTIVES, found["counts"], strict=True))
        means = {n: v / count[n.split("/")[0]] for n, v in found["sums"].items()}
        return means | {"grad_norm": sum(found["norms"]) / len(found["norms"])}

    def state(self, scorer: Any) -> dict[str, Any]:
        """Sums over all processes, for a checkpoint."""
        names = sorted(self._sums)
        device = scorer.accelerator.device
        values = [torch.as_tensor(self._sums[n], dtype=torch.float64, device=device) for n in names]
        counts = torch.tensor(self._counts, dtype=torch.float64, device=device)
        *total, sft, preference = scorer.add_up(torch.stack([*values, *counts])).tolist()
        return {
            "updates": self.updates,
            "sums": dict(zip(names, total, strict=True)),
            "counts": [sft, preference],
            "norms": [float(norm) for norm in self._norms],
        }

    def set_state(self, found: dict[str, Any], *, main: bool) -> None:
        """Restore :meth:`state`; the main process alone continues the sums."""
        self.updates = list(found["updates"])
        part = 1.0 if main else 0.0
        self._sums = {name: part * value for name, value in found["sums"].items()}
        self._counts = [part * count for count in found["counts"]]
        self._norms = list(found["norms"])
