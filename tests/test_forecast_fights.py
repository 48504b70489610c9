"""Which rows fight: exact influence against finite differences, and planted contradictions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tradeoff.convex.instances import random_log_linear
from tradeoff.errors import InputError
from tradeoff.forecast.fights import auroc, gradient_conflict, influence, price, row_losses

SMALL = {"prompts": 6, "responses": 4, "dimension": 5, "demonstrations": 10, "pairs": 12}


@pytest.mark.parametrize("lam", [0.3, 0.8])
def test_influence_is_the_derivative_of_the_price(lam: float):
    problem = random_log_linear(3, **SMALL)
    sft, pairs = influence(problem, price(problem, lam))
    step = 1e-4
    for name, found, count in (("demonstration", sft, 10), ("pair", pairs, 12)):
        for row in (0, count // 2):
            values = []
            for sign in (1, -1):
                # Weights sum to one before they are normalised, as the derivative says.
                weights = np.full(count, 1 / count)
                weights[row] += sign * step
                moved = replace(problem, **{f"{name}_weights": weights})
                values.append(price(moved, lam).value)
            slope = (values[0] - values[1]) / (2 * step)
            assert found[row] == pytest.approx(slope, rel=1e-3, abs=1e-5), (name, row)


def test_influences_of_all_rows_cancel():
    """More weight on all rows of a set changes nothing."""
    problem = random_log_linear(4, **SMALL)
    for found in influence(problem, price(problem)):
        assert np.mean(found) == pytest.approx(0, abs=1e-10)


def test_row_losses_average_to_the_losses():
    problem = random_log_linear(5, **SMALL)
    theta = np.random.default_rng(0).standard_normal(5)
    found = [values.mean() for values in row_losses(problem, theta)]
    np.testing.assert_allclose(found, problem.losses(theta), rtol=1e-12)


def test_the_price_is_never_negative_and_zero_where_one_policy_serves_both():
    problem = random_log_linear(6, **SMALL)
    found = price(problem, 0.4)
    assert found.value > found.certificate
    # At weight 0 nothing is asked of the policy but to minimise the SFT loss.
    assert abs(price(problem, 0.0).value) <= 2 * found.certificate


def test_gradients_find_rows_that_point_against_the_other_set():
    rng = np.random.default_rng(0)
    mean = rng.standard_normal(20)
    pairs = mean + 0.3 * rng.standard_normal((30, 20))
    planted = np.arange(40) < 6
    shown = np.where(planted, -1, 1)[:, None] * mean + rng.standard_normal((40, 20))
    scores, _ = gradient_conflict(shown, pairs)
    assert auroc(scores, planted) > 0.95
    assert auroc(-scores, planted) < 0.05


def test_auroc_counts_ties_as_half_and_needs_both_kinds():
    assert auroc(np.zeros(4), np.array([True, False, True, False])) == 0.5
    assert auroc(np.array([3.0, 1.0, 2.0]), np.array([True, False, False])) == 1.0
    with pytest.raises(InputError, match="one kind"):
        auroc(np.zeros(2), np.array([True, True]))
