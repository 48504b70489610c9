"""Schedules by name, and their way back from JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tradeoff.errors import InputError
from tradeoff.schedules.adaptive import Constrained, Maxright
from tradeoff.schedules.base import Schedule
from tradeoff.schedules.joint import Alright, Mix
from tradeoff.schedules.stages import Rounds, Sequential
from tradeoff.settings import build

SCHEDULES: dict[str, type[Schedule]] = {
    cls.name: cls for cls in (Sequential, Rounds, Mix, Alright, Maxright, Constrained)
}
"""Every schedule by its name; a new one is a class and a place in this row."""


def from_dict(description: Mapping[str, Any]) -> Schedule:
    """Restore a schedule from :meth:`Schedule.to_dict`.

    Raises
    ------
    InputError
        If the name or a setting is unknown, or a value cannot be used.
    """
    if not isinstance(description, Mapping):
        raise InputError(
            "a schedule is described by its name and settings",
            value=description,
            remedy='Use a mapping such as {"name": "mix", "lam": 0.5}.',
        )
    settings = dict(description)
    name = settings.pop("name", None)
    if not isinstance(name, str) or name not in SCHEDULES:
        raise InputError(
            "unknown schedule", field="name", value=name, remedy=f"Use one of {sorted(SCHEDULES)}."
        )
    return build(SCHEDULES[name], settings)
