"""Identities of anchors of policies, shifted and steered gradients, subspaces and merges."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_method_hooks import PROBLEM, last, run, sequential, shown

from tradeoff.convex.instances import random_log_linear, random_quadratic
from tradeoff.convex.views import PolicyView
from tradeoff.errors import InputError
from tradeoff.methods import Method, find
from tradeoff.methods.anchors import KlToBase, LearningWithoutForgetting
from tradeoff.methods.hooks import Moment
from tradeoff.methods.merges import BlockMeans, FisherMerge, Graft, HalfReset
from tradeoff.methods.parameters import (
    Drift,
    FeatureMasks,
    Frozen,
    GradientMemory,
    Nested,
    OrthogonalSubspaces,
    PreservedDirections,
    Sam,
    StraightThrough,
    Subspace,
)
from tradeoff.schedules import Alright, Evenly, Mix, Sequential

LAYERS = tuple(f"body.{k}.weight" for k in range(4))
UNEVEN = random_log_linear(3, responses=3)


def plain(**about: Any) -> np.ndarray:
    return last(Sequential(), engine="numpy", **about)


# ---------------------------------------------------------------------- anchors of policies


@pytest.mark.parametrize("objective", [0, 1])
@pytest.mark.parametrize("direction", ["forward", "reverse", "logits"])
def test_pulls_are_slopes_of_divergences(objective, direction):
    rng = np.random.default_rng(0)
    theta, anchor = rng.normal(size=(2, UNEVEN.dimension)) * 0.5
    view, about = PolicyView(UNEVEN), KlToBase(direction=direction, temperature=1.5)
    rows = (UNEVEN.demonstrations, UNEVEN.chosen)[objective]

    def value(at: np.ndarray) -> float:
        total = 0.0
        for row in rows:
            x = UNEVEN.prompt_of_row[row]
            phi = UNEVEN.features[UNEVEN.offsets[x] : UNEVEN.offsets[x + 1]]
            if direction == "logits":
                total += ((phi @ (at - anchor)) ** 2).sum()
                continue
            p, a = (phi @ w / 1.5 - np.log(np.exp(phi @ w / 1.5).sum()) for w in (at, anchor))
            first, second = (a, p) if direction == "forward" else (p, a)
            total += 1.5**2 * (np.exp(first) * (first - second)).sum()
        return total / len(rows)

    step = 1e-6 * np.eye(UNEVEN.dimension)
    slopes = [(value(theta + e) - value(theta - e)) / 2e-6 for e in step]
    exact = view.pull(theta[None], anchor[None], objective, about, None)[0]
    np.testing.assert_allclose(exact, slopes, rtol=1e-5, atol=1e-7)
    # Single rows give it on average.
    even = (np.arange(len(rows)) + 0.5) / len(rows)
    many = np.broadcast_to(theta, (len(rows), len(theta)))
    drawn = view.pull(many, many * 0 + anchor, objective, about, even)
    np.testing.assert_allclose(drawn.mean(axis=0), exact, rtol=1e-10)


def test_distilling_a_policy_has_the_landscape_of_its_loss():
    """Card: without labels the slope is that of SFT, less its slope at the anchor."""
    rng = np.random.default_rng(1)
    theta, anchor = rng.normal(size=(2, PROBLEM.dimension)) * 0.4
    about = LearningWithoutForgetting()
    found = PolicyView(PROBLEM).pull(theta, anchor, 0, about, None)
    slopes = PROBLEM.gradients(np.stack([theta, anchor]))[:, 0]
    np.testing.assert_allclose(found, slopes[0] - slopes[1], rtol=1e-9, atol=1e-12)


def test_anchors_of_policies_cost_a_gradient_where_they_act():
    settings: dict[str, Any] = {"engine": "numpy", "checkpoints": [12, 24]}
    counts = run(sequential(anchor=LearningWithoutForgetting()), **settings).counts[0, 0]
    np.testing.assert_array_equal(counts, [[12, 0], [24, 12]])
    counts = run(sequential(anchor=KlToBase(stages="all")), **settings).counts[0, 0]
    np.testing.assert_array_equal(counts, [[12, 12], [12, 36]])
    assert sequential(anchor=LearningWithoutForgetting()).updates(150) == 100
    assert Method(Mix(), anchor=KlToBase()).updates(150) == 50
    np.testing.assert_array_equal(last(sequential(anchor=KlToBase(weight=0.0))), plain())
    held = last(
        sequential(anchor=LearningWithoutForgetting(weight=1e3, exact=True)), step_size=1e-3
    )
    free = plain(step_size=1e-3)
    moved = [np.linalg.norm(x[:, -1] - x[:, 12]) for x in (held, free)]
    assert moved[0] < 0.5 * moved[1]


def test_problems_without_policies_are_refused():
    with pytest.raises(InputError, match="the problem has none"):
        run(Method(Mix(), anchor=KlToBase()), problem=random_quadratic(0), step_size=0.01)
    assert "see weights" in KlToBase().unsupported("llm")
    assert KlToBase().unsupported("convex") is None


# ---------------------------------------------------------------------- other weights


def test_without_a_shift_training_is_as_ever():
    for part in (
        Sam(rho=0.0),
        FeatureMasks(drop=0.0),
        Nested(levels=1),
        StraightThrough(bits=32),
        Drift(strength=0.0),
        Subspace(rank=4096),
    ):
        found = last(sequential(parameters=part))
        np.testing.assert_allclose(found, plain(), rtol=0, atol=1e-7, err_msg=part.name)
    start = np.linspace(-0.3, 0.3, PROBLEM.dimension)
    frozen = last(sequential(parameters=Frozen()), start=start)
    np.testing.assert_array_equal(frozen, np.broadcast_to(start, frozen.shape))


def test_sharpness_is_looked_for_along_the_gradient_before():
    """By hand on a quadratic: slopes at theta + rho * unit gradient of the update before."""
    problem = replace(random_quadratic(0), radius=1e3)
    settings: dict[str, Any] = {"gradients": "full", "step_size": 0.05, "problem": problem}
    found = last(Method(Sequential(share=1.0), parameters=Sam(rho=0.1)), **settings)[0]
    theta, climb = np.zeros(problem.dimension), np.zeros(problem.dimension)
    for t in range(24):
        slope = problem.gradients((theta + 0.1 * climb)[None])[0, 0]
        theta, climb = theta - 0.05 * slope, slope / np.linalg.norm(slope)
        np.testing.assert_allclose(found[t + 1], theta, rtol=1e-9, atol=1e-12)


def test_rounded_weights_have_few_values():
    found = last(sequential(parameters=StraightThrough(bits=3)))[:, -1]
    for weights in found:
        sizes = np.abs(weights) / np.abs(weights).max() * 3
        np.testing.assert_allclose(sizes, np.round(sizes), atol=1e-9)


def moment(stage: int, clock: int = 1, objective: int | None = None) -> Moment:
    return Moment(clock - 1, clock, 9, stage, 3, objective, 0, ("w",), lambda: np.full((2, 8), 0.3))


def test_hidden_features_do_not_move():
    gradient, weights = np.random.default_rng(0).normal(size=(2, 2, 8))
    for part, seen in ((Nested(levels=4), 4), (FeatureMasks(groups=2, drop=0.4), 0)):
        state = part.start(weights)
        shifted, state = part.begin(weights, state, moment(0))
        found, state = part.direct(gradient, shifted, state, moment(0))
        assert (np.count_nonzero(shifted, axis=1) == seen).all()
        np.testing.assert_array_equal(found != 0, shifted != 0)
        after, _ = part.finish(shifted - found, state, moment(0))
        np.testing.assert_allclose(after, weights - found)


def test_drift_stops_only_where_the_gradient_does():
    rng = np.random.default_rng(0)
    base, now, gradient = rng.normal(size=(3, 2, 8))
    for pull in ("scaled", "absolute", "adaptive"):
        part = Drift(strength=0.5, pull=pull)
        _, state = part.begin(now, part.start(base), moment(1))
        found, _ = part.direct(gradient, now, state, moment(1, 2))
        change = now - base
        if pull == "absolute":
            np.testing.assert_allclose(found, gradient - 0.5 * change)
        else:
            assert (np.linalg.norm(found, axis=1) >= 0.5 * np.linalg.norm(gradient, axis=1)).all()
            assert not part.direct(gradient * 0, now, state, moment(1, 2))[0].any()
            off = (gradient - found) / change
            np.testing.assert_allclose(off, off[:, :1] * np.ones(8))
        np.testing.assert_array_equal(part.direct(gradient, now, state, moment(0))[0], gradient)


def test_memories_of_gradients_are_mixed_by_lam():
    gradients = np.random.default_rng(0).normal(size=(4, 2, 8))
    part, found = GradientMemory(lam=0.3, recent=1.0), []
    state = part.start(gradients[0])
    for k, gradient in enumerate(gradients):
        d, state = part.direct(gradient, gradient, state, moment(0, k + 1, k % 2))
        found.append(d)
    np.testing.assert_allclose(found[0], 0.7 * gradients[0])
    np.testing.assert_allclose(found[3], 0.7 * gradients[2] + 0.3 * gradients[3])
    tracked = find("tracked", 0.3)
    assert tracked.schedule == Evenly(lam=0.3)
    assert tracked.parameters == GradientMemory(lam=0.3)


def test_subspaces_are_orthogonal_and_of_their_rank():
    gradient = np.random.default_rng(0).normal(size=(200, 8))
    part, other = Subspace(rank=3), OrthogonalSubspaces(rank=3)
    np.testing.assert_array_equal(part.direct(gradient, gradient, {}, moment(0))[0], gradient)
    inside = part.direct(gradient, gradient, {}, moment(1))[0]
    assert np.linalg.matrix_rank(inside) == 3
    np.testing.assert_allclose(part.direct(inside, inside, {}, moment(1))[0], inside, atol=1e-12)
    stages = [other.direct(gradient, gradient, {}, moment(k))[0] for k in range(3)]
    assert [np.linalg.matrix_rank(x) for x in stages] == [3, 3, 2]
    assert abs(stages[0] @ stages[1].T).max() < 1e-12
    np.testing.assert_allclose(sum(stages), gradient, atol=1e-12)


def test_preserved_directions_are_those_of_most_variance():
    rows = np.random.default_rng(0).normal(size=(40, 1, 6)) * np.array([9, 7, 1, 1, 1, 1])
    part = PreservedDirections(rank=2, count=40)
    state = part.start(np.zeros((1, 6)))
    for row in rows:
        state = part.observe(row, state, moment(1))
    state = part.conclude(state, moment(1))
    found, _ = part.direct(np.ones((1, 6)), np.zeros((1, 6)), state, moment(1))
    assert np.abs(found[0, :2]).max() < 0.3
    assert found[0, 2:].min() > 0.7


# ---------------------------------------------------------------------- merges


def test_grafts_and_resets_go_from_one_end_to_the_other():
    rng = np.random.default_rng(0)
    base, sft, preference = rng.normal(size=(3, 2, 10))
    for merge in (Graft, HalfReset):
        np.testing.assert_array_equal(shown(merge(lam=0.0), base, sft, preference), sft)
        np.testing.assert_array_equal(shown(merge(lam=1.0), base, sft, preference), preference)
        half = shown(merge(lam=0.4), base, sft, preference)
        assert ((half == preference).sum(axis=1) == 4).all()
        assert ((half == sft).sum(axis=1) == 6).all()
    change, kept = np.abs(preference - sft), shown(Graft(lam=0.4), base, sft, preference) != sft
    for run_change, run_kept in zip(change, kept, strict=True):
        assert run_change[run_kept].min() > run_change[~run_kept].max()


def test_means_of_blocks_keep_their_mean_weight():
    rng = np.random.default_rng(0)
    base, sft, preference = rng.normal(size=(3, 2, 5))
    weights = [
        BlockMeans(lam=0.3).weight(replace(moment(1), block=k, blocks=LAYERS)) for k in range(4)
    ]
    assert np.mean(weights) == pytest.approx(0.3)
    assert weights == sorted(weights)
    even = shown(BlockMeans(lam=0.3, tilt=0.0), base, sft, preference)
    np.testing.assert_allclose(even, 0.7 * sft + 0.3 * preference)
    late = shown(BlockMeans(lam=0.3), base, sft, preference, block=1)
    assert (np.abs(late - sft) > np.abs(even - sft)).all()


def test_fisher_merges_weigh_by_squared_gradients():
    soup = last(find("soup", 0.5).at(0.3), engine="numpy")[:, -1]
    damped = last(Method(Sequential(lam=0.3), merge=FisherMerge(lam=0.3, damping=1e9)))[:, -1]
    np.testing.assert_allclose(damped, soup, rtol=1e-6)
    merge = FisherMerge(lam=0.5)
    sft, preference = np.array([[1.0, 1.0]]), np.array([[3.0, 3.0]])
    state = {
        "base": sft,
        "sft": sft,
        "preference": preference,
        "sft squares": np.array([[3.0, 0.0]]),
        "preference squares": np.array([[1.0, 1.0]]),
    }
    at = replace(moment(2), objective=1)
    np.testing.assert_allclose(merge.output(preference, state, at), [[1.5, 3.0]], rtol=1e-5)
    # Gradients of both branches by hand: means of squares over the updates of each branch.
    _, state = merge.direct(2 * sft, sft, merge.start(sft), moment(0, 1, 0))
    _, state = merge.direct(4 * sft, sft, state, moment(0, 2, 0))
    np.testing.assert_allclose(state["sft squares"], 10.0)
    assert not state["preference squares"].any()
    assert Alright().plan(4).stages == 1
