"""Experiments as TOML files, which `read_experiment` reads back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

from tradeoff.errors import InputError
from tradeoff.llm.config import Experiment
from tradeoff.records import replacing


def to_toml(experiment: Experiment) -> str:
    """All settings of an experiment, defaults too, with a table for each part.

    Raises
    ------
    InputError
        If a setting is ``None`` where that is not its default: TOML has no such value.
    """
    kind = type(experiment.make_schedule())
    plain = Experiment(schedule=kind().to_dict())
    return "\n".join(_lines(asdict(experiment), asdict(plain), ())).lstrip() + "\n"


def write_experiment(path: str | PathLike[str], experiment: Experiment) -> Path:
    """Write :func:`to_toml` to a file, complete or not at all."""
    text, target = to_toml(experiment), Path(path)
    with replacing(target) as partial:
        partial.write_text(text, encoding="utf-8")
    return target


def _lines(
    table: Mapping[str, Any], defaults: Mapping[str, Any], place: tuple[str, ...]
) -> Iterator[str]:
    inner = {name: value for name, value in table.items() if isinstance(value, dict)}
    for name, value in table.items():
        if name in inner:
            continue
        if value is not None:
            yield f"{name} = {_value(value)}"
        elif defaults.get(name) is not None:
            raise InputError(
                "a TOML file cannot say that a setting is none",
                field=".".join((*place, name)),
                remedy="Give a number that is large enough to have the same effect.",
            )
    for name, value in inner.items():
        yield f"\n[{'.'.join((*place, name))}]"
        yield from _lines(value, defaults.get(name) or {}, (*place, name))


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(item) for item in value)}]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    # JSON writes texts, truth values and finite numbers as TOML does.
    return json.dumps(value, ensure_ascii=False)
