"""Schedules: objectives of each plan by brute force; JSON round trips; bad settings."""

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
    Alternation,
    Constrained,
    Evenly,
    Maxright,
    Mix,
    MovingMix,
    Rounds,
    Rule,
    Schedule,
    Sequential,
    SmoothMaxright,
    Stages,
    check_decay,
    from_dict,
    stage_lengths,
    step_shares,
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
    SmoothMaxright(lam=0.4, mu=0.2, refresh=None, samples=3, optimum_error=(0.1, -0.2)),
    Rounds(rounds=3, lam=0.3),
    Rounds(rounds=2, share=0.7, first="preference", restart=True),
    Evenly(lam=0.3, phase=0.4),
    Evenly(lam=0.3, probability=0.5),
    Alternation(lam=0.2),
    MovingMix(lam=0.2, peak=0.8),
    Constrained(limit=0.2),
    Constrained(limit=0.1, relative=True, refresh=5, samples=7),
    Stages(schedules=(Alright(lam=0.0), Mix(lam=0.3)), shares=(0.2, 0.8), lam=0.3),
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


@given(lam=lams, steps=st.integers(1, 50))
def test_the_weight_of_a_sequential_run_is_the_share_of_its_preference_stage(lam, steps):
    for first in ("sft", "preference"):
        preferred = Sequential(first=first, lam=lam).plan(steps).probability.sum()
        assert abs(preferred - lam * steps) <= 0.5 + 1e-9
        assert Sequential(first=first, share=0.1).at(lam) == Sequential(first=first, lam=lam)


def test_stages_are_their_schedules_after_one_another():
    warm = Stages(schedules=(Alright(lam=0.0), Mix(lam=0.3)), shares=(0.25, 0.75), lam=0.3)
    plan = warm.plan(8)
    assert plan.clock.tolist() == [1, 2, 1, 2, 3, 4, 5, 6]
    followed = np.array([plan.follow(t, 0.5) for t in range(8)])
    np.testing.assert_allclose(followed, [[1.0, 0.0]] * 2 + [[0.7, 0.3]] * 6)
    assert plan.cost(1, 3).tolist() == [1, 1] + [4] * 6
    # A stage of one objective has one objective for every weight.
    assert warm.at(0.6).schedules == (Alright(lam=0.0), Mix(lam=0.6))
    two = Stages(schedules=(Alright(lam=0.0), Alright(lam=1.0)), shares=(0.4, 0.6))
    assert two.plan(10).probability.tolist() == Sequential(share=0.4).plan(10).probability.tolist()


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


# ---------------------------------------------------------------------- rounds

orders = st.sampled_from(["sft", "preference"])


@st.composite
def rounds_in_a_run(draw):
    """Settings of a schedule of rounds, and a number of updates that is large enough for them."""
    rounds = draw(st.integers(1, 12))
    kinds = {"lam": lams, "share": st.none() | lams, "first": orders, "restart": st.booleans()}
    settings = {name: draw(kind) for name, kind in kinds.items()}
    return {"rounds": rounds, **settings}, draw(st.integers(rounds, 80))


@given(rounds_in_a_run())
def test_rounds_spread_the_totals_evenly(given_run):
    schedule, steps = Rounds(**given_run[0]), given_run[1]
    plan, rounds = schedule.plan(steps), schedule.rounds
    parts = np.split(plan.probability, schedule.starts(steps)[1:])
    sizes = np.array([len(part) for part in parts])
    own = np.array([part.sum() for part in parts])
    share = schedule.lam if schedule.share is None else schedule.share
    assert abs(own.sum() - share * steps) <= 0.5 + 1e-9
    assert sizes.sum() == steps
    assert np.ptp(own) <= 1
    assert np.ptp(sizes - own) <= 1
    if steps % rounds == 0:
        assert set(sizes) == {steps // rounds}
    if min(own.sum(), steps - own.sum()) >= rounds:
        assert own.min() >= 1
        assert (sizes - own).min() >= 1
    # Within a round each objective has one stretch, in the requested order.
    forward = 1 if schedule.first == "sft" else -1
    assert all((forward * np.diff(part) >= 0).all() for part in parts)


@given(rounds_in_a_run())
def test_the_clock_of_rounds_runs_on_or_restarts_at_every_turn(given_run):
    schedule, steps = Rounds(**given_run[0]), given_run[1]
    plan = schedule.plan(steps)
    if not schedule.restart:
        assert plan.clock.tolist() == list(range(1, steps + 1))
        return
    starts = np.flatnonzero(plan.clock == 1)
    turns = np.flatnonzero(np.diff(plan.probability)) + 1
    assert set(turns) <= set(starts)
    assert set(schedule.starts(steps)) <= set(starts)
    for part in np.split(plan.clock, starts[1:]):
        assert part.tolist() == list(range(1, len(part) + 1))


@given(lam=lams, first=orders, steps=st.integers(1, 60))
def test_one_round_is_sequential_training(lam, first, steps):
    share = lam if first == "preference" else 1 - lam
    sequential = Sequential(first=first, share=share, lam=lam).plan(steps)
    plan = Rounds(rounds=1, first=first, lam=lam, restart=True).plan(steps)
    assert plan.probability.tolist() == sequential.probability.tolist()
    assert plan.clock.tolist() == sequential.clock.tolist()
    assert plan.weights.tolist() == sequential.weights.tolist()
    assert plan.rule is sequential.rule


@given(first=orders, rounds=st.integers(1, 30))
def test_as_many_rounds_as_fit_are_a_strict_alternation(first, rounds):
    plan = Rounds(rounds=rounds, first=first).plan(2 * rounds)
    expected = [float(first == "preference"), float(first == "sft")] * rounds
    assert plan.probability.tolist() == expected


def test_more_rounds_than_updates_are_refused():
    for rounds in (4, 9):
        with pytest.raises(InputError, match="no room") as caught:
            Rounds(rounds=rounds).plan(3)
        assert caught.value.field == "rounds"


# ---------------------------------------------------------------------- a smooth maximum


two_gaps = st.tuples(st.floats(0, 5), st.floats(0, 5)).map(np.array)


@given(lam=lams, gaps=two_gaps, mu=st.floats(0.02, 10), u=inner)
def test_the_coin_of_smooth_maxright_has_the_slope_of_its_function(lam, gaps, mu, u):
    plan = SmoothMaxright(lam=lam, mu=mu).plan(1)
    pair = np.array([1 - lam, lam])

    def value(at):
        return mu * np.log(np.exp(pair * np.asarray(at) / mu).sum())

    step = 1e-5 * np.eye(2)
    slope = [(value(gaps + h) - value(gaps - h)) / 2e-5 for h in step]
    np.testing.assert_allclose(plan.pulls(gaps), slope, atol=1e-6)
    share = plan.pulls(gaps)[1] / plan.pulls(gaps).sum()
    draws_ = np.append((np.arange(2000) + 0.5) / 2000, u)
    followed = plan.follow(0, draws_, np.tile(gaps, (2001, 1)))
    assert followed.sum(axis=1).tolist() == [1.0] * 2001
    assert abs(followed[:-1, 1].mean() - share) <= 1 / 2000
    assert plan.watched == (0, 1)


@given(lam=inner, gaps=two_gaps, u=st.floats(0, 0.999))
def test_smooth_maxright_is_alright_when_hot_and_maxright_when_cold(lam, gaps, u):
    weighted = (1 - lam) * gaps[0], lam * gaps[1]
    hot = SmoothMaxright(lam=lam, mu=1e9).plan(1)
    np.testing.assert_allclose(hot.pulls(gaps), [(1 - lam) / 2, lam / 2], rtol=1e-6)
    if abs(u - lam) > 1e-6:
        expected = Alright(lam=lam).plan(1).follow(0, u)
        assert hot.follow(0, u, gaps).tolist() == expected.tolist()
    if abs(weighted[0] - weighted[1]) > 1e-6:
        cold = SmoothMaxright(lam=lam, mu=1e-9).plan(1)
        expected = Maxright(lam=lam, weighted=False).plan(1).follow(0, u, gaps)
        assert cold.follow(0, max(u, 1e-9), gaps).tolist() == expected.tolist()


# ---------------------------------------------------------------------- a limit


@given(
    limit=st.floats(0, 1),
    relative=st.booleans(),
    gap=st.floats(-1, 5) | st.just(np.nan),
    base=st.floats(-1, 5),
)
def test_constrained_follows_preferences_within_the_limit_only(limit, relative, gap, base):
    plan = Constrained(limit=limit, relative=relative).plan(1)
    highest = limit * max(base, 0.0) if relative else limit
    followed = plan.follow(0, 0.5, np.array([gap, np.nan]), base).tolist()
    assert followed == ([0.0, 1.0] if gap <= highest else [1.0, 0.0])
    assert plan.watched == (0,)


@given(lams, lams)
def test_the_weight_changes_nothing_under_a_limit(one, other):
    first, second = (Constrained(lam=lam).plan(5) for lam in (one, other))
    assert first.gaps == second.gaps
    assert first.weights.tolist() == second.weights.tolist()


# ---------------------------------------------------------------------- step sizes


@given(rounds_in_a_run())
def test_linear_decay_is_that_of_each_stage(given_run):
    schedule, steps = Rounds(**given_run[0]), given_run[1]
    clock = schedule.plan(steps).clock
    shares = step_shares(clock, "linear")
    lengths = stage_lengths(clock)
    starts = np.flatnonzero(clock == 1)
    np.testing.assert_array_equal(shares[starts], 1)
    np.testing.assert_allclose(shares, 1 - (clock - 1) / lengths, atol=1e-15)
    np.testing.assert_allclose(
        np.diff(shares)[np.diff(clock) == 1], -1 / lengths[1:][np.diff(clock) == 1], atol=1e-12
    )


def test_a_number_decays_as_a_power_of_the_clock():
    clock = np.array([1, 2, 3, 1, 2])
    np.testing.assert_array_equal(step_shares(clock, 0.0), 1)
    np.testing.assert_allclose(step_shares(clock, 0.5), clock**-0.5)


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


def step_shares_of(decay):
    """Step sizes of the three scales for a given decay."""
    check_decay(decay)
    return step_shares(np.arange(1, 4), decay)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Mix(lam=1.5), "lam"),
        (lambda: Mix(lam=float("nan")), "lam"),
        (lambda: Sequential(share=-0.1), "share"),
        (lambda: Stages(schedules=(Mix(),), shares=(0.5,)), "shares"),
        (lambda: Stages(schedules=(Mix(), Alright()), shares=(1.0,)), "shares"),
        (lambda: Stages(schedules=(Maxright(),)), "schedules"),
        (lambda: Sequential(replay=1.1), "replay"),
        (lambda: Alright(lam=0.5, probability=0.0), "probability"),
        (lambda: Maxright(refresh=0), "refresh"),
        (lambda: Maxright(samples=-1), "samples"),
        (lambda: Mix().plan(0), "steps"),
        (lambda: Rounds().plan(0), "steps"),
        (lambda: Rounds(rounds=0), "rounds"),
        (lambda: Rounds(share=1.1), "share"),
        (lambda: Constrained(limit=-0.1), "limit"),
        (lambda: Constrained(limit=float("inf")), "limit"),
        (lambda: Constrained(limit=1.1, relative=True), "limit"),
        (lambda: Constrained(refresh=0), "refresh"),
        (lambda: step_shares_of("square"), "decay"),
        (lambda: step_shares_of(-1.0), "decay"),
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
    ({"name": "rounds", "rounds": 2.5}, "rounds"),
    ({"name": "rounds", "rounds": True}, "rounds"),
    ({"name": "rounds", "share": "half"}, "share"),
    ({"name": "rounds", "first": "dpo"}, "first"),
    ({"name": "rounds", "restart": 1}, "restart"),
    ({"name": "constrained", "limit": "5 %"}, "limit"),
    ({"name": "constrained", "relative": 0.05}, "relative"),
    ({"name": "constrained", "refresh": None}, "refresh"),
    ({"name": "constrained", "samples": -1}, "samples"),
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
    # The tests' own type checker would find the error first, so another process is used.
    subprocess.run([sys.executable, "-c", OUTSIDE], check=True)


def test_a_family_is_the_label_without_numbers():
    assert Maxright().family == Maxright(refresh=7).family == Maxright(refresh=None).family
    assert Maxright(refresh=7).label == "MAXRIGHT (k=7)"
    for schedule in EXAMPLES[:6]:
        assert schedule.family == schedule.label.split(" (k=")[0]
    assert (Rounds(rounds=8).label, Rounds(rounds=8).family) == ("Rounds (K=8)", "Rounds")
    other = Rounds(rounds=2, first="preference", restart=True)
    assert other.label == "Rounds (K=2, DPO→SFT, restarted)"
    assert other.family == "Rounds (DPO→SFT, restarted)"
    assert Constrained(limit=0.05).label == "Constrained (0.05 nats)"
    assert Constrained(limit=0.05, relative=True).label == "Constrained (5 %)"
    assert Constrained().family == "Constrained"


def test_shapes_of_decay_are_those_of_trainers():
    clock = Sequential(share=0.5).plan(8).clock
    assert np.all(step_shares(clock, "constant") == step_shares(clock, 0.0))
    linear, cosine = (step_shares(clock, shape) for shape in ("linear", "cosine"))
    assert linear.tolist() == [1, 0.75, 0.5, 0.25] * 2
    np.testing.assert_allclose(cosine[:4], (1 + np.cos(np.pi * (1 - linear[:4]))) / 2)
    with pytest.raises(InputError, match="decay"):
        check_decay("square")


@pytest.mark.parametrize("schedule", [Mix(lam=0.3), Alright(lam=0.3, probability=0.6), Rounds()])
def test_kinds_of_an_update_have_the_mean_direction_of_its_draws(schedule):
    plan, uniform = schedule.plan(8), (np.arange(1000) + 0.5) / 1000
    mean = sum(p * weights for p, weights in plan.kinds(5))
    np.testing.assert_allclose(mean, plan.follow(5, uniform).mean(axis=0), atol=1e-12)
    with pytest.raises(InputError, match="depends on the losses"):
        Maxright().plan(2).kinds()


def test_a_key_tells_variants_apart_and_no_numbers():
    assert Rounds(rounds=2, first="preference", restart=True).key == "rounds-dpo-sft-restarted"
    assert Sequential(first="preference", replay=0.2).key == "dpo-sft-replay"
    assert Alright(probability=0.3).key == "alright-budget"
    assert Maxright(refresh=7).key == Maxright().key == "maxright"
    both = Stages(schedules=(Sequential(), Mix()), shares=(0.5, 0.5))
    assert both.key == "sft-dpo-then-mix"


def test_a_schedule_without_a_plan_cannot_be_made():
    with pytest.raises(TypeError, match="plan"):
        Schedule()


@given(lam=inner, phase=st.floats(0, 1), steps=st.integers(1, 300))
def test_even_turns_keep_to_their_share(lam, phase, steps):
    plan = Evenly(lam=lam, phase=phase).plan(steps)
    assert set(plan.probability) <= {0.0, 1.0}
    off = np.cumsum(plan.probability) - lam * np.arange(1, steps + 1)
    # Random draws are off by about 9 after 300 updates.
    assert np.abs(off).max() <= 3
    budget = Evenly(lam=lam, probability=0.5, phase=phase).plan(2000)
    mean = (budget.probability[:, None] == [0.0, 1.0]) * budget.weights
    np.testing.assert_allclose(mean.mean(axis=0), [1 - lam, lam], atol=2e-3)


def test_two_turns_are_two_updates_of_mix():
    plan = Alternation(lam=0.3).plan(10)
    pairs = np.array([plan.follow(t, 0.5) for t in range(10)]).reshape(5, 2, 2)
    np.testing.assert_allclose(pairs.sum(axis=1), 2 * np.tile([0.7, 0.3], (5, 1)))


def test_moving_weights_begin_at_the_peak_and_end_as_mix():
    plan = MovingMix(lam=0.3, peak=0.9, moving=0.5).plan(100)
    np.testing.assert_allclose(plan.weights.sum(axis=1), 1.0)
    assert plan.weights[0, 0] == pytest.approx(0.9)
    assert (np.diff(plan.weights[:, 0]) <= 1e-15).all()
    np.testing.assert_allclose(plan.weights[50:], np.tile([0.7, 0.3], (50, 1)))
    still = MovingMix(lam=0.3, moving=0.0).plan(5)
    np.testing.assert_allclose(still.weights, Mix(lam=0.3).plan(5).weights)
