"""Exact worst cases of few updates by performance estimation: an oracle for T13 and T14.

PEPit finds, over all pairs of convex functions with 1-Lipschitz values, the worst f_lambda gap that
a fixed method can have from distance 1 (arXiv 2201.04040). It does not use this package.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from PEPit import PEP
from PEPit.functions import ConvexLipschitzFunction


def worst_case(turns: str, steps: list[float], records: list[int], lam: float = 0.5) -> float:
    """Largest gap of the mean of the recorded iterates; s, d and m are SFT, DPO and both."""
    pep = PEP()
    sft, dpo = (pep.declare_function(ConvexLipschitzFunction, M=1.0) for _ in "sd")
    both = (1 - lam) * sft + lam * dpo
    best, theta = both.stationary_point(), pep.set_initial_point()
    pep.set_initial_condition((theta - best) ** 2 <= 1)
    path = [theta]
    for turn, step in zip(turns, steps, strict=True):
        followed = {"s": sft, "d": dpo, "m": both}[turn]
        path.append(path[-1] - step * followed.gradient(path[-1]))
    mean = sum((path[i] for i in records[1:]), path[records[0]]) / len(records)
    pep.set_performance_metric(both(mean) - both(best))
    return float(pep.solve(verbose=0))


def decaying(updates: int) -> list[float]:
    """T13's steps for r = G = 1."""
    return [(updates + 1 - t) / (updates + 1) ** 1.5 for t in range(1, updates + 1)]


@pytest.mark.parametrize("updates", [1, 2, 3, 4])
def test_linear_decay_is_exactly_as_good_as_its_bound(updates):
    worst = worst_case("m" * updates, decaying(updates), [updates])
    assert worst == pytest.approx(1 / np.sqrt(updates + 1), rel=1e-3)


def test_a_longer_step_is_worse():
    assert worst_case("mmm", [2 * s for s in decaying(3)], [3]) > 1.1 / np.sqrt(4)


@pytest.mark.parametrize(("rounds", "length"), [(1, 2), (2, 2), (3, 2), (2, 4)])
def test_rounds_are_never_worse_than_their_bound(rounds, length):
    turns = ("s" * (length // 2) + "d" * (length // 2)) * rounds
    steps = [1 / (length * np.sqrt(rounds))] * len(turns)
    starts = list(range(0, len(turns), length))
    assert worst_case(turns, steps, starts) <= 1 / np.sqrt(rounds) + 1e-4


def test_the_worst_case_falls_with_the_number_of_turns():
    gaps = [worst_case(turns, decaying(4), [4]) for turns in ("ssdd", "sdsd", "mmmm")]
    assert all(worse > better for worse, better in pairwise(gaps))
