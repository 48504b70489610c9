"""Schedules: what each plan follows, by brute force; JSON round trips; bad settings."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradeoff import draws
from tradeoff.errors import InputError
from tradeoff.schedules import (
    SCHEDULES,
    Alright,
    Maxright,
    Mix,
    Rule,
    Schedule,
    Sequential,
    from_dict,
)

lams = st.floats(0, 1)
inner = st.floats(0.05, 0.95)
EXAMPLES = [
    Sequential(first="preference", share=0.3, lam=0.2),
    Sequential(replay=0.1),
    Mix(lam=0.7),
    Alright(lam=0.25),
    Alright(lam=0.25, probability=0.5),
    Maxright(lam=0.4, refresh=None, samples=3, weighted=False, optimum_error=(0.1, -0.2)),
]


@pytest.mark.parametrize("first", ["sft", "preference"])
@given(share=st.floats(0, 1), steps=st.integers(1, 50))
def test_sequential_follows_one_objective_then_the_other(first, share, steps):
    plan = Sequential(first=first, share=share).plan(steps)
    boundary = round(share * steps)
    for t in range(steps):
        preference = (t < boundary) == (first == "preference")
        expected = [0.0, 1.0] if preference else [1.0, 0.0]
        assert plan.follow(t, 0.5).tolist() == expected
        assert plan.clock[t] == (t + 1 if t < boundary else t - boundary + 1)


@pytest.mark.parametrize(("first", "own"), [("sft", 0), ("preference", 1)])
@given(share=st.floats(0, 1), replay=lams, steps=st.integers(1, 50))
def test_replay_follows_the_first_objective_at_times_in_the_second_stage(
    first, own, share, replay, steps
):
    schedule = Sequential(first=first, share=share, replay=replay)
    plain, plan = Sequential(first=first, share=share).plan(steps), schedule.plan(steps)
    boundary = round(share * steps)
    followed = plan.probability if own else 1 - plan.probability
    np.testing.assert_array_equal(followed[:boundary], 1)
    np.testing.assert_allclose(followed[boundary:], replay, atol=1e-15)
    assert plan.clock.tolist() == plain.clock.tolist()
    assert plan.weights.tolist() == plain.weights.tolist()
    assert schedule.label.startswith(Sequential(first=first).label)
    assert schedule.label.endswith("(replay)") == (replay > 0)


def test_no_replay_and_nothing_but_replay():
    assert Sequential(share=0.5).plan(4).probability.tolist() == [0, 0, 1, 1]
    assert Sequential(share=0.5, replay=1.0).plan(4).probability.tolist() == [0, 0, 0, 0]


@given(lams)
def test_mix_follows_both_with_the_weights_of_f_lambda(lam):
    assert Mix(lam=lam).plan(3).follow(1, np.zeros(4)).tolist() == [[1 - lam, lam]] * 4


@given(lam=inner, p=inner)
def test_alternation_is_unbiased(lam, p):
    for schedule, probability in ((Alright(lam=lam), lam), (Alright(lam=lam, probability=p), p)):
        plan = schedule.plan(1)
        expected = probability * plan.follow(0, 0.0) + (1 - probability) * plan.follow(0, 1 - 1e-12)
        np.testing.assert_allclose(expected, [1 - lam, lam], atol=1e-12)


def test_alright_draws_the_preference_objective_with_probability_lam():
    plan = Alright(lam=0.3).plan(20_000)
    key = draws.keys(0, np.arange(1), draws.OBJECTIVE)
    u = draws.uniform(key, np.arange(20_000))
    share = np.mean(plan.follow(0, u)[:, 1])
    assert share == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / 20_000))


@given(lam=lams, gaps=st.tuples(st.floats(-1, 5), st.floats(-1, 5)), weighted=st.booleans())
def test_maxright_follows_the_larger_weighted_gap_and_ties_go_to_sft(lam, gaps, weighted):
    plan = Maxright(lam=lam, weighted=weighted).plan(1)
    scores = ((1 - lam) * gaps[0], lam * gaps[1])
    chosen = int(scores[1] > scores[0])
    expected = [0.0, 0.0]
    expected[chosen] = (1 - lam, lam)[chosen] if weighted else 1.0
    assert plan.follow(0, 0.5, np.array(gaps)).tolist() == expected


@pytest.mark.parametrize("schedule", EXAMPLES, ids=lambda s: s.name)
def test_json_restores_every_schedule(schedule):
    assert from_dict(json.loads(json.dumps(schedule.to_dict()))) == schedule


def test_every_registered_schedule_has_a_plan_and_a_label():
    for name, kind in SCHEDULES.items():
        assert kind.name == name
        plan = kind().plan(10)
        assert len(plan) == 10
        assert isinstance(plan.rule, Rule)
        assert kind().label


def test_costs_per_update():
    assert Mix().plan(2).cost(1, 3).tolist() == [4, 4]
    assert Alright(lam=0.25).plan(2).cost(1, 3).tolist() == [1.5, 1.5]
    assert Sequential(share=0.5).plan(2).cost(1, 3).tolist() == [1, 3]


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Mix(lam=1.5), "lam"),
        (lambda: Mix(lam=float("nan")), "lam"),
        (lambda: Sequential(share=-0.1), "share"),
        (lambda: Sequential(replay=1.1), "replay"),
        (lambda: Alright(lam=0.5, probability=0.0), "probability"),
        (lambda: Maxright(refresh=0), "refresh"),
        (lambda: Maxright(samples=-1), "samples"),
        (lambda: Mix().plan(0), "steps"),
        (lambda: from_dict({"name": "unknown"}), "name"),
        (lambda: from_dict({"name": "mix", "speed": 2}), "speed"),
    ],
)
def test_bad_settings_name_the_field(make, field):
    with pytest.raises(InputError) as caught:
        make()
    assert caught.value.field == field
    assert caught.value.remedy


WRONG_TYPES = [
    ("mix", None),
    ({"name": ["mix"]}, "name"),
    ({"name": "mix", "lam": "abc"}, "lam"),
    ({"name": "mix", "lam": True}, "lam"),
    ({"name": "mix", "lam": None}, "lam"),
    ({"name": "mix", "lam": [0.5]}, "lam"),
    ({"name": "mix", "lam": 10**400}, "lam"),
    ({"name": "sequential", "first": 0}, "first"),
    ({"name": "sequential", "first": ["sft"]}, "first"),
    ({"name": "sequential", "share": "0.5"}, "share"),
    ({"name": "sequential", "replay": False}, "replay"),
    ({"name": "alright", "probability": "0.5"}, "probability"),
    ({"name": "maxright", "refresh": 2.5}, "refresh"),
    ({"name": "maxright", "refresh": True}, "refresh"),
    ({"name": "maxright", "samples": 1.5}, "samples"),
    ({"name": "maxright", "samples": None}, "samples"),
    ({"name": "maxright", "weighted": "no"}, "weighted"),
    ({"name": "maxright", "weighted": 1}, "weighted"),
    ({"name": "maxright", "optimum_error": 0.1}, "optimum_error"),
    ({"name": "maxright", "optimum_error": [0.1]}, "optimum_error"),
    ({"name": "maxright", "optimum_error": ["a", 0]}, "optimum_error"),
    ({"name": "maxright", "optimum_error": [0.1, float("inf")]}, "optimum_error"),
]
OUTSIDE = f"""
import numpy as np
from tradeoff.errors import InputError
from tradeoff.schedules import Maxright, from_dict
inf = float("inf")
for description, field in {WRONG_TYPES}:
    try:
        from_dict(description)
    except InputError as error:
        assert error.field == field and error.remedy, (description, error)
    else:
        raise AssertionError(description)
numbers = {{"lam": np.float32(0.5), "refresh": np.int64(2), "samples": np.int32(0)}}
assert Maxright(**numbers, weighted=np.bool_(False)) == Maxright(refresh=2, weighted=False)
"""


def test_values_of_another_type_name_the_field_and_those_of_numpy_will_do():
    # The tests' own type checker would be in the way, so another process looks.
    subprocess.run([sys.executable, "-c", OUTSIDE], check=True)


def test_a_family_is_the_label_without_numbers():
    assert Maxright().family == Maxright(refresh=7).family == Maxright(refresh=None).family
    assert Maxright(refresh=7).label == "MAXRIGHT (k=7)"
    for schedule in EXAMPLES:
        assert schedule.family == schedule.label.split(" (k=")[0]


def test_a_schedule_without_a_plan_cannot_be_made():
    with pytest.raises(TypeError, match="plan"):
        Schedule()
