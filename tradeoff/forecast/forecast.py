"""The forecast of a training from a few measurements: front, forgetting, best weight, intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from tradeoff.display import Shown
from tradeoff.forecast.calibration import Calibration
from tradeoff.forecast.candidates import CANDIDATES, Candidate
from tradeoff.forecast.lab import Lab
from tradeoff.forecast.quantities import LAMBDAS, NAMES, forgetting, front, knee
from tradeoff.forecast.stack import Measured

Array = NDArray[np.float64]
SURE = 0.9
"""Share of draws from the intervals that must agree for a choice to be told."""
DRAWS = 2000


@dataclass(frozen=True, repr=False, eq=False)
class Forecast(Shown):
    """Expected held-out losses of runs of one budget, with 90 % intervals.

    Attributes
    ----------
    losses, low, high
        (Q,) in nats, in the order of :data:`tradeoff.forecast.quantities.NAMES`.
    base
        (2,) losses of the model before training.
    draws
        (n, Q) draws from the intervals, independent of each other.
    cost
        Cost of all measurements as a share of one run.
    updates, batch
        The budget: updates of Mix, and rows of each set in an update.
    calibration
        What the intervals rest on.
    """

    losses: Float[np.ndarray, " Q"]
    low: Float[np.ndarray, " Q"]
    high: Float[np.ndarray, " Q"]
    base: Float[np.ndarray, " 2"]
    draws: Float[np.ndarray, "n Q"]
    cost: float
    updates: int
    batch: int
    calibration: Calibration

    @cached_property
    def best(self) -> dict[float, float]:
        """Probability that each weight is best: it has the least sum of both losses in ranges."""
        chosen = np.array([knee(one) for one in front(self.draws)])
        return {lam: float(np.mean(chosen == k)) for k, lam in enumerate(LAMBDAS)}

    @cached_property
    def lam(self) -> float | None:
        """The best weight; None if the intervals do not tell."""
        lam, share = max(self.best.items(), key=lambda item: item[1])
        return lam if share >= SURE else None

    @cached_property
    def forgetting(self) -> Float[np.ndarray, "2 3"]:
        """Forgetting of (SFT in SFT→DPO, preferences in DPO→SFT): expected, and a 90 % interval."""
        drawn = np.quantile(forgetting(self.draws), [0.05, 0.95], axis=0)
        return np.column_stack([forgetting(self.losses), *drawn])

    def told(self, loss: int) -> bool:
        """Whether a loss is known better than its own change over the front."""
        low, high = front(self.low)[:, loss], front(self.high)[:, loss]
        return bool(np.median(high - low) <= np.ptp(front(self.losses)[:, loss]))

    def table(self) -> pd.DataFrame:
        """One row for each number: plan, loss, forecast and interval, in nats."""
        plans, losses = zip(*NAMES, strict=True)
        columns = {"forecast": self.losses, "low": self.low, "high": self.high}
        return pd.DataFrame({"plan": plans, "loss": losses, **columns})

    def record(self) -> dict[str, Any]:
        """All that JSON can hold."""
        from tradeoff.forecast.sentences import sentences

        return {
            "sentences": sentences(self),
            "updates": self.updates,
            "batch": self.batch,
            "cost": self.cost,
            "base": dict(zip(("sft_loss", "preference_loss"), self.base.tolist(), strict=True)),
            "numbers": self.table().to_dict("records"),
            "best_lambda": self.lam,
            "best_lambda_shares": {f"{lam:g}": share for lam, share in self.best.items()},
            "forgetting": {
                name: dict(zip(("forecast", "low", "high"), row, strict=True))
                for name, row in zip(("sft", "preference"), self.forgetting.tolist(), strict=True)
            },
            "trust": {"goals": self.calibration.goals, **self.calibration.scores["stack"]},
            "measured_on": dict(self.calibration.about),
        }

    def __repr__(self) -> str:
        return (
            f"Forecast({self.updates} updates of {self.batch} rows, cost {100 * self.cost:.1f} %)"
        )


def measure(lab: Lab, candidates: Mapping[str, Candidate]) -> Measured:
    """What candidates say of the subject of a lab."""
    return Measured(
        group="",
        variants={name: candidate.predict(lab) for name, candidate in candidates.items()},
        starts={
            name: lab.started if "start" in candidate.uses else lab.base
            for name, candidate in candidates.items()
        },
        base=lab.base,
    )


def forecast(lab: Lab, calibration: Calibration) -> Forecast:
    """Forecast the runs of a budget.

    Parameters
    ----------
    lab
        The subject, what is measured of it, and the budget.
    calibration
        Fitted on other runs, see :func:`tradeoff.forecast.calibration.stored`.
    """
    used = {name: CANDIDATES[name] for name in calibration.fitted.variants}
    measured = measure(lab, used)
    return of_measured(measured, calibration, lab.effort.updates, lab.effort.batch, lab.cost())


def of_measured(
    measured: Measured, calibration: Calibration, updates: int, batch: int, cost: float
) -> Forecast:
    """The forecast from measurements that were made before.

    Parameters
    ----------
    measured
        What the candidates say.
    calibration
        Fitted on other runs.
    updates, batch, cost
        The budget, and the cost of the measurements as a share of one run.
    """
    fitted, half = calibration.fitted, calibration.half_widths
    normal = np.random.default_rng(0).standard_normal((DRAWS, len(half)))
    return Forecast(
        losses=fitted.losses(measured),
        low=fitted.losses(measured, -half),
        high=fitted.losses(measured, half),
        base=measured.base,
        draws=fitted.losses(measured, half / 1.645 * normal),
        cost=cost,
        updates=updates,
        batch=batch,
        calibration=calibration,
    )
