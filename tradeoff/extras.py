"""Extras of the package: the packages of each, and the error for an absent package.

The core is the convex laboratory. Other modules raise the error when they are imported or called.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from tradeoff.errors import InputError

_NETS = ("torch", "safetensors", "tokenizers")
_LLM = ("transformers", "accelerate", "peft", "datasets", "pydantic", "filelock", "psutil")
EXTRAS: dict[str, tuple[str, ...]] = {
    "nets": _NETS,
    "llm": (*_NETS, *_LLM),
    "smollm": (*_NETS, *_LLM, "gguf"),
    "trl": (*_NETS, *_LLM, "yaml", "trl"),
    "text": ("sklearn",),
    "parquet": ("pyarrow",),
    "study": ("pyarrow", "joblib", "threadpoolctl"),
    "proofs": ("sympy",),
    "report": ("jinja2", "PIL", "markdown_it", "mdit_py_plugins", "latex2mathml"),
    "cluster": ("distributed", "ray"),
}
"""Packages of each extra, by import name; an extra comes after the extras that it includes."""


class MissingPackage(InputError, ModuleNotFoundError):
    """The error for an absent package that an extra installs.

    Parameters
    ----------
    package
        The import name of the package.
    extra
        The extra that installs it.
    """

    def __init__(self, package: str, extra: str) -> None:
        remedy = f"Install it: pip install 'tradeoff[{extra}]'."
        super().__init__(f"this needs the package {package}, which is not installed", remedy=remedy)
        self.name = package


def require(extra: str, *packages: str) -> None:
    """Raise :class:`MissingPackage` unless an extra is installed.

    Parameters
    ----------
    extra
        The extra that the error names.
    packages
        Packages of the extra that are needed; by default all.
    """
    for package in packages or EXTRAS[extra]:
        if find_spec(package) is None:
            raise MissingPackage(package, extra)


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """Raise an error that names the extra if an import in the block misses one of its packages."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise explained(error, extra) from error


def explained(error: ModuleNotFoundError, *extras: str) -> ModuleNotFoundError:
    """Return the error that names the extra of the missing package, or the error itself.

    Only ``extras`` are considered, or all if none are given.
    """
    package = (error.name or "").partition(".")[0]
    for extra in extras or EXTRAS:
        if package in EXTRAS[extra] and not isinstance(error, MissingPackage):
            return MissingPackage(package, extra)
    return error
