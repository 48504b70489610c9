"""Values of a file of settings, by the types of the fields that they are given for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_WORD = re.compile(r"\w+")
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_SAID = {"bool": "true or false", "int": "a whole number", "float": "a number"}
_SAID |= {"list": "a list", "dict": "a mapping", "str": "a text"}


def typed(
    given: Mapping[str, Any], kinds: Mapping[str, str], file: Path, problems: list[str]
) -> dict[str, Any]:
    """The values, with texts as the numbers that YAML does not see in them, such as 2e-5.

    The command line of TRL reads them likewise, by the type of the field. A value of another type
    is a problem and left out, and so is an empty value where None is not one of the types: such a
    field has its default.
    """
    read = dict(given)
    for name in [name for name in given if name in kinds]:
        value, words = given[name], set(_WORD.findall(kinds[name]))
        try:
            if value is None and "None" not in words:
                del read[name]
            elif value is not None:
                read[name] = _as(value, words)
        except (KeyError, ValueError):
            fitting = " or ".join(said for kind, said in _SAID.items() if kind in words)
            problems.append(f"{file.name}: {name} = {value!r} (give {fitting})")
            del read[name]
    return read


def _as(value: Any, words: set[str]) -> Any:
    """The value for a field of these types; a ValueError or KeyError if it has none of them."""
    if not words & _SAID.keys():
        return value
    if isinstance(value, str):
        if "str" in words or not words & {"bool", "int", "float"}:
            return value
        return _TRUTH[value.strip().lower()] if "bool" in words else _number(float(value), words)
    if isinstance(value, bool):
        # YAML reads a bare `no`, such as that of eval_strategy, as false.
        found = "no" if not value and words & {"IntervalStrategy", "SaveStrategy"} else value
        fits = "bool" in words or found is not value
    elif isinstance(value, int | float):
        if words & {"int", "float"}:
            return _number(value, words)
        found, fits = str(value), "str" in words
    else:
        found, fits = value, type(value).__name__ in words
    if not fits:
        raise ValueError
    return found


def _number(value: float, words: set[str]) -> float:
    if "int" in words and float(value).is_integer():
        return int(value)
    if "float" not in words:
        raise ValueError
    return value
