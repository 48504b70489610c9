"""Schedules by name, and their way back from JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tradeoff.parts import restore
from tradeoff.schedules.adaptive import Constrained, Maxright
from tradeoff.schedules.base import Schedule
from tradeoff.schedules.joint import Alright, Mix
from tradeoff.schedules.stages import Rounds, Sequential, Stages

SCHEDULES: dict[str, type[Schedule]] = {
    cls.name: cls for cls in (Sequential, Rounds, Mix, Alright, Maxright, Constrained, Stages)
}
"""Every schedule by its name; a new one is a class and a place in this row."""


def from_dict(description: Mapping[str, Any]) -> Schedule:
    """Restore a schedule from ``Schedule.to_dict``.

    Raises
    ------
    InputError
        If the name or a setting is unknown, or a value cannot be used.
    """
    return restore(description, SCHEDULES, "schedule")
