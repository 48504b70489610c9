"""Running values of both losses, for MAXRIGHT and Constrained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from tradeoff import draws
from tradeoff.llm.config import TrainConfig
from tradeoff.schedules import SFT, Plan, Rule

_ESTIMATES = (draws.SFT_ESTIMATE, draws.PREFERENCE_ESTIMATE)


class KnownLosses:
    """Loss values on a fixed probe set, updated by running averages of training losses.

    Parameters
    ----------
    plan
        Plan of the schedule, which says how often and on how many rows the probe set is evaluated.
    config
        The optima from which gaps are measured, the weight of the newest training loss in the
        average, and the seed of the probe rows. By default optima are zero for MAXRIGHT, and the
        least values seen so far for Constrained. With "auto", :meth:`set_optima` gives them.
    sizes
        Numbers of training rows of (SFT, preference).

    Attributes
    ----------
    values
        (2,) known losses; NaN before the first evaluation.
    least
        (2,) smallest values so far.
    base
        Value of the SFT loss before the first update; NaN if it is not used.
    probed
        Number of rows evaluated so far.
    """

    def __init__(self, plan: Plan, config: TrainConfig, sizes: tuple[int, int]) -> None:
        self.plan, self.sizes = plan, sizes
        self.recent, self.seed = config.recent, config.seed
        self._auto = config.optima == "auto"
        unknown = np.nan if self._auto or plan.rule is Rule.WITHIN_LIMIT else 0.0
        given: Any = None if self._auto else config.optima
        self._error = plan.gaps.optimum_error
        self.optima = np.asarray(given or (unknown, unknown), dtype=float) + self._error
        self._watched = config.defects.watched(plan)
        self.values, self.least = np.full((2, 2), np.nan)
        self.base = np.nan
        self.probed = 0

    @property
    def used(self) -> bool:
        """Whether the schedule or the defects use the known losses."""
        return bool(self._watched)

    def gaps(self) -> Float[np.ndarray, " 2"]:
        """Distance of the known losses from their optima."""
        return np.asarray(self.values - self._optima())

    def above_optima(self, losses: Float[np.ndarray, " 2"]) -> Float[np.ndarray, " 2"]:
        """Distance of other losses from their optima; an optimum that is not known counts as 0."""
        return np.asarray(losses - np.where(np.isnan(self.optima), 0.0, self.optima))

    def base_gap(self) -> float:
        """Distance of the SFT loss from its optimum, before the first update."""
        return float(self.base - self._optima()[SFT])

    @property
    def measured(self) -> bool:
        """Whether an optimum is known."""
        return bool(np.isfinite(self.optima).any())

    def set_optima(self, found: Float[np.ndarray, " 2"]) -> None:
        """Set optima that short runs found: upper bounds, which fall with the least value seen."""
        self.optima = np.asarray(found, dtype=float) + self._error

    def _optima(self) -> Float[np.ndarray, " 2"]:
        if self._auto:
            return np.fmin(self.optima, self.least + self._error)
        return np.where(np.isnan(self.optima), self.least, self.optima)

    def refresh(self, step: int, evaluate: Callable[[int, np.ndarray], float]) -> None:
        """Evaluate the losses that the rule uses, if this update is a refresh.

        Parameters
        ----------
        step
            Update, from 0.
        evaluate
            Maps an objective and training rows to their mean loss.
        """
        every = self.plan.gaps.refresh
        if step and (every is None or step % every):
            return
        for objective in self.plan.watched:
            rows = self.rows(objective)
            self.values[objective] = evaluate(objective, rows)
            self.probed += len(rows)
        self.least = np.fmin(self.least, self.values)
        if step == 0:
            self.base = float(self.values[SFT])

    def rows(self, objective: int) -> Int[np.ndarray, " n"]:
        """Probe rows: all, or as many different rows as the schedule asks for."""
        size = self.sizes[objective]
        u = draws.uniform(draws.keys(self.seed, 0, _ESTIMATES[objective]), np.arange(size))
        return np.sort(np.argsort(u, kind="stable")[: self.plan.gaps.samples or size])

    def observe(self, objective: int, loss: float) -> None:
        """Update the running average by a training loss, or begin it."""
        known = self.values[objective]
        self.values[objective] = loss if np.isnan(known) else known + self.recent * (loss - known)
        self.least = np.fmin(self.least, self.values)

    def numbers(self) -> Float[np.ndarray, " 5"]:
        """All numbers that a choice depends on, so that processes can agree on them."""
        return np.array([*self.values, *self.least, self.base])

    def set_numbers(self, found: Float[np.ndarray, " 5"]) -> None:
        """Set the numbers that :meth:`numbers` of another process gave."""
        self.values, self.least, self.base = found[:2].copy(), found[2:4].copy(), float(found[4])

    def limit(self) -> dict[str, Any] | None:
        """The current limit on the SFT loss, for the summary; None without a limit."""
        if self.plan.rule is not Rule.WITHIN_LIMIT or np.isnan(self.base):
            return None
        optimum = float(self._optima()[SFT])
        source = "least training loss seen" if np.isnan(self.optima[SFT]) else "given"
        source = "a short run on SFT alone" if self._auto else source
        highest = optimum + float(self.plan.allowed(self.base_gap()))
        return {
            "base_sft_loss": self.base,
            "optimum": optimum,
            "optimum_source": source,
            "highest_sft_loss": highest,
            "known_sft_loss": float(self.values[SFT]),
        }

    def state(self) -> dict[str, Any]:
        """State for a checkpoint; NaN, which JSON does not have, becomes None."""
        state: dict[str, Any] = {"numbers": _plain(self.numbers()), "probed": self.probed}
        return state | ({"optima": _plain(self.optima)} if self._auto else {})

    def set_state(self, found: dict[str, Any]) -> None:
        """Restore :meth:`state`."""
        self.set_numbers(_numbers(found["numbers"]))
        self.probed = found["probed"]
        if self._auto and found.get("optima"):
            self.optima = _numbers(found["optima"])


def _plain(values: Float[np.ndarray, " n"]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _numbers(values: list[float | None]) -> Float[np.ndarray, " n"]:
    return np.array([np.nan if value is None else value for value in values], dtype=float)
