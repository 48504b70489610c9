"""Checks of settings against their annotations, with one clear error for a value that is wrong.

Types are strict: ``True`` and ``"8"`` are not numbers, and ``8.0`` is not a whole number. Numbers
are finite and have bounds on both sides. Numbers of numpy become numbers of Python, and lists
become tuples where the annotation is a tuple. Nothing else is converted.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Run:
    ...     n: Annotated[int, Within(1, 9)] = 5
    ...     def __post_init__(self):
    ...         check(self)
    >>> Run(n=0)
    Traceback (most recent call last):
    tradeoff.errors.InputError: field 'n': out of range (found 0). Give a whole number in [1, 9].
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from tradeoff.errors import InputError

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
LONGEST = 2**16
"""Largest number of characters of a text, and of items of a list."""


@dataclass(frozen=True)
class Within:
    """Bounds of a number.

    Attributes
    ----------
    low, high
        The lower and the upper bound.
    ends
        Whether the bounds themselves are allowed, in interval notation: "(]" excludes the lower.
    """

    low: float
    high: float
    ends: Literal["[]", "(]", "[)", "()"] = "[]"

    def __contains__(self, number: Any) -> bool:
        above = self.low < number if self.ends[0] == "(" else self.low <= number
        below = number < self.high if self.ends[1] == ")" else number <= self.high
        return bool(above and below)

    def __str__(self) -> str:
        low, high = (
            str(x) if isinstance(x, int) and abs(x) < 1e7 else f"{x:g}".replace("e+", "e")
            for x in (self.low, self.high)
        )
        return f"{self.ends[0]}{low}, {high}{self.ends[1]}".replace("e0", "e")


_ANY = {int: Within(-(2**63), 2**63 - 1), float: Within(-1e300, 1e300)}
Share = Annotated[float, Within(0, 1)]
"""A share, a weight or a probability."""
BelowOne = Annotated[float, Within(0, 1, "[)")]
BelowHalf = Annotated[float, Within(0, 0.5, "[)")]
"""The probability that a label is flipped."""
Positive = Annotated[float, Within(0, 1e100, "(]")]
NotNegative = Annotated[float, Within(0, 1e100)]
Updates = Annotated[int, Within(1, 10**8)]
"""A number of updates."""
Count = Annotated[int, Within(1, 10**9)]
Seed = Annotated[int, Within(0, 2**63 - 1)]


def check(record: Any) -> None:
    """Check every field of a dataclass against its annotation; call it in ``__post_init__``.

    Fields whose annotation cannot be checked, such as arrays, are not checked.

    Raises
    ------
    InputError
        For the first value that does not fit.
    """
    for name, kind in _kinds(type(record)).items():
        value = getattr(record, name)
        found = fit(kind, value, name)
        if found is not value:
            object.__setattr__(record, name, found)


def checked(function: F) -> F:
    """Decorate a function to check its arguments against their annotations, where possible."""
    signature = inspect.signature(function)

    @functools.cache
    def kinds() -> dict[str, Any]:
        hints = get_type_hints(function, include_extras=True)
        return {n: k for n, k in hints.items() if n in signature.parameters and _known(k)}

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        given = signature.bind(*args, **named)
        for name in given.arguments.keys() & kinds().keys():
            given.arguments[name] = fit(kinds()[name], given.arguments[name], name)
        return function(*given.args, **given.kwargs)

    return call  # type: ignore[return-value]


def build(
    kind: type[T],
    table: Any,
    *,
    file: str | None = None,
    row: int | None = None,
    place: str = "",
) -> T:
    """Make a dataclass from a table of TOML or JSON.

    Parameters
    ----------
    kind
        The dataclass; a field that is a dataclass is a nested table.
    table
        Values by the names of the fields; fields with a default may be left out.
    file, row, place
        Place of the table, for messages.

    Raises
    ------
    InputError
        For the first name that is unknown or missing, or the first value that does not fit.
    """
    prefix = f"{place}." if place else ""
    try:
        if not isinstance(table, Mapping):
            raise InputError("not a table", value=table, remedy="Give names and their values.")
        known = {f.name: f for f in fields(kind) if f.init}  # type: ignore[arg-type]
        for name in table:
            if name not in known:
                raise _unknown(name, table[name], known)
        for name, about in known.items():
            if name not in table and about.default is MISSING and about.default_factory is MISSING:
                raise InputError("it is missing", field=name, remedy="Add it.")
        kinds = _kinds(kind)
        given = {name: fit(kinds.get(name, Any), value, name) for name, value in table.items()}
        return kind(**given)
    except InputError as error:
        raise error.at(
            file=file, row=row, field=f"{prefix}{error.field or ''}".strip(".") or None
        ) from error


def fit(kind: Any, value: Any, place: str) -> Any:
    """Check a value against an annotation, and convert it where that is allowed.

    Parameters
    ----------
    kind
        ``bool``, ``int``, ``float``, ``str``, ``None``, a literal, a tuple, a sequence, a
        dictionary, a dataclass, unions of these, or one of them annotated with `Within` and with a
        text, which becomes part of the remedy. Values of other kinds are returned unchecked.
    value
        The value.
    place
        Name of the setting.

    Raises
    ------
    InputError
        If the value does not fit.
    """
    base, _, _ = _unwrapped(kind)
    origin, inner = get_origin(base), get_args(base)
    if origin in (Union, types.UnionType):
        return _fit_one_of(inner, value, place)
    if base in (int, float):
        return _fit_number(kind, value, place)
    if base is bool:
        # Truth values of numpy are recognised by the name of their type.
        return bool(value) if _is_flag(value) else _refuse(kind, value, place)
    if base is str:
        return _fit_text(kind, value, place)
    if base in (None, type(None)):
        return None if value is None else _refuse(kind, value, place)
    if origin is Literal:
        # A subclass of str is accepted, but 1 is not True.
        same = [choice for choice in inner if _alike(choice, value) and choice == value]
        return same[0] if same else _refuse(kind, value, place)
    if origin in (tuple, Sequence):
        return _fit_items(kind, value, place)
    if origin is dict:
        return _fit_table(kind, value, place)
    record: type[Any] = base
    if is_dataclass(base) and not isinstance(value, record):
        return build(record, value, place=place)
    return value


def _fit_number(kind: Any, value: Any, place: str) -> Any:
    base, given, _ = _unwrapped(kind)
    plain, bounds = type(value) in (int, float), given or _ANY[base]
    if not isinstance(value, Integral if base is int else Real) or _is_flag(value):
        return _refuse(kind, value, place)
    if value not in bounds:
        return _refuse(kind, value, place, "out of range" if given else f"out of range {bounds}")
    return value if plain else base(value)


def _fit_text(kind: Any, value: Any, place: str) -> str:
    if not isinstance(value, str):
        return str(_refuse(kind, value, place))
    if len(value) > LONGEST:
        return str(_refuse(kind, value, place, "too long"))
    if "\0" in value or not _encodable(value):
        return str(_refuse(kind, value, place, "it has a character that no name or text may have"))
    return value


def _fit_items(kind: Any, value: Any, place: str) -> Any:
    base, _, _ = _unwrapped(kind)
    inner = get_args(base)
    items = value.tolist() if getattr(value, "ndim", None) == 1 else value
    if not isinstance(items, list | tuple) or len(items) > LONGEST:
        return _refuse(kind, value, place)
    if get_origin(base) is Sequence or inner[-1] is ...:
        inner = (inner[0],) * len(items)
    if len(items) != len(inner):
        return _refuse(kind, value, place)
    try:
        found = tuple(fit(part, item, place) for part, item in zip(inner, items, strict=True))
    except InputError as error:
        return _refuse(kind, value, place, error.problem)
    return value if get_origin(base) is Sequence else found


def _fit_table(kind: Any, value: Any, place: str) -> Any:
    _, inner = get_args(_unwrapped(kind)[0])
    if not isinstance(value, Mapping):
        return _refuse(kind, value, place)
    for name in value:
        _fit_text(str, name, place)
    return {name: fit(inner, item, f"{place}.{name}") for name, item in value.items()}


def _fit_one_of(kinds: Sequence[Any], value: Any, place: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    errors = []
    for kind in kinds:
        try:
            return fit(kind, value, place)
        except InputError as error:
            errors.append(error)
    # The most informative error is that of a kind whose outer type is right.
    near = [e for e in errors if e.field != place or not e.problem.startswith("not ")]
    hint = " ".join(filter(None, (_unwrapped(kind)[2] for kind in kinds)))
    whole = Annotated[Union[tuple(kinds)], hint]  # type: ignore[valid-type]  # noqa: UP007
    raise near[0] if near else _error(whole, value, place)


def _refuse(kind: Any, value: Any, place: str, problem: str = "") -> Any:
    raise _error(kind, value, place, problem)


def _error(kind: Any, value: Any, place: str, problem: str = "") -> InputError:
    hint = _unwrapped(kind)[2]
    remedy = " ".join(filter(None, (f"Give {describe(kind)}.", hint)))
    said = problem or f"not {describe(kind, bounds=False)}"
    return InputError(said, field=place, value=value, remedy=remedy)


def _unknown(name: Any, value: Any, known: Iterable[str]) -> InputError:
    near = get_close_matches(str(name), list(known), n=1)
    remedy = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(known)}."
    return InputError("there is no such setting", field=str(name), value=value, remedy=remedy)


def describe(kind: Any, *, bounds: bool = True) -> str:
    """Describe in words the values that an annotation allows."""
    base, within, _ = _unwrapped(kind)
    origin, inner = get_origin(base), get_args(base)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(part, bounds=bounds) for part in inner)
    if origin is Literal:
        return f"one of {', '.join(map(repr, inner))}" if len(inner) > 1 else repr(inner[0])
    if origin is Sequence or (origin is tuple and inner[-1] is ...):
        return f"a list, each of its items {describe(inner[0], bounds=bounds)}"
    if origin is tuple:
        parts = " and ".join(describe(part, bounds=bounds) for part in inner)
        return f"a list of {parts}"
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    found = words.get(base) or ("none" if base in (None, type(None)) else "a table")
    return f"{found} in {within}" if bounds and within else found


def _unwrapped(kind: Any) -> tuple[Any, Within | None, str]:
    """The type inside `Annotated`, its bounds, and its text."""
    if get_origin(kind) is not Annotated:
        return kind, None, ""
    base, *more = get_args(kind)
    within = next((item for item in more if isinstance(item, Within)), None)
    return base, within, next((item for item in more if isinstance(item, str)), "")


def _known(kind: Any) -> bool:
    """Whether all parts of an annotation can be checked."""
    base, _, _ = _unwrapped(kind)
    if get_origin(base) in (Union, types.UnionType, tuple, Sequence, dict):
        return all(part is ... or _known(part) for part in get_args(base))
    return base in (int, float, bool, str, None, type(None)) or get_origin(base) is Literal


def _kinds(record: Any) -> dict[str, Any]:
    """The annotation of each field of a dataclass."""
    if record not in _known_kinds:
        hints = get_type_hints(record, include_extras=True)
        _known_kinds[record] = {f.name: hints[f.name] for f in fields(record)}
    return _known_kinds[record]


_known_kinds: dict[Any, dict[str, Any]] = {}


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool) or type(value).__name__ == "bool"


def _alike(choice: Any, value: Any) -> bool:
    return isinstance(value, type(choice)) and _is_flag(choice) == _is_flag(value)


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
