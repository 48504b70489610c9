"""Whether a run may go on under another number of updates: if what is done stays as planned."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tradeoff.errors import InputError
from tradeoff.llm.config import TrainConfig
from tradeoff.llm.rates import learning_rates
from tradeoff.schedules import Schedule


def check_extends(
    schedule: Schedule, config: TrainConfig, before: Any, done: int, file: Any = None
) -> None:
    """Refuse another number of updates if it would have changed those that are done.

    A run goes on exactly as one of the new length, begun anew, would have come to this point. That
    needs a constant rate after any warm-up, and a schedule that plans no stages by the number of
    updates, as Mix, ALRIGHT, MAXRIGHT and Constrained do.

    Parameters
    ----------
    schedule
        Of the run.
    config
        Its settings, with the new number of updates.
    before
        The number of updates it was begun with.
    done
        Updates done.
    file
        The checkpoint, for messages.

    Raises
    ------
    InputError
        If more updates are done than wanted, or other ones than the new plan has.
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
    rates = [
        learning_rates(replace(config, steps=count), plan.clock)
        for count, plan in zip((before, steps), plans, strict=True)
    ]
    cause = None
    if not np.array_equal(rates[0][:done], rates[1][:done]):
        cause = f"a learning rate with decay = {config.decay!r} depends on the number of updates"
    for name in ("probability", "weights", "clock"):
        old, new = (getattr(plan, name)[:done] for plan in plans)
        if not np.array_equal(old, new):
            cause = f"the schedule {schedule.label} plans its stages by the number of updates"
    if cause is not None:
        raise InputError(
            f"the run was begun with {before} steps and cannot go on to {steps}: {cause}",
            file=file,
            field="steps",
            value=steps,
            remedy="Begin a run from its model, --model RUN, in another output folder.",
        )
