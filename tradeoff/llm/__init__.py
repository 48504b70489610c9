"""Joint post-training of Hugging Face causal language models: needs the extra ``llm``."""

from importlib import import_module
from typing import Any

# Before accelerate and transformers, whose own first import of bars warns in a notebook.
import tradeoff.progress  # noqa: F401
from tradeoff.errors import InputError

_HOME = {
    "Defects": "config",
    "Experiment": "config",
    "JointTrainer": "trainer",
    "Lora": "config",
    "TrainConfig": "config",
    "TrainResult": "trainer",
    "read_experiment": "config",
    "write_experiment": "toml",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        try:
            return getattr(import_module(f"tradeoff.llm.{_HOME[name]}"), name)
        except ModuleNotFoundError as error:
            raise InputError(
                f"tradeoff.llm needs the package {error.name}, which is not installed",
                remedy="Install it: pip install 'tradeoff[llm]'.",
            ) from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
