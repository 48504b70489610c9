"""Advice on two data sets: anchors, repeats, words, the page and the command."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from chat_tokenizers import chat_tokenizer
from llm_models import tiny_llama

from analysis import advised_checked
from tradeoff import cli, doubts
from tradeoff.advice import advise
from tradeoff.advice.anchors import anchor
from tradeoff.advice.measure import compromise, lost
from tradeoff.advice.picture import MARKS, as_text
from tradeoff.advice.repeated import Estimate, estimate, repeat
from tradeoff.advice.sentences import TRIED, choose, five, level, share
from tradeoff.cli.rows import RowReader
from tradeoff.cli.states import unlike
from tradeoff.data import PreferenceRow, SftRow
from tradeoff.data.rows import Message
from tradeoff.errors import InputError
from tradeoff.records import read_json

SMALL = {"repeats": 2, "candidates": 3, "n_features": 128}
THINGS = [f"{a} {b}" for a in ("red", "blue", "green", "old") for b in "abcdefgh"]


def rows(style="curt"):
    says = {"curt": "The {}, no more.", "kind": "Thank you kindly, here: the {}."}
    sft = [SftRow(f"What of the {t}?", says[style].format(t)) for t in THINGS]
    pairs = [
        PreferenceRow(f"Tell of the {t}.", says["kind"].format(t), says["curt"].format(t))
        for t in THINGS
    ]
    return sft, pairs


@pytest.fixture(scope="module")
def found():
    return advise(*rows(), flags=("--skip-bad",), **SMALL)


def table(**columns):
    """Three repeats of numbers that vary little."""
    values = {
        "radius": 20.0, "conflict": 0.2, "lam": 0.6, "alternations": 4.0, "sft_forgotten": 0.5,
        "preference_forgotten": 0.4, "conflict_same": 0.1, "conflict_reversed": 0.7,
        "preference_gain": 0.5, "preference_gain_shuffled": 0.0,
    }  # fmt: skip
    noise = np.array([-0.01, 0.0, 0.01])
    values |= columns
    return pd.DataFrame({k: v + noise * (k != "alternations") for k, v in values.items()})


@pytest.mark.slow
def test_same_seed_same_advice_and_each_order_forgets_the_other(found):
    again = repeat(*rows(), **{**SMALL, "repeats": 1}, beta=1.0, rows=1000, seed=0)
    pd.testing.assert_frame_equal(found.repeats.table[:1], again.table)
    assert found.repeats.table.sft_forgotten.min() > 0.1
    assert found.certified <= 1e-3


def test_the_anchor_that_asks_for_the_rejected_responses_conflicts_more(found):
    numbers = found.repeats.table
    assert (numbers.conflict_reversed > numbers.conflict_same).all()
    assert numbers.preference_gain.min() > numbers.preference_gain_shuffled.max()


def test_anchors_are_made_of_the_pairs():
    sft, pairs = rows()
    same, _ = anchor("same", sft, pairs, 1)
    reverse, _ = anchor("reversed", sft[:5], pairs, 1)
    _, shuffled = anchor("shuffled", sft, pairs, 1)
    assert [row.completion for row in same] == [row.chosen for row in pairs]
    assert {row.completion for row in reverse} <= {row.rejected for row in pairs}
    assert len(reverse) == 5
    turned = sum(a.chosen == b.rejected for a, b in zip(shuffled, pairs, strict=True))
    assert 5 < turned < len(pairs) - 5


def test_a_compromise_is_where_both_keep_the_same_share():
    straight = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert compromise(straight, np.ones(2), (0, 1)) == (0.5, 0.5)
    both = np.array([[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    assert compromise(both, np.ones(2), (0, 0.3, 1)) == (0.0, pytest.approx(0.3))
    assert np.isnan(compromise(np.ones((2, 2)), np.ones(2), (0, 1))).all()
    assert lost(2.0, 1.0, 1.5) == 0.5


def test_intervals_allow_for_rows_that_repeats_share():
    values = [0.1, 0.2, 0.3, 0.4]
    wide = 3.182446 * np.std(values, ddof=1) * np.sqrt(1 / 4 + 1 / 3)
    assert estimate(values).high - 0.25 == pytest.approx(wide, rel=1e-5)
    assert not estimate([0.1, 0.9]).stable
    assert not estimate([0.1]).stable
    assert "not known" in share(estimate([np.nan]))


@pytest.mark.parametrize(
    ("conflict", "name"),
    [(0.05, "low"), (0.2, "low"), (0.4, "middle"), (0.6, "high"), (0.9, "high")],
)
def test_levels_are_places_between_the_anchors(conflict, name):
    assert level(table(conflict=conflict)).name == name


def test_anchors_that_are_not_apart_give_a_level_only_outside_both():
    same = {"conflict_reversed": 0.1}
    assert level(table(conflict=0.02, **same) + 0).name in ("low", "unknown")
    noisy = table(conflict=0.1, **same)
    noisy["conflict_reversed"] = noisy.conflict_same.to_numpy()[::-1]
    noisy["conflict"] = noisy.conflict_reversed
    assert level(noisy).name == "unknown"
    assert "cannot be told" in five(noisy, 0)[0]


def test_an_order_is_enough_only_where_it_certainly_forgets_little():
    assert choose(table()).schedule == "alright"
    assert choose(table(sft_forgotten=0.02)).schedule == "sft-dpo"
    assert choose(table(preference_forgotten=0.02)).schedule == "dpo-sft"
    # Stages of equal length were measured, whatever weight is best for both at once.
    assert choose(table(sft_forgotten=0.02, lam=0.9)).lam == 0.5
    assert choose(table(alternations=np.nan)).rounds is None
    assert choose(table(lam=np.nan)).lam == 0.5


def test_sentences_name_what_is_not_stable_and_what_is_not_learned():
    unsure = table()
    unsure["lam"] = [0.1, 0.5, 0.9]
    said = five(unsure, 2)
    assert len(said) == 5
    assert "Not stable: weight." in said[3]
    assert "shuffled labels" in five(table(preference_gain=0.0), 0)[4]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("together", [False, True])
def test_every_mark_is_seen_at_every_width(width, together):
    places = np.zeros((6, 2)) if together else np.random.default_rng(0).random((6, 2))
    picture = dict(zip(MARKS, places, strict=True)) | {"front": np.array([[0, 1.0], [1, 0]])}
    text = as_text(picture, width)
    assert max(map(len, text.splitlines())) <= width
    drawn = "".join(line[3:] for line in text.splitlines() if line.startswith("  |"))
    assert all(drawn.count(mark) == 1 for mark in MARKS.values())
    assert all(f"{mark} {name}" in text for name, mark in MARKS.items())


def test_what_is_said_of_the_weight_is_what_the_tries_found():
    stored = read_json(advised_checked.STORED)
    assert advised_checked.table(stored) == advised_checked.TABLE.read_text("utf-8")
    for records in stored.values():
        better, _, worse = advised_checked.wins(records, "half")
        assert better > worse == 0
    taught = [r for r in stored["convex"] if r["rows"] in ("rasbt", "Dolly, HH harmless")]
    for order in ("sft-dpo", "dpo-sft"):
        assert advised_checked.wins(taught, order) == (len(taught), 0, 0)
    assert TRIED in five(table(lam=0.9), 0)[4]
    assert TRIED not in five(table(lam=0.5), 0)[4]
    assert TRIED not in five(table(lam=0.9, preference_gain=0.0), 0)[4]


def test_a_share_that_may_be_anything_is_called_unknown():
    assert share(Estimate(6.8, -3.5, 17.0, 5)) == "an unknown share (0 % to 1,700 %)"
    assert share(Estimate(2.0, 0.8, 3.2, 5)).startswith("all (80 % to 320 %)")


def test_a_share_is_of_the_gain_alone_and_unknown_without_a_gain():
    record = {"start": [2.0, 0.7], "alone": [1.0, 0.7], "ends": {"half": [1.5, 0.6]}}
    first, second = advised_checked.kept(record, "half")
    assert (first, bool(np.isnan(second))) == (0.5, True)


def test_the_page_is_small_and_escapes_texts(found):
    page = found.page("<b>&", ["add --chat to the command <i>"])
    assert "add --chat to the command &lt;i&gt;" in page
    assert "&lt;b&gt;&amp;" in page
    assert "<b>&" not in page
    assert len(page) < 30_000
    assert "http" not in page
    assert "prefers-color-scheme:dark" in page


def test_the_command_reads_rows_as_the_advice_did(found):
    assert "--preference PREFERENCE.jsonl --skip-bad --schedule" in found.command
    options = {"skip_bad": True, "use_labels": True, "limit": 3}
    words = RowReader(["completion=answer"], 0.5, options).words
    assert " ".join(words) == "--columns completion=answer --min-margin 0.5 --use-labels --skip-bad"


def test_rows_that_a_training_would_not_read_as_its_model_was_taught_are_named(tmp_path):
    sft, pairs = rows()
    for name, tokenizer in (("chat", chat_tokenizer()), ("base", chat_tokenizer(None))):
        tiny_llama(len(tokenizer)).config.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    turns = [SftRow((Message("user", "a"),), (Message("assistant", "b"),))]
    chat, base = str(tmp_path / "chat"), str(tmp_path / "base")
    assert "add --chat" in unlike(chat, sft, pairs)[0]
    assert "1 of 33 rows are conversations" in unlike(base, turns, pairs)[0]
    assert unlike(chat, turns) == unlike(base, sft, pairs) == []


@pytest.mark.slow
def test_the_command_prints_five_sentences_and_writes_a_page(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tradeoff.advice.advise", partial(advise, candidates=3, n_features=128))
    files = []
    for name, some in zip(("a b.jsonl", "b.jsonl"), rows(), strict=True):
        fields = (
            ("prompt", "completion") if name == "a b.jsonl" else ("prompt", "chosen", "rejected")
        )
        path = tmp_path / name
        path.write_text(
            "".join(json.dumps({f: getattr(r, f) for f in fields}) + "\n" for r in some)
        )
        files.append(str(path))
    arguments = ["advise", *files, "--repeats", "2", "--rows", "20", "--details"]
    with pytest.raises(SystemExit) as stop:
        cli.main([*arguments, "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert not stop.value.code
    assert all(f"\n{k}. " in f"\n{said}" for k in range(1, 6))
    assert f"--sft '{files[0]}'" in said
    assert "each repeat draws 20 of 32" in said
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"advise.html", "advise.json"}
    record = json.loads((tmp_path / "out" / "advise.json").read_text())
    assert len(record["sentences"]) == 5


def test_rows_that_cannot_be_measured_are_named_as_they_were_given():
    sft, pairs = rows()
    for some, problem in ((sft[:1], "1 SFT row is too few"), (sft[:3], "3 SFT rows are too few")):
        with pytest.raises(InputError, match=problem):
            advise(some, pairs, **SMALL)
    alike = [SftRow(row.prompt, "Yes.") for row in sft]
    with pytest.raises(InputError, match="all 32 completions are the same"):
        advise(alike, pairs, **SMALL)
    alike[9] = sft[9]  # which the first repeat holds out
    with pytest.raises(InputError, match="with some of 32 SFT rows held out"):
        advise(alike, pairs, **SMALL)


def test_one_refusal_for_all_prompts_leaves_the_scale_unknown_and_gives_advice():
    sft, pairs = rows()
    refused = [PreferenceRow(row.prompt, "I cannot help.", row.rejected) for row in pairs]
    said = advise(sft[:8], refused[:12], **SMALL)
    assert said.level.name == "unknown"
    assert "own chosen responses as demonstrations it is unknown" in said.sentences[0]
    assert {c.kind: c.count for c in said.cautions} == {"few_rows": 3}


def test_pairs_that_are_stated_both_ways_are_counted():
    sft, pairs = rows()
    turned = [replace(row, chosen=row.rejected, rejected=row.chosen) for row in pairs[:3]]
    (doubt,) = doubts.of_rows(sft, [*pairs, *turned])
    assert (doubt.kind, doubt.count, doubt.of) == ("contradicted_pairs", 6, 35)
    assert "conflict" in doubt.affects


def test_a_scale_with_one_end_names_no_level():
    one = table(conflict=0.0)
    one["conflict_same"] = np.nan
    assert level(one).name == "unknown"


def test_sentences_read_well_without_a_weight_an_interval_or_forgetting():
    assert "forgets none of what SFT learned" in five(table(sft_forgotten=-0.2), 0)[1]
    assert "equal weights, as no better weight is known; two" in five(table(lam=np.nan), 0)[2]
    edge = table()
    edge["lam"] = 1.0
    assert "a weight of 0.95 on the preference objective (0.95 to 1)" in five(edge, 0)[2]
    one = table()
    one["radius"] = 20.0
    assert "(radius 20)" in five(one, 0)[3]
