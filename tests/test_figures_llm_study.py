"""The figures of joint post-training: all their code runs on a tiny generated language."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.dossier import captions
from analysis.fernando2024 import stored as stored_runs
from analysis.fernando2024.dossier import DOSSIER
from analysis.fernando2024.methods import METHODS, finals
from analysis.fernando2024.real import (
    llm_bars,
    llm_base,
    llm_lambdas,
    llm_references,
    llm_runs,
    llm_scales,
    llm_scores,
    llm_shown,
    llm_study,
    llm_text,
    llm_tuning,
    max_eval_interval,
)
from tradeoff.errors import InputError
from tradeoff.records import read_json, write_json
from tradeoff.schedules import Maxright, Sequential
from tradeoff.scores import interval
from tradeoff.study.sources import reached

pytestmark = pytest.mark.slow

Numbers = Callable[[str], dict[str, Any]]
FAST = llm_scales.SCALES["fast"]
KEPT = (
    llm_study.tuned,
    llm_study.reference,
    llm_study.specialists,
    llm_runs.pair_cost,
)


@pytest.fixture(scope="module", autouse=True)
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Store models and runs in a temporary folder, and forget cached results afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llm_base, "FOLDER", tmp_path_factory.mktemp("runs"))
        for function in KEPT:
            function.cache_clear()
        yield
    for function in KEPT:
        function.cache_clear()


@pytest.mark.parametrize("name", DOSSIER.members("real"))
def test_captions_say_what_varies_and_how_to_redraw(name: str) -> None:
    found = DOSSIER.shown(name)
    text = captions.caption(DOSSIER.module(name), found)
    for part in ("hat varies is the", f"python -m analysis {name}", f"n = {found['seeds']} seed"):
        assert part in text, part
    assert len(text.split()) <= 80


def test_one_seed_is_said_to_give_no_interval() -> None:
    assert llm_shown.words({"seeds": 1}) == {
        "seeds": "1 seed",
        "intervals": "one seed gives no interval",
    }
    assert llm_shown.words({"seeds": 3, "few": 3})["seeds"] == "3 seeds"
    assert llm_shown.words({"seeds": 5, "few": 3})["seeds"].startswith("5 seeds (3 where")


@pytest.mark.parametrize("name", DOSSIER.members("real"))
def test_the_fast_form_runs(name: str, numbers: Numbers) -> None:
    assert numbers(name)


# ---------------------------------------------------------------------- what is compared with what


def test_no_prompt_trains_and_chooses_or_scores() -> None:
    parts = llm_text.rows(FAST.text)
    prompts = [
        {str(row.prompt) for rows in part for row in rows}
        for part in (parts.training, parts.validation)
    ]
    assert prompts[0].isdisjoint(prompts[1])
    assert all(len(rows) > 0 for part in (parts.training, parts.validation) for rows in part)


def test_every_method_pays_the_same(numbers: Numbers) -> None:
    numbers("llm_loss_space")
    table = finals(llm_study.run("fast", llm_study.comparison("fast")))
    pair = llm_study.pair_cost("fast")
    followed = table["sft_updates"] + pair * table["preference_updates"]
    probes = llm_runs.PROBES / FAST.batch * (1 + pair) / 3  # both, without backward passes
    asked = np.ceil(table["step"] / 10) * (table["method"] == "maxright")
    np.testing.assert_allclose(table["spent"] * FAST.budget, followed + asked * probes)
    staged = table["method"].isin(["sft-dpo", "dpo-sft"]) | table["method"].str.startswith("rounds")
    # Updates are whole, and schedules with stages have equally many between two evaluations.
    off = abs(table["spent"] - 1) * FAST.budget
    assert (off[staged] <= FAST.marks / 2 * (1 + pair)).all()
    assert (off[~staged] <= ((1 + pair) + probes) / 2).all()
    assert not table["diverged_at"].notna().any()


@pytest.mark.parametrize("refresh", [1, 1000])
def test_a_run_whose_cost_nobody_knows_before_ends_at_its_budget(refresh: int) -> None:
    rule = Maxright(lam=0.5, refresh=refresh, samples=llm_runs.PROBES)
    own = {"marks": 3, "reference": llm_runs.BASE, "optima": [0.0, 0.0]}
    table = llm_study.run("fast", [llm_study.configuration("fast", rule, 0, (4e-3,), **own)])
    last, pair = table.iloc[-1], llm_study.pair_cost("fast")
    dearest = pair + (2 if refresh == 1 else 0) * (1 + pair) / 3
    np.testing.assert_allclose(table["spent"], np.arange(4) / 3, atol=dearest / FAST.budget)
    assert abs(last["spent"] - 1) * FAST.budget <= dearest / 2
    assert last["step"] == last["sft_updates"] + last["preference_updates"]


def test_a_run_that_a_signal_ends_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    done = type("Done", (), {"interrupted": True})
    trainer = type("Trainer", (), {"train": lambda self, progress: done})
    monkeypatch.setattr(llm_runs, "make", lambda configuration: trainer())
    with pytest.raises(KeyboardInterrupt):
        llm_runs.post_train({})


def test_the_cost_of_a_pair_is_that_of_its_operations() -> None:
    assert 1.5 < llm_study.pair_cost("fast") < 3
    rule = Sequential(share=0.25)
    assert llm_runs.per_update(rule, 2.0) == pytest.approx(0.25 + 0.75 * 2)
    assert llm_runs.updates_for(100.0, 1.75, 4) == 56
    assert llm_runs.updates_for(0.1, 1.75, 4) == 4


def test_seeds_and_rows_that_score_choose_no_step_size(numbers: Numbers) -> None:
    scored = llm_study.comparison("fast")
    assert max(c["seed"] for c in scored) < min(llm_study.SPECIALIST, llm_study.TUNING)
    assert {c["rows"] for c in scored} == {"test"}
    found = numbers("llm_loss_space")["preparation"]
    assert len(found["rates"]["sft-dpo"]) == len(found["rates"]["rounds"]) == 2
    assert len(found["rates"]["alright"]) == 1


def test_a_reference_after_sft_on_chosen_responses_learns_from_them(numbers: Numbers) -> None:
    found = numbers("llm_references")["references"]
    assert list(found) == list(llm_references.REFERENCES)
    names = [llm_study.reference("fast", name) for name in ("sft", "chosen")]
    assert len(set(names)) == 2
    minima = [found[name]["ideal"][1] for name in found]
    assert len(set(minima)) == 3
    starts = [found[name]["start"] for name in found]
    assert starts[0][1] == pytest.approx(np.log(2), rel=1e-5)  # The policy is its own reference.
    assert starts[1][1] != pytest.approx(np.log(2), rel=1e-2)
    np.testing.assert_allclose([s[0] for s in starts], starts[0][0], rtol=1e-6)


# ---------------------------------------------------------------------- the search for step sizes


def quadratic(best: tuple[float, ...]) -> Callable[[Any], list[float]]:
    def losses(points: Any) -> list[float]:
        return [float(np.sum((np.log2(p) - np.log2(best)) ** 2)) for p in points]

    return losses


GRID = [2.0**k for k in range(7)]


@pytest.mark.parametrize("start", [1.0, 8.0, 64.0])
def test_the_search_ends_at_the_best_step_size_inside_the_grid(start: float) -> None:
    found = llm_tuning.search(quadratic((4.0, 16.0)), GRID, (start, start))
    assert found.rates == (4.0, 16.0)
    for moved in ((2.0, 16.0), (8.0, 16.0), (4.0, 8.0), (4.0, 32.0)):
        assert found.tried[moved] > found.tried[found.rates]
    assert len(found.tried) < len(GRID) ** 2
    assert {tuple(row["rates"]) for row in found.table()} == set(found.tried)


@pytest.mark.parametrize("best", [0.25, 1000.0])
def test_a_step_size_on_the_edge_of_the_grid_is_refused(best: float) -> None:
    with pytest.raises(InputError, match="Widen the grid"):
        llm_tuning.search(quadratic((best,)), GRID, (8.0,))


def test_step_sizes_with_which_runs_diverge_are_not_chosen() -> None:
    def losses(points: Any) -> list[float]:
        return [np.inf if p > 8 else -p for (p,) in points]

    assert llm_tuning.search(losses, GRID, (2.0,)).rates == (8.0,)


# ---------------------------------------------------------------------- what figures show


def test_paths_start_at_the_base_and_end_at_the_ends(numbers: Numbers) -> None:
    found = numbers("llm_loss_space")
    for method, paths in found["paths"].items():
        np.testing.assert_allclose(paths[0][0], found["start"], rtol=1e-4)
        ends = np.array(found["ends"][method][0])
        np.testing.assert_allclose(paths[0][-1], ends.mean(axis=0), rtol=1e-4)


def test_differences_are_those_of_the_means(numbers: Numbers) -> None:
    cells = numbers("llm_loss_space")["paired_joint_minus_sequential"]
    for joint in ("mix", "alright", "maxright"):
        apart = cells[joint][0]["mean"] - cells["sft-dpo"][0]["mean"]
        assert cells[f"{joint} - sft-dpo"][0]["mean"] == pytest.approx(apart, abs=1e-4)


def test_rounds_are_told_apart(numbers: Numbers) -> None:
    found = numbers("llm_loss_space")["rounds"]
    assert found["labels"] == [f"rounds-{k}" for k in FAST.rounds]
    assert list(numbers("llm_table")["rounds"]) == found["labels"]


def test_probes_cost_what_the_interval_says(numbers: Numbers) -> None:
    found = numbers("max_eval_interval")
    both = 2 * llm_runs.PROBES
    assert found["probed_per_update"][0] == pytest.approx(both)
    assert found["probed_per_update"][-1] == pytest.approx(both / found["updates"][-1], rel=0.1)
    assert max(found["intervals"]) >= found["updates"][-1]
    assert "once" in max_eval_interval.name(1000, found["intervals"])
    assert found["updates"][0] < found["updates"][-1], "the budget pays for probes, too"


def test_nobody_is_ahead_of_the_best_of_all_runs(numbers: Numbers) -> None:
    found = numbers("llm_bars")["values"]
    assert np.min([v["front_gap"] for v in found.values()]) >= -1e-6
    assert set(llm_bars.MEASURES) <= set(found["mix"])
    # At the requested weight the gap of a run is no smaller than at its best weight.
    for method, measures in found.items():
        assert np.all(np.subtract(measures["regret"], measures["front_gap"]) >= -1e-6), method


def test_every_method_is_followed_over_the_same_cost(numbers: Numbers) -> None:
    curves = numbers("llm_forgetting")["curves"]
    assert list(curves) == list(METHODS)
    for curve in curves.values():
        assert curve["cost"][0] == 0
        assert len(curve["cost"]) == FAST.marks + 1


def test_the_sweep_splits_sequential_runs_as_the_paper_does() -> None:
    shares = [llm_lambdas.schedule("dpo-sft", lam).share for lam in llm_lambdas.EPOCHS]
    np.testing.assert_allclose(shares, np.arange(1, 6) / 6)
    first = [llm_lambdas.schedule("sft-dpo", lam).share for lam in llm_lambdas.EPOCHS]
    np.testing.assert_allclose(np.add(shares, first), 1)
    assert isinstance(llm_lambdas.schedule("maxright", 0.01), Maxright)


def test_time_of_the_sweep_follows_stored_costs(numbers: Numbers) -> None:
    stored = {
        "sft-only": {"seconds_per_update": 1.0, "memory": 4.0},
        "preference-only": {"seconds_per_update": 3.0, "memory": 5.0},
        "mix": {"seconds_per_update": 4.0, "memory": 6.0},
        "maxright": {"seconds_per_update": 2.5, "memory": 5.0},
    }
    assert llm_lambdas.seconds("alright", 0.25, stored) == 1.5
    assert llm_lambdas.seconds("maxright", 0.25, stored) == 2.0
    assert llm_lambdas.seconds("mix", 0.25, stored) == 4.0
    found = numbers("llm_lambdas")["methods"]
    assert found["sft-dpo"]["runtime_percent"] == [0.0] * len(FAST.sweep)
    assert min(found["mix"]["runtime_percent"]) > 50


def test_intervals_differ_by_marker() -> None:
    assert len(set(max_eval_interval.MARKERS)) >= len(llm_scales.SCALES["full"].intervals)


# ---------------------------------------------------------------------- intervals


def test_without_spread_below_a_ratio_is_a_mean_in_other_units() -> None:
    values = [1.0, 2.0, 4.0]
    found, plain = llm_scores.ratio(values, [2.0, 2.0, 2.0]), interval(values)
    np.testing.assert_allclose(found.mean, plain.mean / 2)
    np.testing.assert_allclose([found.low, found.high], [plain.low / 2, plain.high / 2])


def test_the_spread_of_the_denominator_widens_a_ratio() -> None:
    values, best = [1.0, 1.1, 0.9], [2.0, 2.5, 1.5]
    narrow, wide = llm_scores.ratio(values, [2.0] * 3), llm_scores.ratio(values, best)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_intervals_of_ratios_and_differences_cover() -> None:
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(2000):
        a, b = rng.normal(3, 0.3, 5), rng.normal(4, 0.3, 3)
        ratio, apart = llm_scores.ratio(a, b), llm_scores.difference(a, b)
        hits.append((ratio.low <= 0.75 <= ratio.high, apart.low <= -1 <= apart.high))
    np.testing.assert_allclose(np.mean(hits, axis=0), 0.95, atol=0.02)


# ---------------------------------------------------------------------- stored runs


def test_without_text_the_stored_run_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = read_json(DOSSIER.folder / "results" / "llm_table.json")
    monkeypatch.setattr(llm_text, "DATA", tmp_path / "nowhere")
    monkeypatch.setattr(stored_runs, "PAPER", tmp_path)
    with pytest.raises(InputError, match="no real text and no stored run"):
        llm_shown.numbers("llm_table", False, lambda scale: {})
    write_json(tmp_path / "results" / "llm_table.json", {**stored, "numbers": {"seeds": 3}})
    found = llm_shown.numbers("llm_table", False, lambda scale: {})
    assert found == {"seeds": 3, "source": "stored run"}


def test_an_edit_of_the_study_leaves_the_base_model_as_it_is() -> None:
    found = {module for module, _ in reached(["analysis.fernando2024.real.llm_base:pretrain"])}
    assert found.isdisjoint(
        {
            "analysis.fernando2024.real.llm_study",
            "analysis.fernando2024.real.llm_runs",
            "analysis.fernando2024.real.llm_text",
        }
    )
    assert "tradeoff.llm.trainer" not in found
    other = llm_base.kept(
        "analysis.fernando2024.real.llm_base:pretrain", asdict(replace(FAST.base, width=8)), []
    )
    assert other != llm_base.kept(
        "analysis.fernando2024.real.llm_base:pretrain", asdict(FAST.base), []
    )
