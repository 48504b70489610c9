"""Real text as a log-linear problem: the factored operator, the candidates, the shared features."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse.linalg import aslinearoperator

from tradeoff.checkout import DATA
from tradeoff.convex.text import (
    CrossedFeatures,
    Features,
    assemble,
    draw_candidates,
    hash_texts,
    relate,
    text_problem,
)
from tradeoff.data import Message, PreferenceRow, SftRow, read_preferences, read_sft
from tradeoff.errors import InputError

COLOURS = ("red", "green", "blue", "black", "white", "grey")
SFT_ROWS = [SftRow(f"Which colour, {name}?", f"The colour is {name}.") for name in COLOURS]
SFT_ROWS += [SftRow("", "A document."), SftRow("Again", "The colour is red."), SftRow("?", "!")]
PAIRS = [
    PreferenceRow("Say blue.", "The colour is blue.", "No."),
    PreferenceRow((Message("user", "Hi"),), (Message("assistant", "Hello"),), (Message("a", "b"),)),
]


def random_features(rng: np.random.Generator, crosses: int = 1, extra: int = 3) -> CrossedFeatures:
    psi = sp.random_array((9, 14), density=0.4, rng=rng)
    response = rng.integers(9, size=25)
    return CrossedFeatures(psi, response, rng.random((25, crosses)), rng.random((25, extra)))


def materialised(features: CrossedFeatures) -> np.ndarray:
    psi = features.psi.toarray()[features.response]
    crossed = [psi * weight[:, None] for weight in features.cross.T]
    return np.hstack([psi, *crossed, features.dense])


# ---------------------------------------------------------------------- the operator


@pytest.mark.parametrize("crosses", [0, 1, 3])
@pytest.mark.parametrize("extra", [0, 2])
def test_products_are_those_of_the_materialised_matrix(crosses: int, extra: int) -> None:
    rng = np.random.default_rng(0)
    features = random_features(rng, crosses, extra)
    matrix = materialised(features)
    assert features.shape == matrix.shape == (25, 14 * (1 + crosses) + extra)
    for shape in ((), (1,), (4,)):
        theta = rng.normal(size=(features.shape[1], *shape))
        u = rng.normal(size=(25, *shape))
        assert_allclose(features @ theta, matrix @ theta, atol=1e-12)
        assert_allclose(features.T @ u, matrix.T @ u, atol=1e-12)
        assert_allclose(features.H @ u, matrix.T @ u, atol=1e-12)


@given(seed=st.integers(0, 2**32))
def test_adjoint_identity(seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = random_features(rng)
    theta, u = rng.normal(size=features.shape[1]), rng.normal(size=25)
    assert_allclose(u @ (features @ theta), theta @ features.rmatvec(u), atol=1e-12)


@pytest.mark.parametrize("index", [[3], [0, 24, 24, -1], [], np.arange(25), np.arange(25) < 4])
def test_rows_are_those_of_the_materialised_matrix(index: object) -> None:
    features = random_features(np.random.default_rng(1))
    index = np.asarray(index, dtype=None if len(index) else int)  # type: ignore[arg-type]
    rows = features.rows(index)
    assert isinstance(rows, sp.csr_array)
    assert_array_equal(rows.toarray(), materialised(features)[index])


# ---------------------------------------------------------------------- the candidates


@given(
    pool=st.integers(2, 40), count=st.integers(1, 30), seed=st.integers(0, 2**63), data=st.data()
)
def test_candidates_are_distinct_and_begin_with_their_own(
    pool: int, count: int, seed: int, data: st.DataObject
) -> None:
    candidates = data.draw(st.integers(2, pool))
    own = np.random.default_rng(seed).integers(pool, size=count)
    drawn = draw_candidates(own, pool, candidates, seed)
    assert drawn.shape == (count, candidates)
    assert drawn.min() >= 0
    assert drawn.max() < pool
    assert_array_equal(drawn[:, 0], own)
    assert all(len(set(row)) == candidates for row in drawn.tolist())
    assert_array_equal(drawn, draw_candidates(own, pool, candidates, seed))


def test_candidates_are_uniform() -> None:
    size, pool, candidates = 40_000, 6, 3
    drawn = draw_candidates(np.full(size, 2), pool, candidates, seed=0)
    share = np.bincount(drawn[:, 1:].ravel(), minlength=pool) / size
    spread = np.sqrt(0.4 * 0.6 / size)
    assert share[2] == 0
    assert_allclose(np.delete(share, 2), 2 / 5, atol=5 * spread)


# ---------------------------------------------------------------------- the arrays


def test_layout() -> None:
    arrays = assemble(SFT_ROWS, PAIRS, candidates=4, n_features=64)
    assert arrays.features.shape == (4 * 9 + 2 * 2, 2 * 64 + 3)
    assert_array_equal(arrays.offsets, [*range(0, 40, 4), 38, 40])
    assert_array_equal(arrays.demonstrations, range(0, 36, 4))
    assert_array_equal(arrays.chosen, [36, 38])
    assert_array_equal(arrays.rejected, [37, 39])
    # "The colour is blue." is a completion and a chosen response: one row of psi.
    assert arrays.features.psi.shape[0] == 8 + 3
    assert arrays.features.response[36] == 2


def test_rows_of_the_arrays_are_the_features_of_their_texts() -> None:
    arrays = assemble(SFT_ROWS, PAIRS, candidates=4, n_features=64)
    psi = hash_texts(["The colour is blue.", "assistant: Hello"], 64).toarray()
    own = arrays.demonstrations[2]
    for row, expected, overlap in ((own, psi[0], 2 / 4), (36, psi[0], 1 / 4), (38, psi[1], 0.0)):
        found = arrays.features.rows([row]).toarray()[0]
        assert_allclose(found[:64], expected)
        assert found[128] == overlap
        assert_allclose(found[64:128], overlap * expected)


def test_fewer_completions_than_candidates() -> None:
    arrays = assemble(SFT_ROWS[:3], PAIRS[:1], candidates=8, n_features=16)
    assert_array_equal(np.diff(arrays.offsets), [3, 3, 3, 2])
    with pytest.raises(InputError, match="all completions are the same"):
        assemble([SFT_ROWS[0], SFT_ROWS[7]], PAIRS)
    with pytest.raises(InputError, match="one row alone"):
        assemble(SFT_ROWS[:1], PAIRS)


def test_assembly_depends_on_the_seed_alone() -> None:
    first, again, other = (assemble(SFT_ROWS, PAIRS, candidates=4, seed=s) for s in (1, 1, 2))
    assert_array_equal(first.features.response, again.features.response)
    assert_array_equal(first.features.psi.toarray(), again.features.psi.toarray())
    assert np.any(first.features.response != other.features.response)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"sft_rows": []}, "sft_rows"),
        ({"preference_rows": []}, "preference_rows"),
        ({"candidates": 1}, "candidates"),
        ({"seed": -1}, "seed"),
        ({"n_features": 1}, "n_features"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], field: str) -> None:
    with pytest.raises(InputError) as caught:
        assemble(**({"sft_rows": SFT_ROWS, "preference_rows": PAIRS} | arguments))  # type: ignore
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (lambda texts: np.ones((2, 3)), "not one row"),
        (lambda texts: np.ones(len(texts)), "not one row"),
        (lambda texts: np.array([[1.0]] + [[np.nan]] * (len(texts) - 1)), "row 2.*finite"),
    ],
)
def test_features_of_a_caller_are_checked(given: Features, problem: str) -> None:
    rows = [SftRow("a", "one"), SftRow("b", "two")]
    with pytest.raises(InputError, match=f"(?s){problem}"):
        assemble(rows, [PreferenceRow("c", "good", "bad")], features=given)


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(InputError, match=r"tradeoff\[text\]"):
        assemble(SFT_ROWS, PAIRS)


# ---------------------------------------------------------------------- the features


@given(texts=st.lists(st.text(), min_size=1, max_size=5), prompts=st.lists(st.text(), min_size=1))
def test_features_are_bounded(texts: list[str], prompts: list[str]) -> None:
    psi = hash_texts(texts, 32)
    assert psi.shape == (len(texts), 32)
    assert np.max((psi**2).sum(axis=1)) <= 1 + 1e-12
    x, y = np.indices((len(prompts), len(texts))).reshape(2, -1)
    dense = relate(prompts, texts, x, y)
    assert np.min(dense) >= 0
    assert np.max(dense) <= 1


def test_how_a_prompt_and_a_response_relate() -> None:
    at = np.array([0])
    dense = relate(["Is the sky blue?"], ["The sky, the SKY is red"], at, at)
    assert_allclose(dense[0, :2], [3 / 4, 3 / 5])


def test_held_out_texts_share_the_features() -> None:
    together = hash_texts(["one of them", "unseen words"], 128).toarray()
    assert_array_equal(together[1:], hash_texts(["unseen words"], 128).toarray())
    train = text_problem(SFT_ROWS, PAIRS, radius=2.0, n_features=128)
    test = text_problem(SFT_ROWS[4:], PAIRS[:1], radius=2.0, n_features=128, beta=0.5)
    assert train.dimension == test.dimension
    assert_array_equal(
        train.rows([train.chosen[0]]).toarray(), test.rows([test.chosen[0]]).toarray()
    )


def test_the_problem_is_that_of_the_materialised_features() -> None:
    problem = text_problem(SFT_ROWS, PAIRS, radius=2.0, candidates=4, n_features=32, beta=0.5)
    matrix = aslinearoperator(materialised(problem.features))
    theta = np.random.default_rng(2).normal(size=problem.dimension)
    z = matrix @ theta
    start = problem.demonstrations
    sft = np.mean([np.log(np.exp(z[s : s + 4]).sum()) - z[s] for s in start])
    margins = z[problem.chosen] - z[problem.rejected]
    assert_allclose(problem.losses(theta), [sft, np.mean(np.log1p(np.exp(-0.5 * margins)))])
    direction = np.random.default_rng(3).normal(size=problem.dimension)
    step = 1e-6 * direction
    slope = (problem.losses(theta + step) - problem.losses(theta - step)) / 2e-6
    assert_allclose(problem.gradients(theta) @ direction, slope, rtol=1e-6)


def test_real_files_pose_a_trade_off_that_holds_on_held_out_prompts() -> None:
    if not (DATA / "sft_rasbt_train.jsonl.gz").exists():
        pytest.skip("the real files sft_rasbt and pref_rasbt are not part of the repository")
    train, test = (
        text_problem(
            read_sft(DATA / f"sft_rasbt_{part}.jsonl.gz"),
            read_preferences(DATA / f"pref_rasbt_{part}.jsonl.gz"),
            radius=20.0,
            beta=1.0,
        )
        for part in ("train", "test")
    )
    best = []
    for objective in (0, 1):
        theta = np.zeros(train.dimension)
        for _ in range(60):
            theta = train.project(theta - 4.0 * train.gradients(theta)[objective])
        best.append(test.losses(theta))
    (sft_best, dpo_there), (sft_there, dpo_best) = best
    assert sft_best < 0.6 * np.log(8) < sft_there
    assert dpo_best < 0.6 * np.log(2) < dpo_there


def test_a_pool_is_data_of_any_length():
    shape = {"candidates": 3, "n_features": 32, "radius": 2.0}
    for pool in (["word " * 20_000], [f"{i}" for i in range(2**16 + 1)]):
        assert text_problem(SFT_ROWS, PAIRS, pool=pool, **shape).dimension == 67
