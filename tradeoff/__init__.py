"""Post-training as two objectives and a rule that decides which of them each update follows."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("tradeoff")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
