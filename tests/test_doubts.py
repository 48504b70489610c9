"""Limits of an analysis are reported before its numbers, with a count and a remedy."""

import json
import random

import numpy as np
import pytest

from tradeoff import conflict, doubts
from tradeoff.cli import main
from tradeoff.data import PreferenceRow, SftRow, read_sft
from tradeoff.data.sample import sampled
from tradeoff.data.words import count, is_unspaced, words
from tradeoff.errors import InputError

WORDS = ["apple", "river", "stone", "cloud", "green", "quick", "silent", "bright", "table"]
OPTIONS = {"radius": 5.0, "candidates": 4, "n_features": 256, "solves": 3, "steps": 2}


def texts(number: int, seed: int = 0, length: int = 9, letters=WORDS, blank=" ") -> list[str]:
    """Texts without any pattern."""
    rng = random.Random(seed)
    return [blank.join(rng.choice(letters) for _ in range(length)) for _ in range(number)]


def demonstrations(number: int = 60) -> list[SftRow]:
    """Prompts whose words the correct response repeats."""
    return [SftRow(f"Write {t}", f"{t} it is") for t in texts(number, 1, 4)]


def pairs(number: int = 60) -> list[PreferenceRow]:
    """Pairs of a kind and a curt response."""
    found = texts(number, 2, 4)
    return [PreferenceRow(f"Say {t}", f"{t} thank you kindly", f"{t} no more") for t in found]


def kinds(found: conflict.Analysis) -> dict[str, doubts.Doubt]:
    return {doubt.kind: doubt for doubt in found.doubts}


def test_rows_that_can_be_seen_raise_no_doubt():
    found = conflict.analyse(demonstrations(200), pairs(200), **OPTIONS)
    assert found.doubts == ()
    assert found.in_doubt == ()
    assert repr(found).startswith("Analysis(conflict")


@pytest.mark.parametrize("change", [str.upper, lambda text: text.replace(" ", "\n")])
def test_pairs_that_differ_in_what_is_not_hashed(change):
    given = [PreferenceRow(f"Write {i}", change(t), t) for i, t in enumerate(texts(60))]
    found = conflict.analyse(demonstrations(), given, **OPTIONS)
    seen = kinds(found)
    assert (seen["invisible_pairs"].count, seen["invisible_pairs"].of) == (54, 54)
    assert "54 of 54 pairs" in str(seen["invisible_pairs"])
    assert "flat_objective" in seen
    empty = ("conflict", "preference_forgotten", "suggested_lam", "suggested_share")
    assert all(np.isnan(found.summary[name]) for name in (*empty, "gradient_cosine"))
    assert set(empty) <= set(found.in_doubt)
    assert "suggested" not in set(found.policies.kind)
    assert found.policies.matched_weight.isna().all()
    assert repr(found).startswith("Analysis(in doubt, see doubts: invisible_pairs, flat_objective")


def test_few_invisible_pairs_are_counted_and_put_no_number_in_doubt():
    some = [PreferenceRow(f"Write {i}", t.upper(), t) for i, t in enumerate(texts(5))]
    found = conflict.analyse(demonstrations(), [*pairs(), *some], **OPTIONS)
    doubt = kinds(found)["invisible_pairs"]
    assert 0 < doubt.count <= 5
    assert doubt.affects == ()


def test_documents_and_single_prompts():
    for prompt, kind in (("", "documents"), ("Tell me.", "one_prompt")):
        given = [SftRow(prompt, row.completion) for row in demonstrations()]
        doubt = kinds(conflict.analyse(given, pairs(), **OPTIONS))[kind]
        assert (doubt.count, doubt.of) == (54, 54)
        assert "sft_forgotten" in doubt.affects
    given = [PreferenceRow("Tell me.", row.chosen, row.rejected) for row in pairs()]
    found = kinds(conflict.analyse(demonstrations(), given, **OPTIONS))["one_prompt"]
    assert "preference rows" in str(found)
    assert "--preference-test" in found.remedy


@pytest.mark.parametrize(
    ("alphabet", "language"),
    [("我们的天地人山水火", "Chinese"), ("あいうえおかきくけ", "Japanese"), ("กขคงจฉชซฌ", "Thai")],
)
def test_scripts_without_blanks_are_counted_by_letters(alphabet, language):
    answers = texts(60, 3, 20, alphabet, "")
    given = [SftRow(text[:5], text) for text in answers]
    found = conflict.analyse(given, pairs(), **OPTIONS)
    doubt = kinds(found)["no_blanks"]
    assert (doubt.count, doubt.of) == (54, 54), language
    assert "cost_ratio" in found.in_doubt
    # 25 letters of a demonstration; a pair has 4 + 1 words of prompt twice, 4 + 3 and 4 + 2.
    assert found.summary["cost_ratio"] == pytest.approx((10 + 7 + 6) / 25)


def test_words_of_every_script():
    assert words("The fox, twice") == ["The", "fox", "twice"]
    assert words("日本 go") == ["日", "本", "go"]
    assert count("don't stop") == 2
    assert count("我们 go now") == 4
    assert [is_unspaced(text) for text in ("don't", "我们在go", "我 went home", "한국어 글")] == [
        False, True, False, False,
    ]  # fmt: skip


def test_objectives_that_agree_leave_nothing_to_trade():
    given = demonstrations()
    same = [
        PreferenceRow(row.prompt, row.completion, "zzz zzz zzz zzz zzz zzz zzz") for row in given
    ]
    front = conflict.analyse(given, same, **OPTIONS).front
    point = type(front)((front.minima[0],) * 2, front.end_bounds)
    problem = conflict.text_problem(given, same, radius=5.0, n_features=256)
    (doubt,) = doubts.of_front(problem, point)
    assert (doubt.kind, doubt.count, doubt.of) == ("no_range", 2, 2)
    assert "suggested_lam" in doubt.affects


def test_chance_lies_within_the_interval():
    (doubt,) = doubts.of_accuracy(np.array([0.9, 0.55]), (100, 100), 4)
    assert (doubt.kind, doubt.count, doubt.of) == ("near_chance", 55, 100)
    assert "0.45 to 0.64, chance 0.50" in doubt.problem
    assert "conflict" in doubt.affects
    assert not list(doubts.of_accuracy(np.array([0.9, 0.6]), (100, 400), 4))
    worse = list(doubts.of_accuracy(np.array([0.1, 0.2]), (100, 100), 4))
    assert len(worse) == 2
    noise = [
        PreferenceRow(f"Q {i}", t, u)
        for i, (t, u) in enumerate(zip(texts(60, 5), texts(60, 6), strict=True))
    ]
    assert "near_chance" in kinds(conflict.analyse(demonstrations(), noise, **OPTIONS))


@pytest.mark.parametrize("bound", ["max_rows", "letters"])
def test_rows_that_are_drawn_are_counted_with_the_remedy(bound, monkeypatch):
    given, most = (demonstrations(), pairs()), {"max_rows": 40} if bound == "max_rows" else {}
    if bound == "letters":
        letters = sum(conflict._letters(row) for rows in given for row in rows)
        monkeypatch.setattr(conflict, "MAX_LETTERS", letters * 2 / 3)
    found = conflict.analyse(*given, **most, **OPTIONS)
    drawn = [doubt for doubt in found.doubts if doubt.kind == "sampled"]
    assert [(doubt.count, doubt.of) for doubt in drawn] == [(20, 60), (20, 60)]
    assert "--rows 60" in drawn[0].remedy
    assert found.summary["sft_rows"] + found.summary["sft_test_rows"] == 40
    whole = conflict.analyse(*given, max_rows=60, **OPTIONS)
    assert "sampled" not in kinds(whole)


def test_a_sample_is_uniform_ordered_and_a_function_of_its_seed(tmp_path):
    drawn = np.array([sampled(range(20), 5, seed) for seed in range(2000)])
    assert (np.diff(drawn, axis=1) > 0).all()
    counts = np.bincount(drawn.ravel(), minlength=20)
    assert abs(counts - 500).max() < 5 * np.sqrt(500 * 0.75)
    assert sampled(range(20), 5, 1) == sampled(iter(range(20)), 5, 1)
    assert sampled(range(3), 5) == (0, 1, 2)
    file = tmp_path / "rows.jsonl"
    lines = [json.dumps({"prompt": f"p {i}", "completion": "c"}) for i in range(30)]
    file.write_text("\n".join(lines) + "\n")
    rows = read_sft(file, sample=7, seed=3)
    assert (len(rows), rows.left) == (7, 23)
    assert [row.origin.row for row in rows] == [i + 1 for i in sampled(range(30), 7, 3)]
    assert "7 of 30 usable rows were drawn" in rows.remarks()[0]
    file.write_text("\n".join([*lines, "{}"]) + "\n")
    with pytest.raises(InputError, match="row 31"):  # Rows that are not drawn are checked too.
        read_sft(file, sample=7)
    with pytest.raises(InputError, match="no rows are asked for"):
        read_sft(file, sample=0)


@pytest.mark.slow
def test_the_command_line_says_it_first(capsys, tmp_path):
    files = [tmp_path / "sft.jsonl", tmp_path / "pairs.jsonl"]
    rows = [
        [{"text": text} for text in texts(50)],
        [{"prompt": str(i), "chosen": t.upper(), "rejected": t} for i, t in enumerate(texts(50))],
    ]
    for file, some in zip(files, rows, strict=True):
        file.write_text("".join(json.dumps(row) + "\n" for row in some))
    arguments = ["analyse", "--sft", str(files[0]), "--preference", str(files[1])]
    arguments += ["--radius", "5", "--features", "256", "--solves", "3", "--steps", "2"]
    arguments += ["--rows", "40", "--out", str(tmp_path)]
    with pytest.raises(SystemExit):
        main(arguments)
    shown = capsys.readouterr().out
    assert shown.index("warning: 40 of 50 SFT rows were drawn") < shown.index("losses in nats")
    assert "36 of 36 pairs have two responses with the same features" in shown
    assert "in doubt" in shown.split("conflict")[-1]
    record = json.loads((tmp_path / "analyse.json").read_text())
    assert {"sampled", "documents", "invisible_pairs"} <= {x["kind"] for x in record["warnings"]}
    assert all(x["count"] and x["remedy"] and x["text"] for x in record["warnings"])
    assert "conflict" in record["in_doubt"]
    assert record["summary"]["conflict"] is None
