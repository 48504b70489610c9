"""Methods by name: those of this package, of installed packages, and of the user's own modules."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from tradeoff.errors import InputError
from tradeoff.methods.method import IDENTITY, KNOWN, Method
from tradeoff.methods.presets import PRESETS
from tradeoff.parts import Part, installed, load
from tradeoff.schedules import Alright, Constrained, Maxright, Mix, Rounds, Schedule, Sequential

METHODS: dict[str, Method] = {
    "sft-dpo": Method(Sequential()),
    "dpo-sft": Method(Sequential(first="preference")),
    "rounds": Method(Rounds()),
    "mix": Method(Mix()),
    "alright": Method(Alright()),
    "maxright": Method(Maxright()),
    "constrained": Method(Constrained()),
}
"""Schedules alone, by the names of the command line."""


def names() -> list[str]:
    """Names that :func:`find` knows without the user's own: methods, then parts, then presets."""
    parts = [name for slot, same in IDENTITY.items() for name in KNOWN[slot] if name != same.name]
    return [*METHODS, *parts, *PRESETS]


def find(name: str, lam: float | None = None) -> Method:
    """The method of a name.

    Parameters
    ----------
    name
        A name of :data:`METHODS` or of :data:`tradeoff.methods.presets.PRESETS`; of a schedule or
        of another part; of an entry point in the group ``tradeoff.methods``; or
        ``package.module:Name``. Several, joined by ``+``, make one method, such as
        ``"alright+simpo"``. Without a schedule among them it is Mix, or Sequential if a part needs
        stages.
    lam
        Weight of the preference objective; that of the method by default.

    Raises
    ------
    InputError
        If a name is not known, is no method or part, or two of them fill one slot.

    Examples
    --------
    >>> find("mix+pcgrad", lam=0.3).label
    'Mix, PCGrad'
    """
    slots: dict[str, Any] = {}
    title = ""
    for word in name.split("+"):
        found = _one(word.strip())
        title = title or (found.name if isinstance(found, Method) else "")
        for slot, part in _filled(found).items():
            if slot in slots:
                raise InputError(
                    f"two parts fill the slot {slot!r}",
                    field="method",
                    value=name,
                    remedy="Name one part for each slot.",
                )
            slots[slot] = part
    default = Sequential() if any(getattr(p, "staged", False) for p in slots.values()) else Mix()
    method = Method(slots.pop("schedule", default), name="" if "+" in name else title, **slots)
    return method if lam is None else method.at(lam)


def _filled(found: Method | Part) -> dict[str, Part]:
    """The slots that a method or a part takes."""
    if isinstance(found, Method):
        return {"schedule": found.schedule, **found.changed()}
    return {found.kind: found}


def _one(name: str) -> Method | Part:
    if name in METHODS:
        return METHODS[name]
    if name in PRESETS:
        return PRESETS[name]
    for known in KNOWN.values():
        if name in known:
            return _made(known[name], name)
    found = load(name, "method") if ":" in name else installed(name)
    if found is None:
        raise InputError(
            "unknown method",
            field="method",
            value=name,
            remedy=f"{_meant(name)}Schedules are {', '.join(METHODS)}. All {len(names())} names: "
            "tradeoff.methods.names(). Methods of your own: package.module:Name.",
        )
    return _made(found, name)


def _meant(name: str) -> str:
    """Names that resemble an unknown one, as a question; empty if there is none."""
    close = get_close_matches(name, names())
    return f"Did you mean {' or '.join(close)}? " if close else ""


def _made(found: Any, name: str) -> Method | Part:
    """A method or part from what a name stands for: itself, its class, or a function of it."""
    made = found
    if callable(found) and not isinstance(found, Method | Part):
        try:
            made = found()
        except TypeError as error:
            raise InputError(
                f"it cannot be made without arguments: {error}",
                field="method",
                value=name,
                remedy="Give every setting a default, or name an object.",
            ) from error
    if isinstance(made, Method) or (isinstance(made, Part) and made.kind in KNOWN):
        return made
    raise InputError(
        f"this is no method, but a {type(made).__name__}",
        field="method",
        value=name,
        remedy="Name a Method, a schedule or another part, or a class of one.",
    )


def restored(description: Any) -> Method:
    """A method from what is stored of it, or from what a user wrote.

    Parameters
    ----------
    description
        A method; a schedule; a name, see :func:`find`; or a description by ``to_dict`` of a method
        or of a schedule.
    """
    if isinstance(description, Method | Schedule):
        return Method.of(description)
    if isinstance(description, str):
        return find(description)
    if isinstance(description, Mapping) and "schedule" not in description:
        return Method.from_dict({"schedule": description})
    return Method.from_dict(description)
