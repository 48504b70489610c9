"""Scores against moocore, brute force and their invariances."""

import moocore
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradeoff import pareto_front, random_log_linear, scores
from tradeoff.errors import InputError

points = st.lists(st.tuples(st.floats(-2, 3), st.floats(-2, 3)), min_size=1, max_size=12)


@given(points)
def test_hypervolume_agrees_with_moocore(found):
    array = np.array(found)
    expected = moocore.hypervolume(array, ref=[2.0, 2.0])
    assert scores.hypervolume(array, [2.0, 2.0]) == pytest.approx(expected, abs=1e-9)


@given(st.floats(0, 1), st.tuples(st.floats(0, 5), st.floats(0, 5)))
def test_weighted_loss_and_max_gap_are_what_they_say(lam, pair):
    losses = list(pair)
    assert scores.weighted_loss(losses, lam) == pytest.approx(
        (1 - lam) * losses[0] + lam * losses[1]
    )
    assert scores.max_gap(losses, [0.1, 0.2], lam) == pytest.approx(
        max((1 - lam) * (losses[0] - 0.1), lam * (losses[1] - 0.2))
    )


def test_front_gap_of_a_straight_front_is_the_distance_along_the_ranges():
    # The front s + d = 1 minimises f_lambda at an end: V(l) = min(l, 1 - l).
    weights, values, ranges = [0.0, 0.5, 1.0], [0.0, 0.5, 0.0], [1.0, 1.0]
    gap, matched = scores.front_gap([[0.5, 0.5], [0.75, 0.75], [0.0, 1.0]], weights, values, ranges)
    np.testing.assert_allclose(gap, [0.0, 0.25, 0.0], atol=1e-12)
    assert matched[1] == 0.5


@given(st.floats(0.1, 10), st.floats(-3, 3), st.tuples(st.floats(1, 4), st.floats(1, 4)))
def test_front_gap_and_matched_place_ignore_the_units_of_a_loss(scale, shift, losses):
    front = np.array([[0.0, 1.0], [0.3, 0.3], [1.0, 0.0]])

    def place(points, loss):
        edge = np.diff(points, axis=0)
        weights = np.concatenate([[0.0], edge[:, 0] / (edge[:, 0] - edge[:, 1]), [1.0]])
        values = scores.weighted_loss(points, weights[:, None]).min(axis=1)
        return scores.front_gap(loss, weights, values, np.ptp(points, axis=0))[0]

    unit, offset = np.array([scale, 1.0]), np.array([shift, 0.0])
    changed = place(front * unit + offset, np.array(losses) * unit + offset)
    assert changed == pytest.approx(place(front, np.array(losses)), abs=1e-9)


def test_ideal_distance_depends_on_units_unless_scaled():
    assert scores.ideal_distance([3.0, 4.0], [0.0, 0.0]) == pytest.approx(5.0)
    assert scores.ideal_distance([3.0, 4.0], [0.0, 0.0], [3.0, 4.0]) == pytest.approx(np.sqrt(2))


def test_retention_and_forgetting():
    assert scores.forgetting(0.5, 0.8) == pytest.approx(0.3)
    assert scores.retention(before=1.0, after=1.0, start=2.0) == 1.0
    assert scores.retention(before=1.0, after=2.0, start=2.0) == 0.0
    assert scores.retention(before=1.0, after=2.5, start=2.0) < 0


def test_intervals_cover_as_often_as_they_say():
    rng = np.random.default_rng(0)
    found = scores.interval(rng.normal(size=(5, 20_000)))
    covered = np.mean((found.low <= 0) & (found.high >= 0))
    assert covered == pytest.approx(0.95, abs=0.006)
    assert found.n == 5


@pytest.mark.parametrize("level", [0.999, 0.975, 0.9, 0.5])
def test_an_interval_names_its_level_unrounded(level):
    share = f"{100 * level:.4g}%"
    assert scores.interval([1.0, 2.0], level=level).method == f"t, {share}"
    assert scores.wilson(1, 2, level=level).method == f"Wilson, {share}"


def test_one_run_has_no_interval():
    assert np.isnan(scores.interval([1.0]).low)


def test_pairing_removes_what_is_common():
    rng = np.random.default_rng(0)
    common = rng.normal(size=300)
    paired = scores.paired_difference(common + 0.1, common)
    assert paired.low == pytest.approx(0.1)
    assert paired.high == pytest.approx(0.1)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: scores.hypervolume(np.ones((2, 3)), [2, 2]), "points"),
        (lambda: scores.hypervolume(np.ones((2, 3)), [2, 2, 2]), "reference"),
        (lambda: scores.hypervolume(np.ones((2, 2, 2)), [2, 2]), "points"),
        (lambda: scores.hypervolume([[1, 1]], [[2, 2]]), "reference"),
        (lambda: scores.hypervolume([[1, 1], [NAN, 1]], [2, 2]), "points"),
        (lambda: scores.hypervolume([[1, 1]], [2, INF]), "reference"),
        (lambda: scores.weighted_loss([1, 2, 3], 0.5), "losses"),
        (lambda: scores.weighted_loss(1.0, 0.5), "losses"),
        (lambda: scores.weighted_loss([1, 2], 1.5), "lam"),
        (lambda: scores.weighted_loss([1, 2], NAN), "lam"),
        (lambda: scores.max_gap([1, 2], [0, 0, 0], 0.5), "optima"),
        (lambda: scores.max_gap([1, 2], [0, 0], -0.1), "lam"),
        (lambda: scores.front_gap([[NAN, 1]], [0, 1], [0, 0], [1, 1]), "losses"),
        (lambda: scores.regret([1, 2], 2.0, 0.0, [1, 1]), "lam"),
        (lambda: scores.interval([1.0, 2.0], level=95), "level"),
        (lambda: scores.wilson(3, 2), "hits"),
        (lambda: scores.interval(np.ma.array([1, 2, 300], mask=[0, 0, 1])), "values"),
        (lambda: scores.interval(np.array([1 + 2j, 2])), "values"),
        (
            lambda: scores.hypervolume(
                np.ma.array([[0, 0], [1, 1]], mask=[[1, 1], [0, 0]]), [2, 2]
            ),
            "points",
        ),
        (lambda: scores.paired_difference([1, 2, 3], [1]), "b"),
        (lambda: scores.paired_difference(np.ones((3, 1)), np.ones(3)), "b"),
        (lambda: scores.holm([0.1, -0.2]), "p"),
        (lambda: scores.holm([[0.1, 0.2]]), "p"),
    ],
)
def test_what_has_no_score_is_refused(call, field):
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.field == field


def test_a_row_that_is_not_finite_is_named():
    with pytest.raises(InputError, match=r"row 2.*1 of 3 rows"):
        scores.finite_pairs([[1, 2], [NAN, 2], [1, 2]])
    assert scores.hypervolume([], [2, 2]) == 0.0
    assert scores.hypervolume([1, 1], [2, 2]) == 1.0


def test_losses_in_pandas_are_found_by_their_names():
    turned = pd.DataFrame({"preference_loss": [1.0, 0.0], "sft_loss": [2.0, 5.0]})
    pairs = np.array([[2.0, 1.0], [5.0, 0.0]])
    np.testing.assert_array_equal(scores.weighted_loss(turned, 0.25), [1.75, 3.75])
    np.testing.assert_array_equal(scores.weighted_loss(turned.loc[0], 0.25), 1.75)
    np.testing.assert_array_equal(
        scores.ideal_distance(turned, [0, 0]), scores.ideal_distance(pairs, [0, 0])
    )
    both = scores.max_gap(turned, [0, 0], np.array([0.25, 0.5]))
    np.testing.assert_array_equal(both, scores.max_gap(pairs, [0, 0], [0.25, 0.5]))
    front = pareto_front(random_log_linear(seed=0), solves=5)
    row = pd.Series({"method": "Mix", "preference_loss": 1.0, "sft_loss": 2.0})
    pd.testing.assert_frame_equal(front.score(row), front.score(pairs[:1]))


def test_labels_that_do_not_pair_by_position_are_refused():
    first = pd.Series([3.0, 1.0, 2.0], index=[2, 0, 1])
    second = pd.Series([1.0, 2.0, 3.0], index=[0, 1, 2])
    for pair in (
        lambda: scores.paired_difference(first, second),
        lambda: scores.paired_difference(first[:2], second[1:]),
        lambda: scores.forgetting(first, second),
        lambda: scores.retention(first, second, 5.0),
        lambda: scores.retention(second, second, first),
        lambda: scores.weighted_loss(pd.DataFrame(np.ones((3, 2))), first / 3),
    ):
        with pytest.raises(InputError, match="paired by position"):
            pair()
    assert scores.paired_difference(first.sort_index(), second).mean == 0
    assert scores.paired_difference(first.to_numpy(), second).mean == 0
    assert scores.paired_difference(first, second.set_axis([7, 8, 9])).mean == 0


def test_a_weight_for_each_policy_has_the_order_of_the_policies():
    front = pareto_front(random_log_linear(seed=0), solves=5)
    losses = pd.DataFrame({"sft_loss": [2.0, 1.0], "preference_loss": [1.0, 2.0]}, index=["a", "b"])
    with pytest.raises(InputError, match="field 'lam': paired by position"):
        front.score(losses, pd.Series([0.1, 0.9], index=["b", "a"]))
    same = front.score(losses, pd.Series([0.1, 0.9], index=["a", "b"]))
    pd.testing.assert_frame_equal(same, front.score(losses, [0.1, 0.9]))


@pytest.mark.parametrize(
    "ask",
    [
        lambda: scores.interval(["a", "b"]),
        lambda: scores.interval([1.0, 2.0], axis=3),
        lambda: scores.front_gap([1, 2], [0, 0.5, 1], [0.1, 0.2], [1, 1]),
        lambda: scores.front_gap([1, 2], [], [], [1, 1]),
        lambda: scores.weighted_loss([1, 2], "half"),
    ],
)
def test_what_is_no_number_gets_one_error(ask):
    with pytest.raises(InputError):
        ask()
