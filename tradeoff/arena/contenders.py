"""Who takes part: every method of the catalogue that a convex problem can hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from tradeoff.errors import InputError
from tradeoff.methods import METHODS, Method, find, names
from tradeoff.methods.presets import PRESETS
from tradeoff.schedules import FORWARD, Schedule

LOOK_EVERY, LOOK_SAMPLES = 10, 8
"""Updates between two looks at the losses, and data points of each objective in a look."""
TRIED = 64
"""Updates of the plan that shows whether a method can run at all."""


def contenders(given: Iterable[str] = ()) -> dict[str, Method]:
    """Methods by name; those of the catalogue, where no names are given.

    Parameters
    ----------
    given
        Names as the command line takes them, see :func:`tradeoff.methods.find`.

    Raises
    ------
    InputError
        If a name is unknown, or a method that is asked for cannot run on convex problems.
    """
    wanted = list(given)
    found: dict[str, Method] = {}
    for name in wanted or names():
        method = find(name)
        method = replace(method, schedule=affordable(method.schedule))
        if wanted:
            method.check("convex")
            method.plan(TRIED)
        elif left_out(name) is not None:
            continue
        found[name] = method
    return found


def left_out(name: str) -> str | None:
    """Why a method of the catalogue has no place on the convex board; None if it has one."""
    method = find(name)
    if (reason := method.unsupported("convex")) is not None:
        return reason
    try:
        method.plan(TRIED)
    except InputError as error:
        return error.problem
    if not method.changed() and name not in {*METHODS, *PRESETS}:
        return "it is the schedule of another name"
    return None


def look_cost(method: Method) -> float:
    """Cost in gradients of each update's share of the looks that a schedule takes at losses."""
    plan = method.schedule.plan(TRIED)
    if not plan.watched or plan.gaps.refresh is None:
        return 0.0
    return FORWARD * len(plan.watched) * plan.gaps.samples / plan.gaps.refresh


def affordable(schedule: Schedule) -> Schedule:
    """The schedule, with looks at few data points in place of exact losses at every update."""
    settings = {"refresh": LOOK_EVERY, "samples": LOOK_SAMPLES}
    known = {k: v for k, v in settings.items() if k in schedule.__dataclass_fields__}
    return replace(schedule, **known)
