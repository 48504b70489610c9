"""Check of the package's annotations in the tests: on the first calls of each test, then rarely.

Checking a call takes longer than most functions. A function is therefore checked in each test
on its first calls, and from then on the 16th, 32nd, 64th time: a value of the wrong shape or
type in a late call is still found, and a loop of a million calls is not slower. A function that has
been checked often is checked on fewer first calls of each test.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import is_dataclass
from types import CodeType, FunctionType
from typing import Any, ForwardRef, get_args

import jaxtyping
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeException
from jaxtyping import TypeCheckError, jaxtyped

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""Checks plain types: an int is accepted as a float."""
check_alone = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=TypeCheckError))
"""Checks the same without `jaxtyped`."""

FIRST, LATER = 8, 16
"""Number of first calls that are all checked; after them, the calls LATER, 2 LATER, 4 LATER ...

Calls are counted anew in each test. Those of a function inside another one are counted over all
tests: its check is prepared again for each of its copies, which takes as long as many calls.
"""
OFTEN, FEWER = 100, 1
"""After so many checks of a function, so many of its first calls in a test are checked."""

# The key is the identity of a function's code, because its hash is computed at every use. The codes
# are kept, so that no other code gets the same identity.
_calls: dict[int, int] = {}
_local_calls: dict[int, int] = {}
_codes: dict[int, CodeType] = {}


def start_counting_anew() -> None:
    """Start the count of calls again, of every function that is not inside another one."""
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
    code, checked, checks = id(function.__code__), None, 0
    _codes[code] = function.__code__
    calls, first = (_local_calls if "<locals>" in function.__qualname__ else _calls), FIRST

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        nonlocal checked, checks, first
        count = calls[code] = calls.get(code, 0) + 1
        if count > first and (count < LATER or count & (count - 1)):  # Not a power of two.
            return function(*args, **kwargs)
        checks += 1
        if checks == OFTEN:
            first = FEWER
        if checked is None:
            checked = _checked(function, typechecker)
        return checked(*args, **kwargs)

    return call


def _checked(function: Callable, typechecker: Callable) -> Callable:
    """The function with its checks, which are much faster where no annotation has a shape.

    With a type checker of its own, `jaxtyped` would make two functions that check, and check the
    arguments in both. It does so where it accepts more annotations, and for generators, which it
    would change otherwise.
    """
    if typechecker is check and isinstance(function, FunctionType):
        found = _types(function)
        shaped = any(map(_shaped, found))
        if not shaped or not (UNKNOWN in found or inspect.isgeneratorfunction(function)):
            try:
                alone = check_alone(function)
                return jaxtyped(alone, typechecker=None) if shaped else alone
            except BeartypeException:
                pass
    return jaxtyped(function, typechecker=typechecker)


def _types(function: FunctionType) -> list[Any]:
    """The types that annotations of the function name, some of which may not be known."""
    space = vars(builtins) | function.__globals__
    found: list[Any] = []
    for annotation in function.__annotations__.values():
        if isinstance(annotation, str):
            names = re.findall(r"(?<![\w.])[^\W\d]\w*", TEXTS.sub("", annotation))
            found += [space.get(name, UNKNOWN) for name in names]
        else:
            found.append(annotation)
    return found


TEXTS = re.compile(r"Literal\[[^]]*\]|\"[^\"]*\"|'[^']*'")
UNKNOWN = ForwardRef("Unknown")


def _shaped(hint: Any) -> bool:
    """Whether a type contains a type of jaxtyping, or a name that is not known."""
    own = isinstance(hint, ForwardRef) or type(hint).__module__.startswith("jaxtyping")
    return own or any(map(_shaped, get_args(hint)))
