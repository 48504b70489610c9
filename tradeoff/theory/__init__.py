"""Theorems as functions: each evaluates its statement on a problem and returns a `Checked`.

One module per theorem (T1 to T12 of the design): `constants`, `certificates`, `growth`,
`sequential`, `binary`, `joint`, `maxright`, `quadratic`, `fronts`, `invariance`, `rlhf`,
`forgetting`, `autoregressive`; `proofs` derives the closed forms symbolically and is the only one
that imports sympy. Modules are loaded when they are first used.
"""

from importlib import import_module
from typing import Any

from tradeoff.theory.checked import Checked

MODULES = (
    "autoregressive",
    "binary",
    "certificates",
    "constants",
    "forgetting",
    "fronts",
    "growth",
    "invariance",
    "joint",
    "maxright",
    "proofs",
    "quadratic",
    "rlhf",
    "sequential",
)

__all__ = ["MODULES", "Checked"]


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return import_module(f"tradeoff.theory.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
