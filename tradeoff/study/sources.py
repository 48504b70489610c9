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
from functools import cache
from pathlib import Path

from tradeoff.errors import InputError
from tradeoff.study import modules
from tradeoff.study.modules import (
    LOADED,
    WHOLE,
    Dotted,
    Module,
    Target,
    bindings,
    own,
    references,
)

MACHINERY = (__name__, modules.__name__)
"""Modules that are not followed: fingerprints determine the address of a result, not the result."""
COLLECTED = "collected"
"""Name of the function that finds the parts of a package; a call counts as the whole package."""


class Files:
    """The source files of modules; each is looked up and read once, whatever happens to it then.

    Parameters
    ----------
    read
        Returns the module of a name.
    """

    def __init__(self, read: Callable[[str], Module | None] = modules.module) -> None:
        self.read: Callable[[str], Module | None] = cache(read)
        self.locate: Callable[[str], Path | None] = cache(modules.locate)


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
    files = Files(modules.imported if imported else modules.module)
    for name, part in sorted(reached(roots, files)):
        module = files.read(name)
        if name in MACHINERY or module is None:
            continue
        if statements := module.statements(part):
            parts += [f"{name}:{part}", *sorted(map(_text, statements))]
    digest = hashlib.sha256()
    for text in parts:
        digest.update(hashlib.sha256(text.encode()).digest())
    return digest.hexdigest()


@cache
def _text(statement: ast.stmt) -> str:
    return ast.dump(statement)


def reached(roots: Iterable[str], files: Files | None = None) -> set[tuple[str, str]]:
    """Pairs (module, part) that the roots reach, in files as they are now, or in those given."""
    files = files or Files()
    seen: set[tuple[str, str]] = set()
    waiting = [node for root in roots for node in _start(root, files)]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        waiting += _next(*node, files)
    return seen


def _start(root: str, files: Files) -> list[tuple[str, str]]:
    name, _, part = root.partition(":")
    if files.locate(name) is None:
        raise InputError(
            "no Python source is found for a module that results depend on",
            field="depends",
            value=name,
            remedy="Name modules that can be imported and are written in Python; files go as Path.",
        )
    return _resolve(name, (part,), files) if part else _whole(name, files)


def _next(name: str, part: str, files: Files) -> Iterator[tuple[str, str]]:
    """Pairs (module, part) that one part of a module needs directly."""
    module = files.read(name)
    if module is None or not own(name) or name in MACHINERY:
        return
    if part != LOADED:
        yield name, LOADED
    elif "." in name:
        yield name.rpartition(".")[0], LOADED
    statements = module.statements(part) + (module.loads if part == LOADED else [])
    for statement in statements:
        targets, collects = _runs(statement, name, module.package)
        for target in targets:
            yield from _loads(*target, files)
        if collects:
            yield from _whole(name if module.package else name.rpartition(".")[0], files)
        for dotted in references(statement):
            yield from _names(module, dotted, files)


@cache
def _runs(statement: ast.stmt, name: str, package: bool) -> tuple[list[Target], bool]:
    """What the imports in a statement of a module name, and whether it collects a package."""
    module, nodes = Module(name, package), list(ast.walk(statement))
    targets = [target for node in nodes for _, target in bindings(node, module)]
    return targets, any(map(_collects, nodes))


def _collects(node: ast.AST) -> bool:
    """Whether a node calls :func:`tradeoff.parts.collected` for its own package."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == COLLECTED
        and isinstance(node.args[0], ast.Name)
        and node.args[0].id in ("__name__", "__package__")
    )


def _names(module: Module, dotted: Dotted, files: Files) -> Iterator[tuple[str, str]]:
    """Targets of a name, with the attributes read from it, in a module."""
    if dotted[0] in module.definitions:
        yield module.name, dotted[0]
    for origin, path in module.aliases.get(dotted[0], ()):
        if (origin, path) == (module.name, dotted[:1]):  # a package imports from itself
            yield from _resolve(f"{origin}.{dotted[0]}", dotted[1:], files)
        elif own(origin):
            yield from _resolve(origin, path + dotted[1:], files)


def _resolve(name: str, path: Dotted, files: Files) -> list[tuple[str, str]]:
    """Follow a path of attributes from a module as far as it leads through modules."""
    module = files.read(name)
    if not path:
        return _whole(name, files)
    if module and (path[0] in module.definitions or path[0] in module.aliases):
        return [(name, LOADED), *_names(module, path, files)]
    if files.locate(f"{name}.{path[0]}"):
        return _resolve(f"{name}.{path[0]}", path[1:], files)
    if module and "__getattr__" in module.definitions:
        return _whole(name, files)
    return [(name, LOADED)]


def _whole(name: str, files: Files) -> list[tuple[str, str]]:
    """The whole of a module and, for a package, of all modules below it."""
    place = files.locate(name)
    if place is None:
        return []
    below = sorted(place.parent.rglob("*.py")) if place.name == "__init__.py" else [place]
    found = []
    for path in below:
        inner = path.relative_to(place.parent).with_suffix("").parts if path != place else ()
        inner = inner[:-1] if inner[-1:] == ("__init__",) else inner
        found.append((".".join((name, *inner)), WHOLE))
    return found


def _loads(origin: str, path: Dotted, files: Files) -> Iterator[tuple[str, str]]:
    """The modules that an import runs."""
    if own(origin):
        yield origin, LOADED
        if path == ("*",):
            yield from _whole(origin, files)
        elif path and files.locate(f"{origin}.{path[0]}"):
            yield f"{origin}.{path[0]}", LOADED
