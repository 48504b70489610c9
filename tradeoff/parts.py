"""Parts of a method: small frozen dataclasses that have a name and are stored as JSON.

A part fills one slot of a method, such as a schedule or a loss. Parts of this package have short
names. Any other part has the name ``package.module:Name``, by which it is imported.
"""

from __future__ import annotations

import os
import sys
from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import Any, ClassVar, TypeVar

from tradeoff.errors import InputError
from tradeoff.settings import build, check

GROUP = "tradeoff.methods"
"""Entry-point group in which an installed package declares its methods and parts."""
SCALES = ("convex", "networks", "llm")
"""Where a method can run: exact convex problems, small networks, language models."""

P = TypeVar("P", bound="Part")


@dataclass(frozen=True, kw_only=True)
class Part(ABC):
    """One slot of a method.

    Attributes
    ----------
    name
        Short name, a class attribute; unique among the parts of its kind.
    kind
        Its slot, such as "schedule", "sft" or "gradient", a class attribute.
    title
        Name for legends, a class attribute; the short name if it is empty.
    source
        Where it was published: an arXiv number, with the equation if there is one.
    """

    name: ClassVar[str]
    kind: ClassVar[str]
    title: ClassVar[str] = ""
    source: ClassVar[str] = ""

    def __post_init__(self) -> None:
        check(self)

    @property
    def label(self) -> str:
        """Name for legends."""
        return self.title or self.name

    @property
    def key(self) -> str:
        """Name under which results are stored: the short name, and settings that differ.

        These are the settings without their default, by name and with all digits, in the order of
        the fields and without ``lam``, such as "mgda-scaled=length". So parts with different
        settings have different keys.
        """
        differ = [
            f"{item.name}={_plain(getattr(self, item.name))}"
            for item in fields(self)
            if item.name != "lam" and getattr(self, item.name) != item.default
        ]
        return "-".join([self.name, *differ])

    def at(self: P, lam: float) -> P:
        """The same part at another weight of the preference objective, in [0, 1]."""
        weighted: dict[str, Any] = {"lam": lam} if "lam" in self.__dataclass_fields__ else {}
        return replace(self, **weighted)

    def unsupported(self, scale: str) -> str | None:
        """Reason why it cannot run at a scale of :data:`SCALES`, as a clause; None if it can."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """Description as JSON values, from which :func:`restore` makes the part."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {"name": address(type(self)), **{k: _plain(v) for k, v in values.items()}}

    @classmethod
    def from_settings(cls: type[P], settings: Mapping[str, Any]) -> P:
        """Make the part from settings of a JSON file, where tuples are lists."""
        return build(cls, settings)


def address(kind: type) -> str:
    """The name under which a class is stored: its short name, or ``package.module:Name``."""
    if kind.__module__.partition(".")[0] == __name__.partition(".")[0]:
        return str(kind.name)  # type: ignore[attr-defined]
    return f"{kind.__module__}:{kind.__qualname__}"


def restore(description: Mapping[str, Any], known: Mapping[str, type[P]], kind: str) -> P:
    """Make a part from its description.

    Parameters
    ----------
    description
        A name and settings, as :meth:`Part.to_dict` returns them.
    known
        Parts of this package by name.
    kind
        Required kind, see :class:`Part`; messages name it.

    Raises
    ------
    InputError
        If the name or a setting is unknown, or a value cannot be used.
    """
    if not isinstance(description, Mapping):
        raise InputError(
            f"a {kind} is described by its name and settings",
            value=description,
            remedy='Use a mapping such as {"name": "mix", "lam": 0.5}.',
        )
    settings = dict(description)
    return find_class(settings.pop("name", None), known, kind).from_settings(settings)


def find_class(name: Any, known: Mapping[str, type[P]], kind: str) -> type[P]:
    """Find the class of a part: in this package, an installed one, or by ``package.module:Name``.

    Raises
    ------
    InputError
        If there is no such class of this kind.
    """
    if isinstance(name, str) and name in known:
        return known[name]
    found = load(name) if isinstance(name, str) and ":" in name else installed(name)
    if found is None:
        remedy = f"Use one of {sorted(known)}, or package.module:Name."
        raise InputError(f"unknown {kind}", field="name", value=name, remedy=remedy)
    if not (isinstance(found, type) and issubclass(found, Part) and found.kind == kind):
        remedy = f"Name a class whose kind is {kind!r}, see tradeoff.parts.Part."
        raise InputError(f"this is no {kind}", field="name", value=name, remedy=remedy)
    return found  # type: ignore[return-value]


def load(name: str, field: str = "name") -> Any:
    """Import ``package.module:Name``; modules in the current folder are found too.

    Parameters
    ----------
    name
        The module and the name in it.
    field
        What the name was given for, for the error.

    Raises
    ------
    InputError
        If the module or the name does not exist, or the module fails while it is imported.
    """
    module, _, path = name.partition(":")
    remedy = "Give package.module:Name, of a module that Python can import from here."
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        found = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        problem = f"there is no module {error.name!r}"
        raise InputError(problem, field=field, value=name, remedy=remedy) from error
    except AttributeError as error:
        raise InputError(str(error), field=field, value=name, remedy=remedy) from error
    except Exception as error:
        problem = f"the module cannot be imported: {type(error).__name__}: {error}"
        raise InputError(problem, field=field, value=name, remedy="Correct it.") from error
    return found


def installed(name: Any) -> Any:
    """Load the entry point of this name in the group :data:`GROUP`; None if there is none."""
    found = [e for e in entry_points(group=GROUP) if e.name == name]
    return load(found[0].value) if found else None


def collected(package: str, base: type[P]) -> dict[str, type[P]]:
    """Collect the parts that the modules of a package define, by name.

    They are in the order of modules, and of lines within a module.

    Parameters
    ----------
    package
        Name of the package; all of its modules are imported.
    base
        Base class of the parts.
    """
    found: dict[str, type[P]] = {}
    paths = import_module(package).__path__
    for module in sorted(info.name for info in iter_modules(paths)):
        for kind in vars(import_module(f"{package}.{module}")).values():
            own = isinstance(kind, type) and kind.__module__ == f"{package}.{module}"
            if own and issubclass(kind, base) and "name" in vars(kind):
                found[kind.name] = kind
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Part):
        return value.to_dict()
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value
