"""Log-linear problems: losses by enumeration, gradients by finite differences, bad input."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from tradeoff.convex import LogLinear, minimise, random_log_linear
from tradeoff.errors import InputError
from tradeoff.theory.constants import constants


def ragged(seed: int = 0, **settings) -> LogLinear:
    """Prompts with 2, 5 and 3 responses, weighted data, a reference and label smoothing."""
    rng = np.random.default_rng(seed)
    return LogLinear.from_prompts(
        [rng.normal(size=(n, 4)) for n in (2, 5, 3)],
        [(0, 1), (1, 4), (1, 4), (2, 0)],
        [(0, 0, 1), (1, 2, 3), (2, 2, 1)],
        **{
            "radius": 3.0,
            "beta": 0.7,
            "label_smoothing": 0.1,
            "reference": rng.normal(size=4),
            "demonstration_weights": np.array([1.0, 2.0, 1.0, 3.0]),
            "pair_weights": np.array([1.0, 0.5, 2.0]),
        }
        | settings,
    )


def enumerate_losses(problem: LogLinear, theta: np.ndarray) -> np.ndarray:
    """Both losses from their definitions, response by response."""

    def log_prob(row: int, parameters: np.ndarray) -> float:
        x = int(np.searchsorted(problem.offsets, row, side="right")) - 1
        z = problem.features[problem.offsets[x] : problem.offsets[x + 1]] @ parameters
        return float(problem.features[row] @ parameters - np.log(np.sum(np.exp(z))))

    reference = np.zeros(problem.dimension) if problem.reference is None else problem.reference
    demonstrated = [-log_prob(row, theta) for row in problem.demonstrations]
    losses = []
    for chosen, rejected in zip(problem.chosen, problem.rejected, strict=True):
        reward = problem.beta * (
            log_prob(chosen, theta)
            - log_prob(rejected, theta)
            - log_prob(chosen, reference)
            + log_prob(rejected, reference)
        )
        right = np.log1p(np.exp(-reward))
        wrong = np.log1p(np.exp(reward))
        losses.append((1 - problem.label_smoothing) * right + problem.label_smoothing * wrong)
    return np.array(
        [
            np.average(demonstrated, weights=problem.demonstration_weights),
            np.average(losses, weights=problem.pair_weights),
        ]
    )


@given(st.integers(0, 10**6))
def test_losses_agree_with_their_definitions(seed):
    problem = ragged(seed)
    theta = np.random.default_rng(seed + 1).normal(size=4)
    np.testing.assert_allclose(problem.losses(theta), enumerate_losses(problem, theta), rtol=1e-10)


@given(st.integers(0, 10**6))
def test_gradients_and_hessian_agree_with_finite_differences(seed):
    problem = ragged(seed)
    theta = np.random.default_rng(seed).normal(size=4)
    step = 1e-5
    shifts = step * np.eye(4)
    slopes = [(problem.losses(theta + s) - problem.losses(theta - s)) / (2 * step) for s in shifts]
    np.testing.assert_allclose(problem.gradients(theta), np.transpose(slopes), atol=1e-8)
    weights = np.array([0.4, 0.6])
    bends = [
        weights @ (problem.gradients(theta + s) - problem.gradients(theta - s)) / (2 * step)
        for s in shifts
    ]
    model = problem.local_model(theta, weights)
    np.testing.assert_allclose(model.hessian(), bends, atol=1e-8)
    np.testing.assert_allclose(model.gradient, weights @ problem.gradients(theta), atol=1e-12)
    direction = np.arange(4.0)
    np.testing.assert_allclose(
        model.curvature(direction), model.hessian() @ direction, rtol=1e-10, atol=1e-12
    )


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_both_losses_are_convex(seed, share):
    problem = ragged(seed)
    a, b = np.random.default_rng(seed).normal(size=(2, 4)) * 2
    between = problem.losses(share * a + (1 - share) * b)
    chord = share * problem.losses(a) + (1 - share) * problem.losses(b)
    assert np.all(between <= chord + 1e-12)


def test_batches_and_sparse_features_change_nothing():
    dense = ragged()
    settings = {k: getattr(dense, k) for k in LogLinear.__dataclass_fields__ if k != "features"}
    sparse = LogLinear(features=sp.csr_array(dense.features), **settings)
    thetas = np.random.default_rng(0).normal(size=(5, 4))
    for problem in (dense, sparse):
        np.testing.assert_allclose(
            problem.losses(thetas), [dense.losses(t) for t in thetas], rtol=1e-13
        )
        np.testing.assert_allclose(
            problem.gradients(thetas), [dense.gradients(t) for t in thetas], rtol=1e-11, atol=1e-14
        )
    np.testing.assert_allclose(
        sparse.local_model(thetas[0], np.array([0.5, 0.5])).hessian(),
        dense.local_model(thetas[0], np.array([0.5, 0.5])).hessian(),
        atol=1e-14,
    )


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int64, np.float16, np.longdouble])
def test_features_of_any_type_give_the_same_problem(kind):
    # Differences of unsigned numbers wrap, and squares of narrow numbers overflow.
    whole = ragged(beta=0.01)
    wide = replace(whole, features=np.random.default_rng(0).integers(0, 120, (10, 4)).astype(float))
    narrow = replace(wide, features=wide.features.astype(kind))
    assert np.array_equal(narrow.pair_differences, wide.pair_differences)
    assert minimise(narrow, 0.5).value == minimise(wide, 0.5).value
    assert constants(narrow) == constants(wide)


@pytest.mark.parametrize("layout", ["csc", "coo", "lil", "dok", "dia", "bsr"])
@pytest.mark.parametrize("make", [sp.coo_array, sp.coo_matrix])
def test_sparse_features_of_any_layout_give_the_same_problem(make, layout):
    dense = ragged()
    sparse = replace(dense, features=make(dense.features).asformat(layout))
    assert sparse.losses(np.ones(4)) == pytest.approx(dense.losses(np.ones(4)), rel=1e-13)


def test_log_probabilities_normalise_within_prompts():
    problem = ragged()
    p = np.exp(problem.log_probs(np.ones(4)))
    np.testing.assert_allclose(np.add.reduceat(p, problem.offsets[:-1]), 1.0, rtol=1e-14)


def test_a_reference_in_the_class_and_its_margins_are_the_same():
    problem = ragged()
    log_probs = problem.log_probs(problem.reference)
    outside = ragged(
        reference=None, reference_margins=log_probs[problem.chosen] - log_probs[problem.rejected]
    )
    theta = np.ones(4)
    np.testing.assert_allclose(outside.losses(theta), problem.losses(theta), rtol=1e-13)


def test_policy_equal_to_reference_loses_log_two():
    problem = ragged(label_smoothing=0.0)
    assert problem.losses(problem.reference)[1] == pytest.approx(np.log(2), abs=1e-14)


def test_accuracies_share_ties():
    problem = ragged(reference=None, demonstration_weights=None, pair_weights=None)
    sft, preference = problem.accuracies(np.zeros(4))
    assert sft == pytest.approx(np.mean([1 / 2, 1 / 5, 1 / 5, 1 / 3]))
    assert preference == 0.5


def test_conflict_widens_the_front_and_losses_chunk(monkeypatch):
    problem = random_log_linear(1)
    thetas = np.random.default_rng(0).normal(size=(50, 16))
    whole = problem.losses(thetas)
    monkeypatch.setattr("tradeoff.convex.log_linear.CHUNK", 1000)
    np.testing.assert_allclose(problem.losses(thetas), whole, rtol=1e-14)


NAN = np.array([[1.0, np.nan], [0.0, 1.0]])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ragged(radius=0.0), "radius"),
        (lambda: ragged(radius=np.inf), "radius"),
        (lambda: ragged(beta=-1.0), "beta"),
        (lambda: ragged(label_smoothing=0.5), "label_smoothing"),
        (lambda: ragged(reference=np.ones(3)), "reference"),
        (lambda: ragged(reference_margins=np.zeros(3)), "reference_margins"),
        (lambda: ragged(pair_weights=np.array([1.0, -1.0, 1.0])), "pair_weights"),
        (lambda: ragged(pair_weights=np.array([1e308, 1e308, 1.0])), "pair_weights.*finite sum"),
        (lambda: ragged(pair_weights=np.ma.array([1.0, 1, 1], mask=[0, 0, 1])), "pair_w.*masked"),
        (lambda: replace(ragged(), features=np.ma.masked_less(ragged().features, 0)), "masked"),
        (lambda: LogLinear.from_prompts([NAN], [(0, 0)], [(0, 0, 1)], radius=1.0), "row 1.*nan"),
        (lambda: LogLinear.from_prompts([], [], [], radius=1.0), "features"),
        (lambda: LogLinear.from_prompts([[[1.0]]], [(0, 0)], [(0, 0, 0)], radius=1.0), "two resp"),
        (
            lambda: LogLinear.from_prompts([np.eye(2)], [(0, 2)], [(0, 0, 1)], radius=1.0),
            "demonstrations.*numbered 0 to 1",
        ),
        (
            lambda: LogLinear.from_prompts([np.eye(2)], [(0, 0)], [(1, 0, 1)], radius=1.0),
            "no such prompt",
        ),
        (
            lambda: LogLinear.from_prompts([np.eye(2)], [(0, 0)], [(0, 1, 1)], radius=1.0),
            "same response",
        ),
        (lambda: LogLinear.from_prompts([np.eye(2)], [], [(0, 0, 1)], radius=1.0), "no data"),
    ],
)
def test_bad_input_is_one_clear_error(make, words):
    with pytest.raises(InputError, match=f"(?s){words}"):
        make()


def test_responses_of_different_prompts_cannot_be_compared():
    with pytest.raises(InputError, match="different prompts"):
        LogLinear(
            features=np.eye(4),
            offsets=np.array([0, 2, 4]),
            demonstrations=np.array([0]),
            chosen=np.array([0]),
            rejected=np.array([2]),
            radius=1.0,
        )
