"""The reference is computed for the pairs that a run reads; order and number change no bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from llm_models import bpe_tokenizer_hf, tiny_llama
from llm_runs import LORA, SCHEDULES, begin, preference_rows, steady, trainer

from tradeoff.errors import InputError
from tradeoff.llm import ahead
from tradeoff.llm._scorer import Scorer
from tradeoff.llm.defects import Defects
from tradeoff.schedules import PREFERENCE, Alright, Maxright, Mix, Rule

PAIRS = preference_rows(60)
DEFECTS = ("discard_unused_batch", "choose_per_forward")


def run(schedule: Any = "mix", **settings: Any) -> Any:
    return trainer(schedule, preference=PAIRS, **{"steps": 3, "evaluate_every": 9, **settings})


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of pairs that each call scores."""
    counts: list[int] = []
    whole = Scorer.log_probs

    def count(self: Any, items: Any, progress: Any, groups: Any, *more: Any) -> Any:
        counts.append(sum(map(len, groups)))
        return whole(self, items, progress, groups, *more)

    monkeypatch.setattr(Scorer, "log_probs", count)
    return counts


# ---------------------------------------------------------------------- which pairs


@pytest.mark.parametrize(
    ("name", "defects"),
    [*((name, {}) for name in SCHEDULES), *(("alright", {name: True}) for name in DEFECTS)],
)
def test_all_that_is_read_is_known_ahead(name: str, defects: dict[str, bool]) -> None:
    for seed in range(2):
        made = run(name, steps=7, seed=seed, defects=Defects(**defects))
        known = {int(row) for rows in made.needed.groups for row in rows}
        read: set[int] = set()
        for made.step in range(7):
            passes = made.feed.passes(made.step, made.plan.rule, made._follow)
            read |= {int(i) for p in passes if p.objective == PREFERENCE for i in p.rows}
        assert read <= known
        if made.plan.rule in (Rule.DRAW, Rule.BOTH) and not defects:
            assert len(known) == len(read)


def test_every_pair_is_in_one_group() -> None:
    made = run(steps=500, preference_batch_size=7)
    every = np.concatenate(made.needed.groups)
    assert sorted(every) == list(range(len(made.data.preference)))
    assert {len(rows) for rows in made.needed.groups[:-1]} == {7}


def test_probes_have_passes_of_their_own() -> None:
    made = run(Maxright(lam=0.5, samples=5, refresh=2))
    np.testing.assert_array_equal(made.needed.probes, made.known.rows(PREFERENCE))
    begin(made)
    assert made.references.knows(made.needed)
    both = made.references.train.knows(made.needed.probes)
    assert not both  # Three updates of four pairs do not cover all five.
    assert not len(run("mix").needed.probes)


def test_what_is_followed_by_sft_alone_needs_no_training_pairs(scored: list[int]) -> None:
    run(Alright(lam=0.0)).train(progress=False)
    assert scored == [12]


def test_a_stage_is_scored_once_at_its_start(scored: list[int]) -> None:
    run("sft-dpo", steps=4, reference="stage").train(progress=False)
    assert scored == [12, 8, 12]


def test_other_pairs_are_refused_by_name_unless_all_are_asked_for() -> None:
    made = begin(run())
    everything = np.arange(len(made.data.preference))
    with pytest.raises(InputError, match="reference_rows = 'all'") as error:
        made.scorer.mean_pairs(made.data.preference, made.references.train, everything)
    assert error.value.field == "reference_rows"
    made = begin(run(reference_rows="all"))
    made.scorer.mean_pairs(made.data.preference, made.references.train, everything)


# ---------------------------------------------------------------------- the same bits


def table(**settings: Any) -> torch.Tensor:
    return begin(run(**settings)).references.train.table


@pytest.mark.parametrize(("layout", "precision"), [("padded", "bf16"), ("packed", "fp32")])
def test_a_longer_run_gives_the_same_bits(layout: str, precision: str) -> None:
    short, long, every = (
        table(layout=layout, precision=precision, **more)
        for more in ({"steps": 2}, {"steps": 5}, {"reference_rows": "all"})
    )
    known = ~short.isnan()
    assert int(known.all(1).sum()) == 8
    assert torch.equal(short[known], long[known])
    assert torch.equal(short[known], every[known])
    assert not every.isnan().any()


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_margins_before_the_first_update_are_zero_in_bf16(layout: str) -> None:
    """The reference is computed in the passes of the updates, so that rounding errors cancel."""
    made = begin(run(Alright(lam=1.0), precision="bf16", layout=layout, lora=LORA, dropout="never"))
    passes = made.feed.passes(0, made.plan.rule, made._follow)
    for part in passes:
        items = [made.data.preference[i] for i in part.rows]
        found = made.scorer.pairs(items, part.rows, made.references.train)
        assert not found.chosen.any()
        assert not found.rejected.any()


# ---------------------------------------------------------------------- what is kept


@pytest.mark.slow
def test_a_cache_grows_by_what_is_new(tmp_path: Any, scored: list[int]) -> None:
    cache = str(tmp_path / "cache")
    whole = run(steps=6).train(progress=False)
    assert scored == [24, 12]
    run(steps=2, reference_cache=cache).train(progress=False)
    again = run(steps=6, reference_cache=cache).train(progress=False)
    run(steps=5, reference_cache=cache).train(progress=False)
    run("alright", steps=5, reference_cache=cache, learning_rate=1e-3).train(progress=False)
    assert scored == [24, 12, 8, 12, 16]
    np.testing.assert_array_equal(steady(whole.table).to_numpy(), steady(again.table).to_numpy())
    run(steps=2, reference_cache=cache, seed=1).train(progress=False)
    assert scored[5:] == [8, 12]  # Other pairs are held out too.


@pytest.mark.slow
@pytest.mark.parametrize("other", [False, True])
def test_a_longer_run_goes_on_with_what_its_checkpoint_lacks(
    tmp_path: Any, scored: list[int], other: bool
) -> None:
    tokenizer, settings = bpe_tokenizer_hf(), {}
    if other:
        tiny_llama(len(tokenizer), seed=1).save_pretrained(tmp_path / "other")
        tokenizer.save_pretrained(tmp_path / "other")
        settings = {"reference": str(tmp_path / "other")}
    settings |= {"evaluate_every": 1, "log_every": 1, "save_every": 1}
    whole = run(Mix(lam=0.5), steps=5, **settings).train(progress=False)
    run(Mix(lam=0.5), steps=2, output=tmp_path / "run", **settings).train(progress=False)
    rest = run(Mix(lam=0.5), steps=5, output=tmp_path / "run", **settings).train(progress=False)
    assert scored == [20, 12, 8, 12, 12]
    np.testing.assert_array_equal(steady(whole.table).to_numpy(), steady(rest.table).to_numpy())
    if other:
        tiny_llama(len(tokenizer), seed=2).save_pretrained(tmp_path / "other")
        with pytest.raises(InputError, match="reference has changed"):
            run(Mix(lam=0.5), steps=9, output=tmp_path / "run", **settings).train(progress=False)


def test_what_diverges_counts_as_known() -> None:
    assert ahead.most_read(run().plan, run().config) == 12
    model = tiny_llama(len(bpe_tokenizer_hf()))
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    made = begin(run(model=model))
    assert made.references.knows(made.needed)
    assert not made.references.train.table[made.needed.groups[0]].isfinite().any()
