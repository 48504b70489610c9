"""What a function's results depend on: the definitions that it reaches, by name, through imports.

The unit is one definition at the top level of a module: a function, a class or a constant. So a
new function in a module asks for nothing anew, and an edit for just what reaches it. Comments,
layout and documentation strings do not count.

Followed are the project's own modules and this package, not what is installed beside them. A module
used as a value, a star import, or a name that a package makes up in its ``__getattr__``, counts
with all of that module and, of a package, all below it.

What a program finds at run time cannot be seen here: modules by a text, as ``import_module(name)``
does, and functions that a decorator such as ``@register`` has put into a table, where nothing else
names them. Name such modules as roots.
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
"""What computes fingerprints is not followed: it says where a result is kept, not what it is."""
COLLECTED = "collected"
"""The function that finds the parts of a package; where it is called, the whole package counts."""
Read = Callable[[str], Module | None]


def fingerprint(roots: Sequence[str], *, imported: bool = False) -> str:
    """Hash of all that is reached from ``module:name``, or from modules or packages as a whole.

    Parameters
    ----------
    roots
        Names of functions or of modules.
    imported
        Read sources as this process imported them, not as they are on disk now. Known are the
        imports since that of :mod:`tradeoff.study`; earlier ones are taken to be as at that moment.

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
    """Pairs (module, part) that the roots reach, in sources as `read` gives them."""
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
    """What one part of a module needs."""
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
    """What a name, with the attributes read from it, stands for in a module."""
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
        if path == ("*",):
            yield from _whole(origin)
        elif path and locate(f"{origin}.{path[0]}"):
            yield f"{origin}.{path[0]}", LOADED
