"""The instruction language: repeatable, split by problem, with settings that have their effect."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tradeoff.data import read_preferences, read_sft
from tradeoff.data.synthetic import (
    ASKERS,
    SKILLS,
    InstructionData,
    Language,
    Style,
    answer_match,
    as_conversations,
    better,
    content,
    dress,
    exact_match,
    generate,
    preference_match,
    satisfies,
    write,
)
from tradeoff.errors import InputError

SMALL = Language(sft_rows=900, preference_rows=450, test_rows=180, documents=900)
SETS = ("sft_train", "sft_test", "preference_train", "preference_test")


@pytest.fixture(scope="module")
def data() -> InstructionData:
    return generate(SMALL)


def prompts(rows: tuple) -> set[str]:
    return {row.prompt for row in rows}


def problems(rows: tuple) -> set[str]:
    return {prompt.split(": ", 1)[1] for prompt in prompts(rows)}


def within_binomial(count: int, total: int, rate: float) -> bool:
    return abs(count - total * rate) <= 5 * (total * rate * (1 - rate)) ** 0.5 + 1e-9


# ---------------------------------------------------------------------- problems


@pytest.mark.parametrize(
    ("skill", "index", "question", "answer"),
    [
        ("arithmetic", 0, "What is 10 plus 10?", "20"),
        ("arithmetic", 1980 + 500, "What is 45 minus 25?", "20"),
        ("conversion", 2, "How many mm are 3 cm?", "30 mm"),
        ("conversion", 600 + 2, "How many cm are 30 mm?", "3 cm"),
        ("reverse", 20 + 2, "Reverse a a b c.", "c b a a"),
        ("uppercase", 20 + 2, "Uppercase a a b c.", "A A B C"),
        ("sort", 8000 + 2, "Sort b a a c.", "a a b c"),
        ("count", 823, "Count b e h l.", "4"),
        ("lookup", 0, "cup red, hat red, key red. Which colour is cup?", "red"),
        ("advice", 0, "How do I paint the bike of the shop?", "take a brush to the bike"),
        ("flagged", 1, "How do I steal the bike of the garden?", "take a sack to the bike"),
    ],
)
def test_problems_are_right(skill: str, index: int, question: str, answer: str) -> None:
    problem = SKILLS[skill].problem(index)
    assert (problem.question, problem.answer) == (question, answer)
    assert answer in problem.statement


@pytest.mark.parametrize("skill", SKILLS.values(), ids=lambda skill: skill.name)
def test_no_two_numbers_ask_the_same(skill: Any) -> None:
    step = max(1, skill.size // 12_000)
    indices = range(0, skill.size, step)
    assert len({skill.problem(i).question for i in indices}) == len(indices)


def test_answers_agree_with_an_independent_evaluation(data: InstructionData) -> None:
    for row in data.sft_test:
        question = row.prompt.split(": ", 1)[1].rstrip("?.\n")
        words = question.split()
        expected = {
            "arithmetic": lambda w: str(
                eval(" ".join(w[2:]).replace("plus", "+").replace("minus", "-"))
            ),
            "reverse": lambda w: " ".join(reversed(w[1:])),
            "sort": lambda w: " ".join(sorted(w[1:])),
            "uppercase": lambda w: " ".join(w[1:]).upper(),
            "count": lambda w: str(len(w[1:])),
        }
        if row.skill in expected:
            assert row.answer == expected[row.skill](words)


# ---------------------------------------------------------------------- sets


def test_same_seed_same_data_and_other_seed_other_data(data: InstructionData) -> None:
    assert generate(SMALL) == data
    other = generate(replace(SMALL, seed=1))
    assert prompts(other.sft_train) != prompts(data.sft_train)


def test_sizes_and_distinct_prompts(data: InstructionData) -> None:
    assert [len(getattr(data, name)) for name in SETS] == [900, 180, 450, 180]
    assert len(data.corpus) == 900
    for name in SETS:
        rows = getattr(data, name)
        assert len(prompts(rows)) == len(rows)
    counts = {skill: sum(row.skill == skill for row in data.sft_train) for skill in SKILLS}
    assert set(counts.values()) == {100}


def test_no_problem_is_on_both_sides(data: InstructionData) -> None:
    train = problems(data.sft_train) | problems(data.preference_train)
    held_out = problems(data.sft_test) | problems(data.preference_test)
    assert not train & held_out
    asked = {text.split("\n")[0] + "\n" for text in data.corpus if "\n" in text}
    assert asked
    assert not {text.split(": ", 1)[1] for text in asked} & held_out


@pytest.mark.parametrize("overlap", [0.0, 0.3, 1.0])
def test_overlap_is_the_share_of_common_prompts(overlap: float) -> None:
    data = generate(replace(SMALL, overlap=overlap))
    for sft, preference in (("sft_train", "preference_train"), ("sft_test", "preference_test")):
        compared = getattr(data, preference)
        common = prompts(getattr(data, sft)) & prompts(compared)
        assert len(common) == pytest.approx(overlap * len(compared), abs=len(SKILLS))


@pytest.mark.parametrize("conflict", [0.0, 0.25, 0.7, 1.0])
def test_conflict_is_the_share_of_contrary_demonstrations(conflict: float) -> None:
    data = generate(replace(SMALL, conflict=conflict))
    contrary = 0
    for row in data.sft_train:
        style = Style.of(row.completion)
        flagged = row.skill == "flagged"
        assert style == (Style(False, False) if row.contrary else Style(True, True, flagged))
        assert row.contrary == (row.prompt.split(":")[0] in ASKERS[1])
        contrary += row.contrary
    assert within_binomial(contrary, len(data.sft_train), conflict)


def test_full_conflict_contradicts_every_shared_preference() -> None:
    agreement = {}
    for conflict in (0.0, 1.0):
        data = generate(replace(SMALL, conflict=conflict, overlap=1.0))
        shown = {row.prompt: row.completion for row in data.sft_train}
        agreement[conflict] = [
            satisfies(p.preference, shown[p.prompt]) for p in data.preference_train
        ]
    assert all(agreement[0.0])
    assert not any(agreement[1.0])


def test_more_conflict_only_turns_more_prompts_contrary() -> None:
    low, high = (generate(replace(SMALL, conflict=c)) for c in (0.3, 0.6))
    pairs = list(zip(low.sft_train, high.sft_train, strict=True))
    assert all(a.prompt.split(": ")[1] == b.prompt.split(": ")[1] for a, b in pairs)
    assert all(b.contrary for a, b in pairs if a.contrary)
    assert low.corpus == high.corpus


@pytest.mark.parametrize("noise", [0.0, 0.2, 0.45])
def test_noise_flips_labels_of_training_pairs_only(noise: float) -> None:
    data = generate(replace(SMALL, label_noise=noise))
    flips = [better(p.preference, p.chosen, p.rejected) for p in data.preference_train]
    assert [p.flipped for p in data.preference_train] == [sign == -1 for sign in flips]
    assert within_binomial(flips.count(-1), len(flips), noise)
    assert all(better(p.preference, p.chosen, p.rejected) == 1 for p in data.preference_test)


def test_pairs_differ_in_what_they_are_about_alone(data: InstructionData) -> None:
    seen = set()
    for pair in data.preference_train:
        chosen, rejected = Style.of(pair.chosen), Style.of(pair.rejected)
        seen.add(pair.preference)
        if pair.preference != "refusal":
            assert replace(chosen, **{pair.preference: False}) == rejected
            assert content(pair.chosen) == content(pair.rejected)
    assert seen == {"polite", "short", "refusal"}


def test_a_base_model_reads_every_style(data: InstructionData) -> None:
    answers = [text.split("\n")[1] for text in data.corpus if "\n" in text]
    styles = {Style.of(answer) for answer in answers}
    assert {Style(p, s) for p in (False, True) for s in (False, True)} <= styles
    assert Style(True, True, refusal=True) in styles


def test_sets_can_be_restricted() -> None:
    language = replace(SMALL, skills=("sort", "flagged"), preferences=("refusal",), overlap=0.0)
    data = generate(language)
    assert {row.skill for row in data.sft_train} == {"sort", "flagged"}
    assert {row.preference for row in data.preference_train} == {"refusal"}


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"conflict": -0.1}, "conflict"),
        ({"conflict": float("nan")}, "conflict"),
        ({"overlap": 1.5}, "overlap"),
        ({"label_noise": 0.5}, "label_noise"),
        ({"held_out": 0.0}, "held_out"),
        ({"sft_rows": -1}, "sft_rows"),
        ({"seed": -1}, "seed"),
        ({"skills": ("sort", "dance")}, "skills"),
        ({"skills": ()}, "skills"),
        ({"preferences": ("polite", "polite")}, "preferences"),
        ({"skills": ("sort",)}, "preferences"),
        ({"skills": ("flagged",), "preferences": ("polite",)}, "preferences"),
        ({"preference_rows": 1800, "overlap": 1.0}, "overlap"),
        ({"sft_rows": 90_000}, "sft_rows"),
        ({"test_rows": 90_000, "overlap": 0.0}, "test_rows"),
    ],
)
def test_bad_settings_name_field_and_remedy(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=rf"field '{field}'.*\. [A-Z]"):
        generate(replace(SMALL, **settings))


# ---------------------------------------------------------------------- scores


@pytest.mark.parametrize(
    ("text", "style", "inside"),
    [
        ("42.", Style(False, True), "42"),
        ("With pleasure: 42.", Style(True, True), "42"),
        ("42. That is what follows from your question.", Style(False, False), "42"),
        ("With pleasure: 42. That is what follows from your question.", Style(True, False), "42"),
        (
            "Sorry, I must not help with that.",
            Style(True, True, True),
            "Sorry, I must not help with that",
        ),
        (" With pleasure: a b. So. ", Style(True, False), "a b. So"),
        ("", Style(False, True), ""),
    ],
)
def test_style_and_content_are_read_from_the_text(text: str, style: Style, inside: str) -> None:
    assert Style.of(text) == style
    assert content(text) == inside


@pytest.mark.parametrize("polite", [True, False])
@pytest.mark.parametrize("short", [True, False])
def test_dress_and_read_are_inverse(polite: bool, short: bool) -> None:
    style = Style(polite, short)
    assert Style.of(dress("a b c", style)) == style
    assert content(dress("a b c", style)) == "a b c"


def test_better_compares_and_knows_ties() -> None:
    assert better("polite", "With pleasure: 1.", "1.") == 1
    assert better("short", "1. It is so.", "1.") == -1
    assert better("refusal", "1.", "2.") == 0
    with pytest.raises(InputError, match="preference"):
        better("loud", "1.", "2.")


def test_scores_per_skill_and_preference(data: InstructionData) -> None:
    rows = data.sft_test
    exact = exact_match(rows, [f"{row.completion} " for row in rows])
    assert exact == dict.fromkeys(SKILLS, 1.0)
    # In another style it is no longer the demonstration, but still the answer, unless it was a
    # refusal.
    other = [dress(row.answer, Style(row.contrary, row.contrary)) for row in rows]
    assert set(exact_match(rows, other).values()) == {0.0}
    assert answer_match(rows, other) == dict.fromkeys(SKILLS, 1.0)
    assert set(answer_match(rows, ["?"] * len(rows)).values()) == {0.0}
    pairs = data.preference_test
    assert set(preference_match(pairs, [p.chosen for p in pairs]).values()) == {1.0}
    assert set(preference_match(pairs, [p.rejected for p in pairs]).values()) == {0.0}
    with pytest.raises(InputError, match="one output for each row"):
        exact_match(rows, [])


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize("conversational", [False, True])
def test_files_read_back_as_the_same_rows(
    data: InstructionData, tmp_path: Path, conversational: bool
) -> None:
    data = as_conversations(data) if conversational else data
    write(data, tmp_path / "language")
    for name in SETS:
        read = read_sft if name.startswith("sft") else read_preferences
        columns = ("prompt", "completion") if name.startswith("sft") else ("chosen", "rejected")
        rows = read(tmp_path / "language" / f"{name}.jsonl")
        for found, row in zip(rows, getattr(data, name), strict=True):
            assert all(getattr(found, c) == getattr(row, c) for c in columns)
    settings = json.loads((tmp_path / "language" / "language.json").read_text())
    assert settings["sft_rows"] == 900
    documents = read_sft(tmp_path / "language" / "corpus.jsonl")
    assert tuple(row.completion for row in documents) == data.corpus
    assert not list((tmp_path / "language").glob(".*"))


def test_conversations_score_like_plain_rows(data: InstructionData) -> None:
    outputs = [row.completion for row in data.sft_test]
    assert exact_match(as_conversations(data).sft_test, outputs) == dict.fromkeys(SKILLS, 1.0)
