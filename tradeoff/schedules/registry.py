"""Schedules by name, and how they are restored from JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tradeoff.parts import collected, restore
from tradeoff.schedules.base import Schedule

SCHEDULES: dict[str, type[Schedule]] = collected(__package__, Schedule)  # type: ignore[type-abstract]
"""Every schedule by its name; a new one is a file in this folder."""


def from_dict(description: Mapping[str, Any]) -> Schedule:
    """Restore a schedule from ``Schedule.to_dict``.

    Raises
    ------
    InputError
        If the name or a setting is unknown, or a value cannot be used.
    """
    return restore(description, SCHEDULES, "schedule")
