"""Post-training as two objectives and a rule that decides which of them each update follows.

The public names below are imported when first used, so that ``import tradeoff`` stays light.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "Alright": "schedules",
    "Analysis": "conflict",
    "Checked": "theory.checked",
    "Constrained": "schedules",
    "Front": "convex",
    "InputError": "errors",
    "Interval": "scores",
    "LogLinear": "convex",
    "Maxright": "schedules",
    "Minimum": "convex",
    "Mix": "schedules",
    "Quadratic": "convex",
    "Rounds": "schedules",
    "Rows": "data",
    "Schedule": "schedules",
    "Sequential": "schedules",
    "StepSize": "convex",
    "Trajectories": "convex",
    "analyse": "conflict",
    "binary_example": "convex",
    "interval": "scores",
    "minimise": "convex",
    "minimise_max_gap": "convex",
    "paired_difference": "scores",
    "pareto_front": "convex",
    "random_log_linear": "convex",
    "random_quadratic": "convex",
    "read_preferences": "data",
    "read_sft": "data",
    "simulate": "convex",
    "text_problem": "convex.text",
    "trajectories": "convex",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("tradeoff")
    if name in _HOME:
        return getattr(import_module(f"tradeoff.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
