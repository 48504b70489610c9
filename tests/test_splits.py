"""Held-out rows: no prompt is both trained and tested on, and repeated rows are counted."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradeoff.data import Message, PreferenceRow, SftRow
from tradeoff.data import overlap as overlap_module
from tradeoff.data.overlap import Overlap, overlap, overlaps, repeated
from tradeoff.data.splits import Split, hold_out, prompt_key
from tradeoff.errors import InputError
from tradeoff.llm import _corpora
from tradeoff.llm.config import TrainConfig
from tradeoff.llm.defects import Defects

OTHERS = [PreferenceRow(f"another {i}", "yes", "no") for i in range(20)]


def split(rows: list[Any], **settings: Any) -> tuple[list[Any], list[Any]]:
    """Split one set, together with another set that has its own prompts."""
    found, _ = _corpora._hold_out((rows, OTHERS), (None, None), TrainConfig(**settings))
    return list(found.train), list(found.test)


@pytest.mark.parametrize("seed", range(5))
def test_no_prompt_is_on_both_sides(seed: int) -> None:
    rows = [SftRow(f"prompt {i % 37}", f"answer {i}") for i in range(200)]
    kept, out = split(rows, holdout=0.2, seed=seed)
    assert {row.prompt for row in kept}.isdisjoint(row.prompt for row in out)
    assert sorted(map(str, kept + out)) == sorted(map(str, rows))
    assert len({row.prompt for row in out}) == round(0.2 * 37)


def test_the_split_is_a_function_of_the_seed_and_of_the_prompts() -> None:
    rows = [SftRow(f"prompt {i}", "yes") for i in range(50)]
    assert split(rows, seed=3) == split(rows, seed=3)
    assert split(rows, seed=3) != split(rows, seed=4)
    turned = split(rows[::-1], seed=3)
    assert [set(part) for part in turned] == [set(part) for part in split(rows, seed=3)]


def test_documents_are_split_by_their_order() -> None:
    rows = [SftRow("", f"document {i}") for i in range(20)]
    assert split(rows, holdout=0.1) == (rows[:18], rows[18:])
    mixed = [*rows, SftRow("q", "a")]
    kept, out = split(mixed, holdout=0.5)
    assert {len(kept), len(out)} == {10, 11}  # Each document has its own prompt.


@pytest.mark.parametrize(("holdout", "kept"), [(0.01, 19), (0.99, 1)])
def test_neither_side_is_left_empty(holdout: float, kept: int) -> None:
    documents = [SftRow("", f"document {i}") for i in range(20)]
    assert split(documents, holdout=holdout) == (documents[:kept], documents[kept:])
    # Of four prompts a large share would take all, but both sides must have some.
    rows = [SftRow(f"prompt {i % 4}", f"answer {i}") for i in range(20)]
    train, out = split(rows, holdout=holdout)
    assert {row.prompt for row in train}.isdisjoint(row.prompt for row in out)
    assert {len(train), len(out)} == {5, 15}


def test_given_rows_are_held_out_instead_and_cut() -> None:
    rows = [SftRow(f"{i}", "a") for i in range(30)]
    test = [SftRow(f"test {i}", "a") for i in range(9)]
    config = TrainConfig(evaluate_rows=4)
    found, others = _corpora._hold_out((rows, OTHERS), (test, None), config)
    assert found == Split(rows, test[:4])
    assert (len(others.train), len(others.test)) == (19, 1)
    assert split(rows, holdout=0.0) == (rows, [])
    kept, out = split(rows, holdout=0.5, evaluate_rows=4)
    assert (len(kept), len(out)) == (15, 4)
    with pytest.raises(InputError, match="no rows"):
        split([])


def test_the_official_split_tests_on_training_rows() -> None:
    rows = [SftRow(f"{i}", "a") for i in range(100)]
    defects = Defects(evaluate_on_training_rows=True)
    assert split(rows, defects=defects) == (rows, rows[:3])


def test_a_conversation_with_loss_on_all_turns_stays_on_one_side() -> None:
    rows = [
        SftRow(
            tuple(
                Message(role, f"{role} {i} {n}") for n in range(2) for role in ("user", "assistant")
            )[:3],
            (Message("assistant", f"last {i}"),),
        )
        for i in range(20)
    ]
    config = TrainConfig(holdout=0.25, turns="all", evaluate_rows=9)
    found, _ = _corpora._hold_out((rows, OTHERS), (None, None), config)
    found = _corpora._in_turns(found, config)
    assert (len(found.train), len(found.test)) == (30, 9)
    trained = {row.prompt[0] for row in found.train}
    assert trained.isdisjoint(row.prompt[0] for row in found.test)


@pytest.mark.parametrize("shuffled", [False, True])
def test_both_sets_from_the_same_prompts_are_split_alike(shuffled: bool) -> None:
    pairs = [PreferenceRow(f"Question {i}?", f" Answer {i}.", f" Wrong {i}.") for i in range(200)]
    sft = [SftRow(row.prompt, row.chosen) for row in pairs]
    if shuffled:
        random.Random(3).shuffle(pairs)
    found = _corpora._hold_out((sft, pairs), (None, None), TrainConfig(holdout=0.1))
    demonstrations, preferences = found
    assert (len(demonstrations.test), len(preferences.test)) == (20, 20)
    trained = {(row.prompt, row.chosen) for row in preferences.train}
    assert sum((row.prompt, row.completion) in trained for row in demonstrations.test) == 0
    assert overlap(demonstrations.test, preferences.train).equal == 0


def test_given_prompts_that_the_other_set_trains_on_are_counted() -> None:
    sft = [SftRow(f"Question {i}?", "yes") for i in range(20)]
    test = [
        SftRow((Message("user", f"another {i}"),), (Message("assistant", "a"),)) for i in (3, 99)
    ]
    pairs = [PreferenceRow("Question 7?", "a", "b"), PreferenceRow("another 3", "a", "b")]
    found = _corpora._overlaps(Split(sft, test), Split(OTHERS, pairs))
    assert found["sft_test"]["prompts_trained_on"] == 1
    assert found["preference_test"]["prompts_trained_on"] == 2
    splits = _corpora._hold_out((sft, OTHERS), (None, None), TrainConfig(holdout=0.1))
    assert "prompts_trained_on" not in _corpora._overlaps(*splits)["sft_test"]


def test_repeated_rows_and_contradicted_pairs_are_counted() -> None:
    rows = [SftRow("q", "a"), SftRow("q", "b"), SftRow("q", "a"), SftRow("q", "a", extras="{}")]
    assert repeated(rows) == {"repeated_rows": 1}
    pairs = [
        PreferenceRow("q", "a", "b"),
        PreferenceRow("q", "b", "a"),
        PreferenceRow("p", "a", "b"),
    ]
    assert repeated(pairs) == {"contradicted_pairs": 2}
    assert repeated(pairs[1:]) == repeated([]) == {}


def test_text_and_messages_that_say_the_same_are_one_prompt() -> None:
    sft = [SftRow(f"Question {i}?", f" Answer {i}.") for i in range(40)]
    pairs = [
        PreferenceRow(
            (Message("user", f" Question {i}?\n"),),
            (Message("assistant", f"Answer {i}."),),
            (Message("assistant", "No."),),
        )
        for i in range(40)
    ]
    found = hold_out((sft, None), (pairs, None), 0.25)
    first, second = ({prompt_key(row) for row in part.test} for part in found)
    assert first == second
    assert len(first) == 10
    assert not {prompt_key(row) for part in found for row in part.train} & first


PROMPTS = st.lists(st.integers(0, 12).map(str), min_size=2, max_size=30)


@given(
    sft=PROMPTS,
    pairs=PROMPTS,
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
    test=st.sampled_from([(False, False), (True, False), (False, True)]),
)
def test_no_held_out_prompt_is_trained_on_in_either_set(
    sft: list[str], pairs: list[str], share: float, seed: int, test: tuple[bool, bool]
) -> None:
    demonstrations = [SftRow(p, f"answer {i}") for i, p in enumerate(sft)]
    preferences = [PreferenceRow(p, f"yes {i}", "no") for i, p in enumerate(pairs)]
    found = hold_out(
        (demonstrations, [SftRow("t", "t")] if test[0] else None),
        (preferences, [PreferenceRow("t", "y", "n")] if test[1] else None),
        share,
        seed,
    )
    for part, rows, given_rows in zip(found, (demonstrations, preferences), test, strict=True):
        kept = len(part.train) + part.removed + (0 if given_rows else len(part.test))
        assert kept == len(rows)
        assert len(part.train)
        assert len(part.test)
    # A set with a single prompt is split by rows, so its prompt is on both sides.
    single = {rows[0] for rows in (sft, pairs) if len(set(rows)) == 1}
    out = {prompt_key(row) for part in found for row in part.test} - single
    assert out.isdisjoint(prompt_key(row) for part in found for row in part.train)


# ---------------------------------------------------------------------- repeated rows


def words(seed: int, count: int) -> str:
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(1000)}" for _ in range(count))


@pytest.mark.parametrize("changed", [0, 1, 3, 40])
def test_near_duplicates_are_those_of_large_jaccard_similarity(changed: int) -> None:
    train = [SftRow(f"prompt {i}", words(i, 80)) for i in range(60)]
    test = []
    for i, row in enumerate(train[:30]):
        parts = str(row.completion).split()
        for place in range(0, 2 * changed, 2):
            parts[place % 80] = f"new{i}"
        test.append(PreferenceRow(row.prompt, "  ".join(parts).upper(), "no"))
    expected = {0: (30, 0), 1: (0, 30), 3: (0, 30), 40: (0, 0)}[changed]
    assert overlap(test, train, ()) == Overlap(30, *expected)


def test_the_texts_of_any_row_are_compared() -> None:
    chat = SftRow(
        (Message("user", "こんにちは、元気ですか"),), (Message("assistant", "はい、元気です"),)
    )
    short = SftRow("a", "b")
    rows = [chat, short, SftRow("", "c")]
    assert overlap(rows, rows) == Overlap(3, 3, 0)
    assert overlap([SftRow("!", "?")], rows) == Overlap(1, 0, 0)
    assert overlaps([rows, [short], []], [short]) == [
        Overlap(3, 1, 0), Overlap(1, 1, 0), Overlap(0, 0, 0),
    ]  # fmt: skip


def test_of_very_many_rows_equal_ones_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap_module, "MANY", 10)
    train = [SftRow(f"prompt {i}", words(i, 20)) for i in range(30)]
    near = SftRow(train[1].prompt, f"{train[1].completion} more")
    assert overlap([train[0], near], train) == Overlap(2, 1, 0)
