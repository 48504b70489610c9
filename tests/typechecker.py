"""Check of the package's annotations in the tests: on the first calls of each test, then rarely.

Checking a call takes longer than most functions. A function is therefore checked in each test
on its first calls, and from then on the 16th, 32nd, 64th time: a value of the wrong shape or
type in a late call is still found, and a loop of a million calls is not slower.
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
"""Checks plain types: an int is accepted as a float."""

FIRST, FIRST_LOCAL = 8, 2
"""Number of first calls that are all checked: of a function, and of a function inside another one.
"""

_calls: dict[CodeType, int] = {}


def start_counting_anew() -> None:
    """Start the count of calls of every function again."""
    _calls.clear()


def install() -> None:
    """Check the functions of the package. None of its modules may have been imported yet."""
    jaxtyping.install_import_hook("tradeoff", "typechecker.check")
    jaxtyping.jaxtyped = sampled  # Decorators that the hook writes above each function and class.


def sampled(*, typechecker: Callable) -> Callable:
    """Like `jaxtyping.jaxtyped`, for functions and data classes, but most calls are not checked."""

    def decorate(found: Any) -> Any:
        if not inspect.isclass(found):
            return _sampled(found, typechecker)
        initialise = vars(found).get("__init__")
        if is_dataclass(found) and initialise and not hasattr(initialise, "__wrapped__"):
            found.__init__ = _sampled(initialise, typechecker)
        return found

    return decorate


def _sampled(function: Callable, typechecker: Callable) -> Callable:
    """The function, checked in some of its calls. The check is prepared at the first of them."""
    if getattr(function, "__no_type_check__", False):
        return function
    code, checked = function.__code__, None
    first = FIRST_LOCAL if "<locals>" in function.__qualname__ else FIRST

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        nonlocal checked
        count = _calls[code] = _calls.get(code, 0) + 1
        if count > first and count & (count - 1):  # Not a power of two.
            return function(*args, **kwargs)
        if checked is None:
            checked = jaxtyped(function, typechecker=typechecker)
        return checked(*args, **kwargs)

    return call
