"""A user's file, for type checkers alone: `make type` runs mypy and basedpyright on it.

The public names are imported when first used. Checkers must still know their types, and report a
misspelt name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_type

from tradeoff import (
    Front,
    Minimum,
    Mix,
    minimise,
    pareto_front,
    random_log_linear,
)
from tradeoff.llm import TrainConfig

problem = random_log_linear(0)
assert_type(minimise(problem, 0.5), Minimum)
assert_type(minimise(problem, 0.5).value, float)
assert_type(pareto_front(problem), Front)
assert_type(Mix(lam=0.5), Mix)
assert_type(TrainConfig(steps=1).batch_size, int)

if TYPE_CHECKING:
    from tradeoff import minimize  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]
