"""How the tests check the annotations of the package: on the first calls of each test, then rarely.

Checking a call costs more than most functions do. A function is therefore checked in each test
on its first calls, and from then on the 16th, 32nd, 64th time: a value of the wrong shape or
type that comes late is still found, and a loop of a million calls takes no longer.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from types import CodeType
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import jaxtyped

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""Checks plain types: an int will do where a float is asked for."""

FIRST, FIRST_LOCAL = 8, 2
"""How many calls are all checked: of a function, and of one that another function defines."""

_calls: dict[CodeType, int] = {}


def start_counting_anew() -> None:
    """Check the first calls of every function again."""
    _calls.clear()


def install() -> None:
    """Check the functions of the package, of which no module may have been imported yet."""
    jaxtyping.install_import_hook("tradeoff", "typechecker.check")
    jaxtyping.jaxtyped = sampled  # what the hook writes above each function and class


def sampled(*, typechecker: Callable) -> Callable:
    """As `jaxtyping.jaxtyped`, for functions and data classes, but leaves most calls unchecked."""

    def decorate(found: Any) -> Any:
        if not inspect.isclass(found):
            return _sampled(found, typechecker)
        initialise = vars(found).get("__init__")
        if is_dataclass(found) and initialise and not hasattr(initialise, "__wrapped__"):
            found.__init__ = _sampled(initialise, typechecker)
        return found

    return decorate


def _sampled(function: Callable, typechecker: Callable) -> Callable:
    """The function, checked in some of its calls; made ready for that at the first of them."""
    if getattr(function, "__no_type_check__", False):
        return function
    code, checked = function.__code__, None
    first = FIRST_LOCAL if "<locals>" in function.__qualname__ else FIRST

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        nonlocal checked
        count = _calls[code] = _calls.get(code, 0) + 1
        if count > first and count & (count - 1):  # no power of two
            return function(*args, **kwargs)
        if checked is None:
            checked = jaxtyped(function, typechecker=typechecker)
        return checked(*args, **kwargs)

    return call
