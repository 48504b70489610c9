"""Addresses of stored runs: a hash of the function, its sources and the configuration.

Runs with the same address must give the same result, so a stored result never becomes stale. An
edit of a source that the function reaches, or of the configuration, changes the address.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tradeoff.errors import InputError
from tradeoff.methods import Method, Part
from tradeoff.study.sources import fingerprint

Configuration = dict[str, Any]
Dependency = str | ModuleType | Path


# ---------------------------------------------------------------------- configurations


def plain(value: Any, key: str = "") -> Any:
    """Convert a value of a configuration to JSON values; methods and parts become dicts.

    Raises
    ------
    InputError
        If JSON cannot represent the value; the error names its key.
    """
    if isinstance(value, Method | Part):
        value = value.to_dict()
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {_name(k, key): plain(v, f"{key}.{k}" if key else str(k)) for k, v in value.items()}
    if isinstance(value, list | tuple | range):
        return [plain(v, f"{key}[{i}]") for i, v in enumerate(value)]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise InputError(
        "a configuration holds what JSON cannot",
        field=key,
        value=value,
        remedy="Use finite numbers, text, true, false, none, and lists and dicts of them.",
    )


def _name(key: Any, parent: str) -> str:
    if isinstance(key, str) and "." not in key:
        return key
    raise InputError(
        "a key of a configuration is not text without dots",
        field=parent or None,
        value=key,
        remedy="Dots join the keys of nested dicts to names of columns; use other names.",
    )


def canonical(configuration: Mapping[str, Any]) -> str:
    """The canonical text of a configuration: ASCII JSON, sorted keys, no spaces."""
    return json.dumps(plain(configuration), sort_keys=True, separators=(",", ":"), allow_nan=False)


# ---------------------------------------------------------------------- functions and sources


@dataclass(frozen=True)
class Task:
    """The name of a function with hashes of its dependencies; small enough to send to workers.

    Attributes
    ----------
    name
        ``module:function``.
    roots
        The function and further modules, from which all sources are reached.
    code, data
        Hashes of these sources and of the data files.
    """

    name: str
    roots: tuple[str, ...]
    code: str
    data: str

    def address(self, configuration: Mapping[str, Any]) -> str:
        """Hexadecimal SHA-256 of the run of a configuration."""
        parts = (self.name, self.code, self.data, canonical(configuration))
        return _hash(part.encode() for part in parts)

    def on(self, files: Sequence[Path]) -> Task:
        """The task of the same function on other data files; its sources are not read again."""
        return replace(self, data=_data(sorted(files)))

    def load(self) -> Callable[[Any], Any]:
        """Import the function, if this process has the sources from which the address was made.

        A module that the function imports only while it runs counts as it is on disk now.

        Raises
        ------
        RuntimeError
            If the sources of this process differ: it imported them before an edit, or it is a
            worker on a machine with other sources. Its results must not be stored under this
            address.
        """
        function, code = _loaded(self.name, self.roots)
        if code != self.code:
            raise RuntimeError(
                f"{self.name}: this process loaded other sources than those that are on disk where"
                " the study was started. Start Python anew after an edit (a reload leaves old"
                " functions in other modules), and install the same sources on every machine of a"
                " cluster."
            )
        return function


def task(function: Callable[[Any], Any] | str, depends: Sequence[Dependency] = ()) -> Task:
    """Describe a module-level function and its dependencies, in place of it in a study.

    Reading the sources takes a second or two for the first time, and a tenth of that later. Give a
    task to :func:`tradeoff.study.run`, :func:`tradeoff.study.collect` and
    :func:`tradeoff.study.status` where they are called many times for one function.

    Parameters
    ----------
    function
        The function, or ``"module:function"``.
    depends
        Dependencies beyond the sources that the function reaches by name. They are paths of data
        files, and modules that it imports at run time, or their names. A package includes all
        files below it.

    Raises
    ------
    InputError
        If the function cannot be imported by its name, or a dependency has no source.
    """
    name = function if isinstance(function, str) else _name_of(function)
    try:
        found = _find(name)
    except Exception as error:
        raise _not_importable(function, f"{type(error).__name__}: {error}") from error
    main = getattr(function, "__module__", None) == "__main__"
    if not (isinstance(function, str) or main or found is function):
        raise _not_importable(function, "its name leads to another object")
    names = [d.__name__ if isinstance(d, ModuleType) else d for d in depends]
    roots = tuple(sorted({name, *(d for d in names if isinstance(d, str))}))
    files = sorted(d for d in names if isinstance(d, Path))
    return Task(name, roots, fingerprint(roots), _data(files))


def _data(files: Sequence[Path]) -> str:
    for path in files:
        if not path.is_file():
            raise InputError(
                "a file that results depend on is missing",
                field="depends",
                value=str(path),
                remedy="Give paths of files; modules go by name.",
            )
    return _hash(part for path in files for part in (path.name.encode(), path.read_bytes()))


def _name_of(function: Callable[[Any], Any]) -> str:
    module = getattr(function, "__module__", None)
    if module == "__main__":
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        module = spec.name if spec else None
    qualified = getattr(function, "__qualname__", None)
    if module is None or qualified is None:
        raise _not_importable(function, "no module that can be imported holds it")
    return f"{module}:{qualified}"


def _find(name: str) -> Callable[[Any], Any]:
    module, _, attribute = name.partition(":")
    found = getattr(import_module(module), attribute)
    if not callable(found):
        raise TypeError(f"{name} is a {type(found).__name__}, not a function")
    return found


@cache
def _loaded(name: str, roots: tuple[str, ...]) -> tuple[Callable[[Any], Any], str]:
    """The function as this process imported it first, and the hash of its sources then."""
    return _find(name), fingerprint(roots, imported=True)


def _not_importable(function: Any, reason: str) -> InputError:
    return InputError(
        f"a study needs a function that others can import by name ({reason})",
        field="function",
        value=function,
        remedy="Define it with `def` at the top level of a module (a file beside the notebook or"
        ' script that starts the study), or give "module:function".',
    )


def _hash(parts: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()
