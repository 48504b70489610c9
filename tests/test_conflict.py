"""The analysis of two datasets: on rows of known conflict, and on real ones."""

import json

import numpy as np
import pytest

from tradeoff import conflict, plots
from tradeoff.checkout import DATA
from tradeoff.convex import binary_example, pareto_front
from tradeoff.data import PreferenceRow, SftRow, read_preferences, read_sft
from tradeoff.errors import InputError

TOPICS = [f"{a} {b}" for a in ("red", "blue", "green", "old", "new") for b in "abcdefgh"]


def sft_rows() -> list[SftRow]:
    """Demonstrations that are all curt."""
    return [SftRow(f"What about the {t}?", f"The {t}, no more.") for t in TOPICS]


def preference_rows(polite: bool) -> list[PreferenceRow]:
    """Pairs that prefer polite to curt responses, or the reverse."""
    rows = []
    for t in TOPICS:
        kind, curt = f"Thank you kindly, I would be glad to: the {t}.", f"The {t}, no more."
        chosen, rejected = (kind, curt) if polite else (curt, kind)
        rows.append(PreferenceRow(f"Please tell me about the {t}.", chosen, rejected))
    return rows


def small(preference, **settings):
    return conflict.analyse(
        sft_rows(),
        preference,
        radius=10.0,
        candidates=4,
        n_features=256,
        solves=4,
        steps=10,
        **settings,
    )


def test_a_preference_against_the_demonstrated_style_conflicts_more():
    against, along = small(preference_rows(True)), small(preference_rows(False))
    assert against.summary["sft_forgotten"] > along.summary["sft_forgotten"]
    assert against.summary["gradient_cosine"] < along.summary["gradient_cosine"]


def test_the_table_has_every_policy_on_both_kinds_of_rows():
    found = small(preference_rows(True), lams=[0.3])
    kinds = found.policies.kind.value_counts().to_dict()
    assert kinds == {"start": 1, "limit": 2, "run": 3, "joint": 1, "suggested": 1}
    start = found.policies.loc["start"]
    assert start.preference_loss == pytest.approx(np.log(2))
    assert start.sft_loss_test == pytest.approx(np.log(4))
    assert start.sft_accuracy_test == pytest.approx(0.25)
    joint = found.policies.loc["joint λ=0.3"]
    assert joint.front_gap <= found.front.error + 1e-6
    assert found.summary["sft_rows"] + found.summary["sft_test_rows"] == len(TOPICS)
    assert 0 < found.summary["suggested_share"] < 1
    with plots.figure() as (_, ax):
        assert found.plot(ax) is ax


def test_the_same_seed_gives_the_same_analysis():
    first, second = small(preference_rows(True)), small(preference_rows(True))
    assert first.policies.equals(second.policies)
    assert first.summary == second.summary


def test_conflict_is_one_on_a_straight_front_and_small_at_a_corner():
    # On the ball of radius 10 both losses of the worked example are log 2 at the crossing, of 10.
    corner = pareto_front(binary_example(radius=10.0), accuracy=1e-5)
    assert conflict.front_conflict(corner) == pytest.approx(2 * np.log(2) / 10, rel=1e-3)
    line = pareto_front(binary_example(radius=0.01), accuracy=1e-6)
    assert conflict.front_conflict(line) == pytest.approx(1.0, abs=0.01)
    assert conflict.balanced_weight(line) == pytest.approx(0.5, abs=0.01)


def test_radius_is_one_of_the_offered_ones():
    radius = conflict.choose_radius(
        sft_rows(),
        preference_rows(True),
        candidates=4,
        n_features=256,
        seed=0,
        beta=1.0,
    )
    assert radius in conflict.RADII


def test_one_test_set_alone_is_used():
    pairs = preference_rows(True)
    found = small(pairs[:30], preference_test=pairs[30:])
    assert found.summary["preference_rows"] == 30
    assert found.summary["preference_test_rows"] == 10
    assert found.summary["sft_test_rows"] == 4
    found = conflict.analyse(
        sft_rows()[:30], pairs, sft_test=sft_rows()[30:], radius=5.0, n_features=256, solves=4,
        steps=4,
    )  # fmt: skip
    assert (found.summary["sft_rows"], found.summary["sft_test_rows"]) == (30, 10)
    assert found.summary["preference_test_rows"] == 4


@pytest.mark.slow
def test_held_out_prompts_have_as_many_candidates_as_those_trained_on():
    rows, pairs = sft_rows(), preference_rows(True)
    options = {"radius": 5.0, "n_features": 256, "solves": 4, "steps": 4}
    for test in (rows[38:], rows[39:], [*rows[39:], *rows[39:]]):
        found = conflict.analyse(rows[:38], pairs, sft_test=test, **options)
        start = found.policies.loc["start"]
        assert start.sft_loss == start.sft_loss_test == pytest.approx(np.log(8))
        assert start.sft_accuracy_test == pytest.approx(1 / 8)
        assert found.summary["sft_test_rows"] == len(test)
    # The training rows have only three completions, so held-out prompts have three candidates.
    found = conflict.analyse(rows[:3] * 3, pairs, sft_test=rows[10:], **options)
    start = found.policies.loc["start"]
    assert start.sft_loss == start.sft_loss_test == pytest.approx(np.log(3))


def test_the_radius_is_chosen_where_the_tenth_is_one_row():
    rows, pairs = sft_rows()[:15], preference_rows(True)[:15]
    found = conflict.analyse(rows, pairs, n_features=256, solves=4, steps=4)
    assert found.summary["radius"] in conflict.RADII


@pytest.mark.slow
def test_documents_and_a_single_prompt_are_split_by_their_order():
    rows = sft_rows()
    for prompt in ("", "Tell me."):
        same = [SftRow(prompt, row.completion) for row in rows]
        found = conflict.analyse(same, preference_rows(True), n_features=256, solves=4, steps=4)
        assert (found.summary["sft_rows"], found.summary["sft_test_rows"]) == (36, 4)
        assert found.summary["radius"] in conflict.RADII


def test_a_row_that_cannot_be_split_is_named_with_a_remedy():
    with pytest.raises(InputError, match=r"field 'preference'.*--preference-test"):
        conflict.analyse(sft_rows(), preference_rows(True)[:1], sft_test=sft_rows())


def test_rows_are_read_and_held_out_over_both_sets(tmp_path):
    pairs = preference_rows(True)
    sft = [{"prompt": row.prompt, "completion": row.chosen} for row in pairs]
    options = {"radius": 5.0, "n_features": 256, "solves": 4, "steps": 4}
    found = conflict.analyse(sft, pairs, **options)
    assert found.summary["sft_test_rows"] == found.summary["preference_test_rows"] == 4
    assert found.summary["sft_test_rows_repeated"] == 0
    found = conflict.analyse(sft, pairs, sft_test=sft[:5], **options)
    assert found.summary["sft_test_rows_repeated"] == 5
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in sft))
    with pytest.raises(InputError, match="also trained on"):
        conflict.analyse(read_sft(file), pairs, sft_test=file, **options)


def test_no_weight_is_lost_to_rounding():
    found = small(preference_rows(True), lams=[0.5, 0.50001, 0.5])
    assert (found.policies.kind == "joint").sum() == 2
    assert "joint λ=0.50001" in found.policies.index


@pytest.mark.skipif(not DATA.exists(), reason="the real data lie beside the project, not in it")
def test_real_rows_polite_against_impolite():
    found = conflict.analyse(
        read_sft(DATA / "sft_rasbt_train.jsonl.gz", limit=200),
        read_preferences(DATA / "pref_rasbt_train.jsonl.gz", limit=200),
        sft_test=read_sft(DATA / "sft_rasbt_test.jsonl.gz"),
        preference_test=read_preferences(DATA / "pref_rasbt_test.jsonl.gz"),
        radius=10.0,
        n_features=2**11,
        solves=5,
        steps=15,
    )
    alone = found.policies[found.policies.kind == "limit"]
    assert alone.loc["DPO alone", "preference_accuracy_test"] > 0.75
    assert alone.loc["SFT alone", "sft_accuracy_test"] > 0.6
    assert found.summary["sft_forgotten"] > 0.3
    assert found.summary["certified_error"] < 0.05
