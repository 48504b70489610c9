"""The progress bar of a run, with training losses and the remaining time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from tradeoff.progress import tqdm

_SHORT = {"sft_loss": "SFT", "preference_loss": "preference"}


class Bar:
    """Progress bar of a run.

    Parameters
    ----------
    steps, done
        Number of updates of the run, and of those done.
    every
        Updates between two evaluations.
    shown
        Whether anything is shown.
    clock
        Function that gives the time in seconds; for tests.

    Attributes
    ----------
    losses
        Newest training losses by objective.
    held_out
        Newest held-out losses.
    """

    def __init__(
        self, steps: int, done: int, every: int, *, shown: bool, clock: Any = time.perf_counter
    ) -> None:
        self.steps, self.done, self.every, self.clock = steps, done, every, clock
        self.losses: dict[str, float] = {}
        self.held_out: dict[str, float] = {}
        self._last, self._updates, self._evaluations = clock(), (0, 0.0), (0, 0.0)
        self._tqdm = tqdm(
            total=steps,
            initial=done,
            disable=not shown,
            desc="updates",
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
        )

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self._tqdm.close()

    def update(self, losses: Mapping[str, float] | None = None) -> None:
        """Count an update, and show its training losses if they are known."""
        self.done += 1
        self.losses |= losses or {}
        self._updates = self._added(self._updates)
        self._show(refresh=False)  # A log may get no later line, so the losses come first.
        self._tqdm.update()
        self._tqdm.refresh()

    def set_postfix(self, losses: Mapping[str, Any]) -> None:
        """Count an evaluation and show its losses."""
        self.held_out = {_SHORT.get(name, name): float(value) for name, value in losses.items()}
        self._evaluations = self._added(self._evaluations)
        self._show()

    def left(self) -> float | None:
        """Seconds to the end, by mean times of updates and evaluations; None if unknown."""
        count, seconds = self._updates
        if not count:
            return None
        number, evaluating = self._evaluations
        # Evaluations come before the next update at multiples of `every`, and once at the end.
        due = -(-self.steps // self.every) - -(-self.done // self.every) + 1
        due = 0 if self.done >= self.steps else due
        return (self.steps - self.done) * seconds / count + due * evaluating / max(1, number)

    def _added(self, before: tuple[int, float]) -> tuple[int, float]:
        now = self.clock()
        spent, self._last = now - self._last, now
        return before[0] + 1, before[1] + spent

    def _show(self, *, refresh: bool = True) -> None:
        parts = []
        if (left := self.left()) is not None:
            parts.append(f"{tqdm.format_interval(left)} left")
        parts += [f"{name} {value:.4f}" for name, value in self.losses.items()]
        parts += [f"held-out {name} {value:.4f}" for name, value in self.held_out.items()]
        self._tqdm.set_postfix_str(", ".join(parts), refresh=refresh)
