"""What a function's results depend on: the definitions that it reaches, by name, through imports.

The unit is one definition at the top level of a module: a function, a class or a constant. So a
new function in a module asks for nothing anew, and an edit for just what reaches it. Comments,
layout and documentation strings do not count.

Followed are the project's own modules and this package, not what is installed beside them. What a
program finds at run time by a text, such as ``import_module(name)``, cannot be seen here: name
such modules as roots. A module used as a value, or a name that a package makes up in its
``__getattr__``, counts with all of that module and, of a package, all below it.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator, Sequence

from tradeoff.errors import InputError
from tradeoff.study import modules
from tradeoff.study.modules import (
    LOADED,
    WHOLE,
    Dotted,
    Module,
    bindings,
    locate,
    own,
    references,
)

MACHINERY = (__name__, modules.__name__)
"""What computes fingerprints is not followed: it says where a result is kept, not what it is."""


def fingerprint(roots: Sequence[str]) -> str:
    """Hash of all that is reached from ``module:name``, or from modules or packages as a whole.

    Raises
    ------
    InputError
        If there is no Python source for a root.
    """
    parts = []
    for name, part in sorted(reached(roots)):
        module = modules.module(name)
        if name in MACHINERY or module is None:
            continue
        if statements := module.statements(part):
            parts += [f"{name}:{part}", *sorted(ast.dump(s) for s in statements)]
    digest = hashlib.sha256()
    for text in parts:
        digest.update(hashlib.sha256(text.encode()).digest())
    return digest.hexdigest()


def reached(roots: Iterable[str]) -> set[tuple[str, str]]:
    """Pairs (module, part) that the roots reach."""
    seen: set[tuple[str, str]] = set()
    waiting = [node for root in roots for node in _start(root)]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        waiting += _next(*node)
    return seen


def _start(root: str) -> list[tuple[str, str]]:
    name, _, part = root.partition(":")
    if locate(name) is None:
        raise InputError(
            "no Python source is found for a module that results depend on",
            field="depends",
            value=name,
            remedy="Name modules that can be imported and are written in Python; files go as Path.",
        )
    return _resolve(name, (part,)) if part else _whole(name)


def _next(name: str, part: str) -> Iterator[tuple[str, str]]:
    """What one part of a module needs."""
    module = modules.module(name)
    if module is None or not own(name) or name in MACHINERY:
        return
    if part != LOADED:
        yield name, LOADED
    elif "." in name:
        yield name.rpartition(".")[0], LOADED
    statements = module.statements(part) + (module.loads if part == LOADED else [])
    for statement in statements:
        for node in ast.walk(statement):
            for _, target in bindings(node, module):
                yield from _loads(*target)
        for dotted in references(statement):
            yield from _names(module, dotted)


def _names(module: Module, dotted: Dotted) -> Iterator[tuple[str, str]]:
    """What a name, with the attributes read from it, stands for in a module."""
    if dotted[0] in module.definitions:
        yield module.name, dotted[0]
    for origin, path in module.aliases.get(dotted[0], ()):
        if (origin, path) == (module.name, dotted[:1]):  # a package imports from itself
            yield from _resolve(f"{origin}.{dotted[0]}", dotted[1:])
        elif own(origin):
            yield from _resolve(origin, path + dotted[1:])


def _resolve(name: str, path: Dotted) -> list[tuple[str, str]]:
    """Follow a path of attributes from a module as far as it leads through modules."""
    module = modules.module(name)
    if not path:
        return _whole(name)
    if module and (path[0] in module.definitions or path[0] in module.aliases):
        return [(name, LOADED), *_names(module, path)]
    if locate(f"{name}.{path[0]}"):
        return _resolve(f"{name}.{path[0]}", path[1:])
    if module and "__getattr__" in module.definitions:
        return _whole(name)
    return [(name, LOADED)]


def _whole(name: str) -> list[tuple[str, str]]:
    """All of a module and, of a package, all below it."""
    place = locate(name)
    if place is None:
        return []
    below = sorted(place.parent.rglob("*.py")) if place.name == "__init__.py" else [place]
    found = []
    for path in below:
        inner = path.relative_to(place.parent).with_suffix("").parts if path != place else ()
        inner = inner[:-1] if inner[-1:] == ("__init__",) else inner
        found.append((".".join((name, *inner)), WHOLE))
    return found


def _loads(origin: str, path: Dotted) -> Iterator[tuple[str, str]]:
    """The modules that an import runs."""
    if own(origin):
        yield origin, LOADED
        if path and locate(f"{origin}.{path[0]}"):
            yield f"{origin}.{path[0]}", LOADED
