"""Modules of slow packages, imported when they are first used."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__all__ = ["pandas", "sparse"]


class _Deferred(ModuleType):
    """A proxy for a module, in code and in annotations, that imports it for each attribute."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self.__name__), name)


if TYPE_CHECKING:
    import pandas
    from scipy import sparse
else:
    pandas = _Deferred("pandas")
    sparse = _Deferred("scipy.sparse")
