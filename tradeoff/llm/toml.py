"""Experiments as TOML files, which `read_experiment` reads back."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

from tradeoff.errors import InputError
from tradeoff.llm.config import Experiment
from tradeoff.records import replacing


def to_toml(experiment: Experiment, *, skip_unwritable: bool = False) -> str:
    """Write all settings of an experiment, with defaults, as a table for each part.

    Parameters
    ----------
    experiment
        The settings.
    skip_unwritable
        Leave out the settings of :func:`unwritable`.

    Raises
    ------
    InputError
        If a setting is ``None`` and this is not its default, as TOML has no such value.
    """
    if (absent := unwritable(experiment)) and not skip_unwritable:
        raise InputError(
            "a TOML file cannot store None",
            field=absent[0],
            remedy="Give a number that is large enough to have the same effect.",
        )
    return "\n".join(_lines(asdict(experiment), ())).lstrip() + "\n"


def unwritable(experiment: Experiment) -> list[str]:
    """Dotted names of settings that are ``None`` although this is not their default."""
    kind = type(experiment.make_schedule())
    plain = Experiment(schedule=kind().to_dict())
    return list(_unwritable(asdict(experiment), asdict(plain), ()))


def write_experiment(path: str | PathLike[str], experiment: Experiment) -> Path:
    """Write :func:`to_toml` to a file, which appears only when complete."""
    text, target = to_toml(experiment), Path(path)
    with replacing(target) as partial:
        partial.write_text(text, encoding="utf-8")
    return target


def _unwritable(
    table: Mapping[str, Any], defaults: Mapping[str, Any], place: tuple[str, ...]
) -> Iterator[str]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _unwritable(value, defaults.get(name) or {}, (*place, name))
        elif value is None and defaults.get(name) is not None:
            yield ".".join((*place, name))


def _lines(table: Mapping[str, Any], place: tuple[str, ...]) -> Iterator[str]:
    inner = {name: value for name, value in table.items() if isinstance(value, dict)}
    for name, value in table.items():
        if name not in inner and value is not None:
            yield f"{_key(name)} = {_value(value)}"
    for name, value in inner.items():
        yield f"\n[{'.'.join(map(_key, (*place, name)))}]"
        yield from _lines(value, (*place, name))


def _key(name: str) -> str:
    """A key in TOML: ``sft.prompt`` without quotes would be a table within a table."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        given = {name: inner for name, inner in value.items() if inner is not None}
        return f"{{ {', '.join(f'{name} = {_value(inner)}' for name, inner in given.items())} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(item) for item in value)}]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    # JSON writes texts, truth values and finite numbers as TOML does.
    return json.dumps(value, ensure_ascii=False)
