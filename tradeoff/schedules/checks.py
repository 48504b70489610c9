"""Checks of settings, each with one message."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import numpy as np

from tradeoff.errors import InputError


def finite(value: Any) -> bool:
    """Whether a value is a number; true and false are none."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    return number and bool(-math.inf < value < math.inf)


def unit_interval(name: str, value: Any) -> None:
    """An `InputError` unless the value is a number in [0, 1]."""
    if not (finite(value) and 0 <= value <= 1):
        raise InputError(
            "not a number in [0, 1]",
            field=name,
            value=value,
            remedy=f"{name} must lie in [0, 1].",
        )


def whole(name: str, value: Any, least: int, meaning: str) -> None:
    """An `InputError` unless the value is a whole number of at least `least`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < least:
        raise InputError(
            f"not a whole number of at least {least}", field=name, value=value, remedy=meaning
        )


def flag(name: str, value: Any, remedy: str) -> None:
    """An `InputError` unless the value is true or false."""
    if not isinstance(value, bool | np.bool_):
        raise InputError("neither true nor false", field=name, value=value, remedy=remedy)


def first_objective(value: Any, objectives: tuple[str, ...]) -> None:
    """An `InputError` unless the value names one of the objectives."""
    if value not in objectives:
        raise InputError(
            "unknown first stage", field="first", value=value, remedy=f"Use {objectives}."
        )
