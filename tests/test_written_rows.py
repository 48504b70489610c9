"""Rewritten demonstrations: identities of their distributions, and runs on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tradeoff.convex._chosen_rows import trained_on
from tradeoff.convex.instances import random_log_linear
from tradeoff.convex.simulate import trajectories
from tradeoff.errors import InputError
from tradeoff.methods import Method
from tradeoff.methods.transforms import TRANSFORMS, Prompts, Written
from tradeoff.methods.transforms.written import (
    Clear,
    GotD,
    OwnSamples,
    PseudoLabels,
    S3Ft,
    SelfDistillation,
    ShownTeacher,
    Spin,
    Strata,
)
from tradeoff.schedules import Mix

PROBLEM = random_log_linear(0, demonstrations=14, pairs=10)
START = np.random.default_rng(2).normal(size=PROBLEM.dimension)
EVERY = [kind() for kind in TRANSFORMS.values() if issubclass(kind, Written)]


def prompts(seed: int = 0, n: int = 6, k: int = 4) -> Prompts:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)) * 2
    logits[0, 3] = -np.inf  # A prompt with three responses.
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    of = np.array([0, 1, 1, 1, 1, 2])
    features = rng.normal(size=(n, 3))
    return Prompts(log_probs, rng.integers(0, 3, n), of, features, rng.normal(size=(5, 3)))


@pytest.mark.parametrize("transform", EVERY, ids=lambda part: part.name)
def test_laws_are_weights_of_what_is_there(transform):
    given = prompts()
    law = transform.law(given)
    assert law.shape == given.log_probs.shape
    assert (law >= 0).all()
    assert law[0, 3] == 0.0
    assert law.sum() > 0
    assert transform.unsupported("convex") is None
    assert (transform.unsupported("networks") is None) == bool(transform.attempts)
    assert transform.unsupported("llm")
    run = trajectories(
        PROBLEM, Method(Mix(), data=transform), steps=5, step_size=0.2, replicas=2, start=START
    )
    plain = trajectories(
        PROBLEM, Mix(), steps=5, step_size=0.2, replicas=2, start=START, engine="numpy"
    )
    assert np.isfinite(run.last).all()
    assert not np.array_equal(run.last, plain.last)


def test_what_is_sft_in_the_limit():
    given = prompts()
    same: list[Any] = [
        SelfDistillation(error=0.0),
        S3Ft(error=0.0),
        ShownTeacher(strength=700.0),
        PseudoLabels(sure=1.0),
        Clear(share=0.0),
        Strata(temperature=1.0),
        GotD(share=1.0),
    ]
    for transform in same:
        np.testing.assert_allclose(transform.law(given), given.gold, atol=1e-12)
    own = np.exp(given.log_probs)
    for transform in (SelfDistillation(error=1.0), S3Ft(error=1.0), ShownTeacher(strength=0.0)):
        np.testing.assert_allclose(transform.law(given), own, atol=1e-12)
    np.testing.assert_allclose(OwnSamples(temperature=1.0, top=1.0).law(given), own, atol=1e-12)


def test_own_responses_add_a_divergence_to_sft():
    """A share s of own responses: the slope of f1 + s / (1 - s) KL(own || policy), times 1 - s."""
    own = trained_on(PROBLEM, SelfDistillation(error=1.0), START)
    at = START + 0.3
    slopes = [p.gradients(at[None])[0, 0] for p in (PROBLEM, own)]
    log_probs = PROBLEM.log_probs(np.stack([START, at]))
    expected = np.zeros(PROBLEM.dimension)
    for row, weight in zip(PROBLEM.demonstrations, PROBLEM.sft_weights, strict=True):
        x = PROBLEM.prompt_of_row[row]
        rows = slice(PROBLEM.offsets[x], PROBLEM.offsets[x + 1])
        turn = np.exp(log_probs[rows, 1]) - np.exp(log_probs[rows, 0])
        expected += weight * turn @ PROBLEM.features[rows]
    np.testing.assert_allclose(slopes[1], expected, rtol=1e-9, atol=1e-12)
    # Before training it is zero: the policy cannot learn from its own responses.
    assert np.abs(own.gradients(START[None])[0, 0]).max() < 1e-12
    assert np.abs(slopes[0]).max() > 1e-3


def test_attempts_follow_one_another():
    given, error = prompts(), 0.3
    own, gold = np.exp(given.log_probs), given.gold
    one = own * np.where(gold > 0, 1, error)
    rest = 1 - one.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(SelfDistillation(error=error).law(given), one + rest * gold)
    np.testing.assert_allclose(S3Ft(error=error).law(given), one + rest * one + rest**2 * gold)


def test_samples_are_cut_from_the_tail():
    given = Prompts(
        np.log([[0.5, 0.3, 0.15, 0.05]]), *(np.zeros(1, int),) * 2, *(np.ones((1, 2)),) * 2
    )
    found = OwnSamples(temperature=1.0, top=0.8).law(given)
    np.testing.assert_allclose(found, [[0.5, 0.3, 0.0, 0.0]])
    cold = OwnSamples(temperature=0.5, top=1.0).law(given)
    np.testing.assert_allclose(cold[0, 0] / cold[0, 1], (5 / 3) ** 2)


def test_doubtful_demonstrations_are_left_out_or_corrected():
    log_probs = np.log([[0.9, 0.1], [0.95, 0.05], [0.4, 0.6], [0.6, 0.4]])
    own = np.array([0, 1, 1, 1])
    given = Prompts(log_probs, own, np.arange(4), np.ones((4, 2)), np.ones((1, 2)))
    found = Clear(share=0.5, sure=0.9).law(given)
    np.testing.assert_array_equal(found, [[1, 0], [1, 0], [0, 1], [0, 0]])
    labels = PseudoLabels(sure=0.6).law(given)
    np.testing.assert_array_equal(labels, [[1, 0], [1, 0], [0, 1], [1, 0]])


def test_prompts_with_many_demonstrations_count_for_less():
    given = prompts()
    weights = Strata(temperature=1e6).law(given).sum(axis=1)
    by_prompt = np.bincount(given.prompts, weights=weights)
    np.testing.assert_allclose(by_prompt, 1.0, rtol=1e-4)


def test_slopes_of_the_transport_are_finite_differences():
    """Cost of transport, as the dual value, from weights (1/n + e) rescaled to sum to one."""
    given, part = prompts(3, n=6), GotD(entropy=0.3, rounds=3000)
    first, second = (
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in (given.features, given.wanted)
    )
    kernel = np.exp(-((first[:, None] - second[None]) ** 2).sum(axis=2) / 0.3)

    def cost(a: np.ndarray) -> float:
        u, b = np.ones(6), np.full(5, 0.2)
        v = np.ones(5)
        for _ in range(3000):
            u = a / (kernel @ v)
            v = b / (kernel.T @ u)
        plan = u[:, None] * kernel * v
        return float(0.3 * (plan * (np.log(plan / np.outer(a, b)) - np.log(kernel))).sum())

    found, step, even = part.slopes(given.features, given.wanted), 1e-5, np.full(6, 1 / 6)
    for i in range(6):
        # More of row i, and less of every other row, in equal parts.
        turn = np.where(np.arange(6) == i, 1.0, -1 / 5)
        slope = (cost(even + step * turn) - cost(even - step * turn)) / (2 * step)
        assert found[i] == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_the_first_step_of_spin_is_one_of_sft():
    problem = trained_on(PROBLEM, Spin(), START)
    slopes = problem.gradients(START[None])[0]
    own = np.exp(PROBLEM.log_probs(START)[PROBLEM.demonstrations]) @ PROBLEM.sft_weights
    expected = PROBLEM.beta / 2 * slopes[0] / (1 - own)
    np.testing.assert_allclose(slopes[1], expected, rtol=1e-9, atol=1e-12)


def test_a_law_that_leaves_nothing_is_refused():
    class Nothing(Strata):
        def law(self, given: Prompts) -> np.ndarray:
            return 0 * given.gold

    with pytest.raises(InputError, match="leaves no demonstrations"):
        trained_on(PROBLEM, Nothing(), START)
