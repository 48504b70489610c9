"""Theorems as functions: each evaluates its statement on a problem and returns a `Checked`.

One module per theorem. T1 to T12: `constants`, `certificates`, `growth`, `sequential`, `binary`,
`joint`, `maxright`, `quadratic`, `fronts`, `invariance`, `rlhf`, `forgetting`, `autoregressive`.
T13 to T17: `last_iterate`, `rounds`, `constrained`, `asymptotics`, `lower_bounds`. T18:
`fast_rate`, `tails`, `population`, `minimax`, `token_curvature`, `beta_limits`. `measured` holds
the code that the rate theorems share. `proofs` derives closed forms symbolically, with sympy.
A module is imported when it is first used.
"""

from importlib import import_module
from typing import Any

from tradeoff.theory.checked import Checked

MODULES = (
    "asymptotics",
    "autoregressive",
    "binary",
    "certificates",
    "constants",
    "constrained",
    "fast_rate",
    "forgetting",
    "fronts",
    "growth",
    "invariance",
    "joint",
    "last_iterate",
    "lower_bounds",
    "maxright",
    "measured",
    "minimax",
    "population",
    "proofs",
    "quadratic",
    "rlhf",
    "rounds",
    "sequential",
    "tails",
    "token_curvature",
)

__all__ = ["MODULES", "Checked"]


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return import_module(f"tradeoff.theory.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
