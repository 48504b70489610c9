"""The figures of T13, T14 and T17 show what their titles state, in their fast form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from analysis.fernando2024.convex import interleaving, last_iterate

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("module", [interleaving, last_iterate])
def test_captions_are_short_and_say_what_varies(module: Any) -> None:
    assert len(module.CAPTION.split()) < 80
    for part in ("n = ", "aries", f"python -m analysis {module.__name__.split('.')[-1]}."):
        assert part in module.CAPTION


def test_last_iterates_stay_below_a_bound_far_below_the_old_one(
    numbers: Callable[[str], dict[str, Any]],
) -> None:
    found = numbers("last_iterate")
    for method, curve in found["last"].items():
        mean = np.array(curve["mean"])
        assert np.all(mean <= curve["bound"])
        assert mean[-1] < mean[0]
        assert found["new_bound_over_old"][method] < 0.05
    assert min(found["sequential"]["mean"]) > max(found["last"]["alright"]["mean"])
    for ratios in found["measured_over_bound"].values():
        assert 0.49 < ratios[-1] < ratios[0] < 1


def test_more_rounds_buy_most_of_the_joint_gain(numbers: Callable[[str], dict[str, Any]]) -> None:
    found = numbers("interleaving")
    bought = np.array(found["bought"])
    assert np.all(bought[:, 0] == 0)
    assert np.median(bought[:, 3:]) > 0.8
    assert found["shown"]["gap"][0] > 1.2 * min(found["shown"]["gap"])
    # The grid contains the best steps, except for at most a tenth of the choices.
    assert found["steps_at_an_edge"] <= 0.1 * found["choices"]


def test_the_first_number_of_rounds_that_buys_enough() -> None:
    assert interleaving.first_to_buy(np.array([0.0, 0.5, 0.95, 0.8])) == 4
    assert interleaving.first_to_buy(np.zeros(4)) == float("inf")
    low, high = interleaving.median_interval(list(range(1, 31)))
    assert (low, high) == (10, 21)  # The order statistics of binomial tables for n = 30.
