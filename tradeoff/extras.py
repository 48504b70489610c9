"""Extras: which one brings which package, and the error where a package is absent.

The core is the convex laboratory. What needs more says so when it is imported or called.
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
    "report": ("jinja2", "plotly", "markdown_it", "mdit_py_plugins", "latex2mathml"),
    "cluster": ("distributed", "ray"),
}
"""What each extra brings, by the names that are imported; the smaller of two extras comes first."""


class MissingPackage(InputError, ModuleNotFoundError):
    """A package that an extra installs, and that is absent.

    Parameters
    ----------
    package
        The name that was imported.
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
        The extra to name to the user.
    packages
        What is needed of it; by default all that it brings.
    """
    for package in packages or EXTRAS[extra]:
        if find_spec(package) is None:
            raise MissingPackage(package, extra)


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """Name the extra when one of its packages is imported in the block and is absent."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise explained(error, extra) from error


def explained(error: ModuleNotFoundError, *extras: str) -> ModuleNotFoundError:
    """The error that names one of these extras, or of all; without such a one, the error itself."""
    package = (error.name or "").partition(".")[0]
    for extra in extras or EXTRAS:
        if package in EXTRAS[extra] and not isinstance(error, MissingPackage):
            return MissingPackage(package, extra)
    return error
