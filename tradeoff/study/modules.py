"""Definitions and references at the top level of Python files, read without importing them.

Once imported, this module also stores the text of each file of the project that the process
imports. So sources that were edited later can be told from those that the process runs.
"""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

Dotted = tuple[str, ...]
Target = tuple[str, Dotted]
"""A module and a path of attributes from it."""
LOADED, WHOLE = "", "*"
"""Parts of a module beside its names: the statements that run on import, and the whole module."""


@dataclass
class Module:
    """The top level of one file.

    Attributes
    ----------
    name, package
        Dotted name; whether it is a package's ``__init__``.
    definitions
        Statements that bind each name.
    effects
        Statements that bind no name, such as a call or a loop.
    loads
        Import statements. They run like effects, but their text does not count.
    aliases
        The targets of each imported name, at any level.
    """

    name: str
    package: bool
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    effects: list[ast.stmt] = field(default_factory=list)
    loads: list[ast.stmt] = field(default_factory=list)
    aliases: dict[str, set[Target]] = field(default_factory=dict)

    def statements(self, part: str) -> list[ast.stmt]:
        """The statements of one part, see `LOADED` and `WHOLE`."""
        if part == WHOLE:
            return [s for found in self.definitions.values() for s in found]
        return self.effects if part == LOADED else self.definitions.get(part, [])


def own(name: str) -> bool:
    """Whether a module belongs to the project or to this package, and is not an installed one."""
    return _own_package(name.partition(".")[0]) is True


def _own_package(top: str) -> bool | None:
    """Whether a package is the project's or this one; None where no source file is found."""
    if top not in _PACKAGES and (place := locate(top)):
        _PACKAGES[top] = _own(top, place)
    return _PACKAGES.get(top)


_PACKAGES: dict[str, bool] = {}
STANDARD = Path(sysconfig.get_path("stdlib"))
"""Folder of the standard library."""


def _own(name: str, place: Path) -> bool:
    if name.partition(".")[0] == "tradeoff":
        return True
    installed = {"site-packages", "dist-packages"} & set(place.parts)
    return not (installed or place.is_relative_to(STANDARD))


def locate(name: str) -> Path | None:
    """The source file of a module, found without importing it."""
    top, *inner = name.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not inner:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for root in spec.submodule_search_locations or ():
        place = Path(root, *inner)
        for path in (place / "__init__.py", place.with_suffix(".py")):
            if path.is_file():
                return path
    return None


def module(name: str) -> Module | None:
    """The module of a name as it is on disk now, or None where there is no source."""
    place = locate(name)
    return None if place is None else _read(name, place.name == "__init__.py", place.read_bytes())


def imported(name: str) -> Module | None:
    """As :func:`module`, with the text that this process imported, where it is known."""
    place, (seen, text) = locate(name), _TEXTS.get(name, (None, b""))
    if place is None or place != seen or name not in sys.modules:
        return module(name)
    return _read(name, place.name == "__init__.py", text)


_TEXTS: dict[str, tuple[Path, bytes]] = {}
"""The file of each of the project's modules, and its content at the first import."""


class _Watch(MetaPathFinder):
    """Finder that stores the text of a module before its import, and finds no module itself.

    The path is a list or, in a namespace package, an object that behaves like a list.
    """

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> None:
        # A reload does not count: modules that imported a name keep the old function.
        if fullname not in sys.modules and not _installed_with_its_package(fullname):
            spec = PathFinder.find_spec(fullname, path)
            _keep(fullname, Path(spec.origin) if spec and spec.origin else None)


def _installed_with_its_package(name: str) -> bool:
    """Whether a module is part of an installed package, which is imported before it."""
    top, _, inner = name.partition(".")
    return bool(inner) and top in sys.modules and _own_package(top) is False


def _keep(name: str, place: Path | None) -> None:
    _TEXTS.pop(name, None)
    if place and place.suffix == ".py" and _own(name, place):
        with suppress(OSError):
            _TEXTS[name] = place, place.read_bytes()


@lru_cache(maxsize=512)
def _read(name: str, package: bool, text: bytes) -> Module:
    found, tree = Module(name, package), _Bare().visit(ast.parse(text))
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            found.loads.append(statement)
        elif bound := _bound(statement):
            for key in bound:
                found.definitions.setdefault(key, []).append(statement)
        else:
            found.effects.append(statement)
    for node in ast.walk(tree):
        for key, target in bindings(node, found):
            found.aliases.setdefault(key, set()).add(target)
    return found


class _Bare(ast.NodeTransformer):
    """Remove code that an import does not run: docstrings, type-checking and script blocks."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if text else self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | None:
        skipped = ast.unparse(node.test) in NEVER and not node.orelse
        return None if skipped else self.generic_visit(node)


NEVER = ("TYPE_CHECKING", "typing.TYPE_CHECKING", "__name__ == '__main__'")
"""Conditions that are false in a module that a study imports."""


def _bound(statement: ast.stmt) -> list[str]:
    """Names that a statement binds, if binding them is all it does."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    if isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    flat = [e for t in targets for e in (t.elts if isinstance(t, ast.Tuple | ast.List) else [t])]
    names = [t.id for t in flat if isinstance(t, ast.Name)]
    return names if len(names) == len(flat) else []


def bindings(node: ast.AST, within: Module) -> Iterator[tuple[str, Target]]:
    """Yield each name that an import binds, with its target."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            top = alias.name.partition(".")[0]
            yield (alias.asname or top), (alias.name if alias.asname else top, ())
            yield "", (alias.name, ())
    elif isinstance(node, ast.ImportFrom):
        here = within.name.split(".")
        above = here[: len(here) - node.level + within.package] if node.level else []
        origin = ".".join([*above, *([node.module] if node.module else [])])
        for alias in node.names:
            whole = alias.name == "*"
            yield ("" if whole else alias.asname or alias.name), (origin, (alias.name,))


# ---------------------------------------------------------------------- names in use


@cache
def references(statement: ast.stmt) -> frozenset[Dotted]:
    """Names of the module that a statement uses, each with the attributes read from it."""
    return frozenset(_used(statement, frozenset()))


FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


def _used(node: ast.AST, hidden: frozenset[str]) -> Iterator[Dotted]:
    """As `references`, without names that are local to enclosing functions."""
    path: list[str] = []
    while isinstance(node, ast.Attribute):
        path.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        if node.id not in hidden:
            yield (node.id, *reversed(path))
        return
    inside = hidden
    if isinstance(node, FUNCTIONS):
        inside = hidden | _locals(node)
    elif isinstance(node, COMPREHENSIONS):
        # The first iterable is evaluated outside, and may use a name that the loop binds later.
        outside = {n.id for n in ast.walk(node.generators[0].iter) if isinstance(n, ast.Name)}
        inside = hidden | (_stored(g.target for g in node.generators) - outside)
    for name, value in ast.iter_fields(node):
        own = inside if name == "body" or isinstance(node, COMPREHENSIONS) else hidden
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _used(child, own)


def _locals(function: FUNCTIONS) -> frozenset[str]:
    arguments = {n.arg for n in ast.walk(function.args) if isinstance(n, ast.arg)}
    body = function.body if isinstance(function.body, list) else []
    scope = [node for statement in body for node in _scope(statement)]
    free = {name for n in scope if isinstance(n, ast.Global) for name in n.names}
    free |= {
        alias.asname or alias.name.partition(".")[0]
        for n in scope
        if isinstance(n, ast.Import | ast.ImportFrom)
        for alias in n.names
    }
    return frozenset((arguments | _stored(scope)) - free)


def _scope(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all nodes below it that belong to the scope of the same function."""
    yield node
    if not isinstance(node, FUNCTIONS | COMPREHENSIONS | ast.ClassDef):
        for child in ast.iter_child_nodes(node):
            yield from _scope(child)


def _stored(nodes: Iterable[ast.AST]) -> set[str]:
    """Names that some nodes bind: by assignment, or by a definition inside a function."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name | ast.Tuple | ast.List | ast.Starred):
            found |= {
                n.id
                for n in ast.walk(node)
                if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
            }
    return found


# Modules that were imported before are assumed to be unchanged on disk.
for _name in list(sys.modules):
    if own(_name):
        _keep(_name, locate(_name))
sys.meta_path.insert(0, _Watch())
