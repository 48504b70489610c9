"""Check that a run may continue with another number of updates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tradeoff.errors import InputError
from tradeoff.llm import optima
from tradeoff.llm._rates import learning_rates
from tradeoff.llm.config import TrainConfig
from tradeoff.schedules import Schedule


def check_extends(
    schedule: Schedule,
    config: TrainConfig,
    before: Any,
    done: int,
    file: Any = None,
    rates: Callable[[TrainConfig, np.ndarray], np.ndarray] = learning_rates,
) -> None:
    """Raise an error if another number of updates would have changed the updates that are done.

    A continued run equals a new run of the new length. So the rate must be constant after any
    warm-up. The stages of the schedule must not depend on the number of updates, as with Mix,
    ALRIGHT, MAXRIGHT and Constrained.

    Parameters
    ----------
    schedule
        Of the run.
    config
        Settings of the run, with the new number of updates.
    before
        The number of updates with which it began.
    done
        Updates done.
    file
        The checkpoint, for messages.
    rates
        Makes the rates of the updates from settings and clock.

    Raises
    ------
    InputError
        If more updates are done than are wanted, or they differ from those of the new plan.
    """
    steps = config.steps
    if steps == before or not isinstance(before, int) or steps is None:
        return
    if steps < done:
        raise InputError(
            f"the run has done {done} updates already",
            file=file,
            field="steps",
            value=steps,
            remedy="Give more steps, or --checkpoint to `tradeoff export` for an earlier model.",
        )
    plans = [schedule.plan(count) for count in (before, steps)]
    old_rates, new_rates = (
        np.asarray(rates(replace(config, steps=count), plan.clock))
        for count, plan in zip((before, steps), plans, strict=True)
    )
    cause = None
    if not np.array_equal(old_rates[:done], new_rates[:done]):
        how = f"with decay = {config.decay!r}" if rates is learning_rates else "of one's own"
        cause = f"a learning rate {how} depends on the number of updates"
    for name in ("probability", "weights", "clock"):
        old, new = (getattr(plan, name)[:done] for plan in plans)
        if not np.array_equal(old, new):
            cause = f"the schedule {schedule.label} plans its stages by the number of updates"
    short = old_rates[optima.places(before)], new_rates[optima.places(steps)]
    if config.optima == optima.AUTO and not np.array_equal(*short):
        cause = 'the short runs of optima = "auto" depend on the number of updates'
    if cause is not None:
        raise InputError(
            f"the run was begun with {before} steps and cannot go on to {steps}: {cause}",
            file=file,
            field="steps",
            value=steps,
            remedy="Begin a run from its model, --model RUN, in another output folder.",
        )
