"""Schema of a checkpoint's ``state.json``: types of values, and relations between them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from tradeoff.errors import InputError
from tradeoff.llm.config import TrainConfig
from tradeoff.schedules import OBJECTIVES

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
_STRICT_BUT_OPEN = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
Count: TypeAlias = Annotated[int, Field(ge=0)]
Amount: TypeAlias = Annotated[float, Field(ge=0)]
Numbers: TypeAlias = Annotated[list[float | None], Field(min_length=5, max_length=5)]


@dataclass(frozen=True)
class TallyState:
    """Sums since the last log line, see :class:`tradeoff.llm._tally.Tally`."""

    __pydantic_config__ = _STRICT

    updates: tuple[Count, Count]
    sums: dict[str, float]
    counts: tuple[Amount, Amount]
    norms: list[float]


@dataclass(frozen=True)
class KnownState:
    """Losses that the schedule uses, see :class:`tradeoff.llm._gaps.KnownLosses`."""

    __pydantic_config__ = _STRICT

    numbers: Numbers
    probed: Count
    optima: Annotated[list[float | None], Field(min_length=2, max_length=2)] | None = None


@dataclass(frozen=True)
class MeterState:
    """Costs so far, see :class:`tradeoff.llm.meter.Meter`."""

    __pydantic_config__ = _STRICT

    seconds: Amount
    tokens: Count
    flops: Amount


@dataclass(frozen=True)
class Group:
    """Settings of AdamW for some weights; other versions of torch have more or fewer settings."""

    __pydantic_config__ = _STRICT_BUT_OPEN

    params: list[str]
    lr: Amount
    betas: tuple[float, float]
    eps: Amount
    weight_decay: Amount
    amsgrad: bool = False
    maximize: bool = False
    capturable: bool = False
    differentiable: bool = False
    foreach: bool | None = None
    fused: bool | None = None
    decoupled_weight_decay: bool = True


@dataclass(frozen=True)
class OptimizerState:
    """Settings of the optimiser; empty before its first update."""

    __pydantic_config__ = _STRICT

    param_groups: list[Group] | None = None


@dataclass(frozen=True)
class State:
    """The whole content of ``state.json``."""

    __pydantic_config__ = _STRICT

    identity: dict[str, JsonValue]
    step: Count
    date: str | None
    reference: str | None
    optimizer: OptimizerState
    positions: tuple[Count, Count]
    tally: TallyState
    known: KnownState
    meter: MeterState
    files: list[str]
    joining: dict[str, list[float | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class OwnGroup:
    """Settings of a user's own optimiser for some weights."""

    __pydantic_config__ = _STRICT_BUT_OPEN

    params: list[str]
    lr: Amount


@dataclass(frozen=True)
class OwnOptimizerState:
    """Settings of a user's own optimiser and its moments that are numbers, if any."""

    __pydantic_config__ = _STRICT

    param_groups: list[OwnGroup] | None = None
    numbers: dict[str, bool | int | float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class OwnState(State):
    """The whole content of ``state.json`` in a run with a user's own optimiser."""

    optimizer: OwnOptimizerState  # type: ignore[assignment]


_ADAPTER, _OWN = TypeAdapter(State), TypeAdapter(OwnState)


def _adapter(text: str) -> Any:
    try:
        own = json.loads(text)["identity"].get("own_optimizer") is not None
    except (ValueError, KeyError, TypeError, AttributeError):
        own = False
    return _OWN if own else _ADAPTER


def check(text: str, step: int | None) -> None:
    """Check the types of all values, and the relations between counts.

    Parameters
    ----------
    text
        Content of the file.
    step
        Number of updates by the checkpoint's name; None for another name.

    Raises
    ------
    ValueError
        For the first wrong value.
    """
    try:
        found = _adapter(text).validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "state.json"
        raise ValueError(f"state.json: {place}: {first['msg'].lower()}") from error
    done, updates, steps = found.step, found.tally.updates, found.identity.get("steps")
    if step is not None and done != step:
        raise ValueError(f"state.json: step is {done}, and the folder is named for {step}")
    if not isinstance(steps, int) or isinstance(steps, bool) or done > steps:
        raise ValueError(f"state.json: step is {done} in a run of {steps!r} updates")
    if not max(updates) <= done <= sum(updates):
        raise ValueError(f"state.json: {list(updates)} updates do not make up {done}")


def check_positions(path: Path, found: dict[str, Any], config: TrainConfig) -> None:
    """Check that the numbers of rows read and of updates fit for each objective.

    Parameters
    ----------
    path
        The checkpoint, for messages.
    found
        Content of its state.json.
    config
        Settings of the run.

    Raises
    ------
    InputError
        If they do not fit.
    """
    if not config.defects.read_as_followed:
        return
    counts = zip(OBJECTIVES, found["positions"], found["tally"]["updates"], strict=True)
    for objective, (name, rows, updates) in enumerate(counts):
        if rows != updates * config.batch(objective):
            raise InputError(
                f"{updates} {name} updates do not read so many rows",
                file=path / "state.json",
                field=f"positions.{objective}",
                value=rows,
                remedy=f"Remove {path.name}; the run then goes on from the one before.",
            )
