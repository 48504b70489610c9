"""What MAXRIGHT knows of the two losses between evaluations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from tradeoff import draws
from tradeoff.llm.config import TrainConfig
from tradeoff.schedules import Plan, Rule

_ESTIMATES = (draws.SFT_ESTIMATE, draws.PREFERENCE_ESTIMATE)


class KnownLosses:
    """Loss values on a fixed probe set, kept current by a running average of training losses.

    Parameters
    ----------
    plan
        Of the schedule; tells how often and on how many rows the probe set is evaluated.
    config
        Optima, from which gaps are measured; the weight of the newest training loss in the
        average; the seed, which fixes the probe rows.
    sizes
        Training rows of (SFT, preference).

    Attributes
    ----------
    values
        (2,) known losses; NaN before the first is seen.
    probed
        Rows evaluated so far.
    """

    def __init__(self, plan: Plan, config: TrainConfig, sizes: tuple[int, int]) -> None:
        self.plan, self.sizes = plan, sizes
        self.recent, self.seed = config.recent, config.seed
        self.optima = np.asarray(config.optima) + plan.gaps.optimum_error
        self._watched = config.defects.stop_at_either_optimum
        self.values = np.full(2, np.nan)
        self.probed = 0

    @property
    def used(self) -> bool:
        """Whether anything depends on the known losses."""
        return self.plan.rule is Rule.LARGER_GAP or self._watched

    def gaps(self) -> Float[np.ndarray, " 2"]:
        """Distance of the known losses from their optima."""
        return np.asarray(self.values - self.optima)

    def refresh(self, step: int, evaluate: Callable[[int, np.ndarray], float]) -> None:
        """Evaluate both losses anew, if this update asks for it.

        Parameters
        ----------
        step
            Update, from 0.
        evaluate
            Maps an objective and training rows to their mean loss.
        """
        every = self.plan.gaps.refresh
        if self.plan.rule is not Rule.LARGER_GAP:
            return
        if step and (every is None or step % every):
            return
        for objective in (0, 1):
            rows = self.rows(objective)
            self.values[objective] = evaluate(objective, rows)
            self.probed += len(rows)

    def rows(self, objective: int) -> Int[np.ndarray, " n"]:
        """Probe rows: all, or as many different ones as the schedule asks for."""
        size = self.sizes[objective]
        u = draws.uniform(draws.keys(self.seed, 0, _ESTIMATES[objective]), np.arange(size))
        return np.sort(np.argsort(u, kind="stable")[: self.plan.gaps.samples or size])

    def observe(self, objective: int, loss: float) -> None:
        """Move the known value towards a training loss, or take it where none is known."""
        known = self.values[objective]
        self.values[objective] = loss if np.isnan(known) else known + self.recent * (loss - known)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps; NaN, which JSON lacks, becomes None."""
        known = [None if np.isnan(value) else float(value) for value in self.values]
        return {"values": known, "probed": self.probed}

    def set_state(self, found: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self.values = np.array([np.nan if v is None else v for v in found["values"]])
        self.probed = found["probed"]
