"""Sources of a function: the definitions that it reaches, by name, through imports.

The unit is one definition at the top level of a module: a function, a class or a constant. So a new
function in a module changes no fingerprint, and an edit changes the fingerprint of all functions
that reach it. Comments, layout and docstrings do not count.

Only modules of the project and of this package are followed, not other installed ones. A module
used as a value, a star import, and a name from the ``__getattr__`` of a package count as the whole
module and, for a package, all modules below it.

Dependencies that exist only at run time are not found: a module imported from a text, as by
``import_module(name)``, and a function that only the table of a decorator such as ``@register``
refers to. Name such modules as roots.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

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
"""Modules that are not followed: fingerprints determine the address of a result, not the result."""
COLLECTED = "collected"
"""Name of the function that finds the parts of a package; a call counts as the whole package."""
Read = Callable[[str], Module | None]


def fingerprint(roots: Sequence[str], *, imported: bool = False) -> str:
    """Hash of all definitions reached from ``module:name``, or from whole modules or packages.

    Parameters
    ----------
    roots
        Names of functions or of modules.
    imported
        Read sources as this process imported them, not as they are on disk now. Modules imported
        before :mod:`tradeoff.study` are taken as they were on disk when that was imported.

    Raises
    ------
    InputError
        If there is no Python source for a root.
    """
    parts = []
    read = modules.imported if imported else modules.module
    for name, part in sorted(reached(roots, read)):
        module = read(name)
        if name in MACHINERY or module is None:
            continue
        if statements := module.statements(part):
            parts += [f"{name}:{part}", *sorted(ast.dump(s) for s in statements)]
    digest = hashlib.sha256()
    for text in parts:
        digest.update(hashlib.sha256(text.encode()).digest())
    return digest.hexdigest()


def reached(roots: Iterable[str], read: Read = modules.module) -> set[tuple[str, str]]:
    """Pairs (module, part) that the roots reach, in the sources that `read` returns."""
    seen: set[tuple[str, str]] = set()
    waiting = [node for root in roots for node in _start(root, read)]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        waiting += _next(*node, read)
    return seen


def _start(root: str, read: Read) -> list[tuple[str, str]]:
    name, _, part = root.partition(":")
    if locate(name) is None:
        raise InputError(
            "no Python source is found for a module that results depend on",
            field="depends",
            value=name,
            remedy="Name modules that can be imported and are written in Python; files go as Path.",
        )
    return _resolve(name, (part,), read) if part else _whole(name)


def _next(name: str, part: str, read: Read) -> Iterator[tuple[str, str]]:
    """Pairs (module, part) that one part of a module needs directly."""
    module = read(name)
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
            if _collects(node):
                yield from _whole(name if module.package else name.rpartition(".")[0])
        for dotted in references(statement):
            yield from _names(module, dotted, read)


def _collects(node: ast.AST) -> bool:
    """Whether a node calls :func:`tradeoff.parts.collected` for its own package."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == COLLECTED
        and isinstance(node.args[0], ast.Name)
        and node.args[0].id in ("__name__", "__package__")
    )


def _names(module: Module, dotted: Dotted, read: Read) -> Iterator[tuple[str, str]]:
    """Targets of a name, with the attributes read from it, in a module."""
    if dotted[0] in module.definitions:
        yield module.name, dotted[0]
    for origin, path in module.aliases.get(dotted[0], ()):
        if (origin, path) == (module.name, dotted[:1]):  # a package imports from itself
            yield from _resolve(f"{origin}.{dotted[0]}", dotted[1:], read)
        elif own(origin):
            yield from _resolve(origin, path + dotted[1:], read)


def _resolve(name: str, path: Dotted, read: Read) -> list[tuple[str, str]]:
    """Follow a path of attributes from a module as far as it leads through modules."""
    module = read(name)
    if not path:
        return _whole(name)
    if module and (path[0] in module.definitions or path[0] in module.aliases):
        return [(name, LOADED), *_names(module, path, read)]
    if locate(f"{name}.{path[0]}"):
        return _resolve(f"{name}.{path[0]}", path[1:], read)
    if module and "__getattr__" in module.definitions:
        return _whole(name)
    return [(name, LOADED)]


def _whole(name: str) -> list[tuple[str, str]]:
    """The whole of a module and, for a package, of all modules below it."""
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
        if path == ("*",):
            yield from _whole(origin)
        elif path and locate(f"{origin}.{path[0]}"):
            yield f"{origin}.{path[0]}", LOADED
