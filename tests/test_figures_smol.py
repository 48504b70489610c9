"""The study on SmolLM2: its rows, its plan, and its functions, on a small random model."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from analysis.dossier import captions
from analysis.fernando2024.costs import gpu_run
from analysis.fernando2024.real import (
    llm_lambdas,
    smol_claims,
    smol_extra,
    smol_lambdas,
    smol_loss_space,
    smol_methods,
    smol_plan,
    smol_references,
    smol_relearning,
    smol_rows,
    smol_runs,
    smol_scores,
    smol_shown,
    smol_steps,
    smol_stored,
    smol_study,
    smol_transfer,
)
from analysis.gpu import results
from tradeoff.data.rows import PreferenceRow
from tradeoff.errors import InputError
from tradeoff.records import read_json

AGAINST = smol_extra.AGAINST
EXTRA_FIGURES = (smol_lambdas, smol_references, smol_relearning, smol_steps, smol_transfer)


def test_the_command_prints_the_plan_with_its_extras() -> None:
    app = typer.Typer()
    app.command()(smol_study.command)
    call = ["--plan", "--form", "fast", "--extras", "lambdas"]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    assert "lambdas" in done.output
    assert "CPU minutes in all" in done.output


def test_a_transcript_becomes_a_conversation() -> None:
    text = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant:"
    row = smol_rows.as_conversation(PreferenceRow(text, " Because", " No"))
    assert [(turn.role, turn.content) for turn in row.prompt] == [
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "Why?"),
    ]
    assert row.chosen[0].content == "Because"


def test_the_made_skill_and_its_control_share_prompts() -> None:
    words = smol_rows._words()
    made, control = smol_rows.skill(words), smol_rows.padding(words)
    assert len(set(words)) == len(words) == smol_rows.MADE
    assert [row.prompt for row in made] == [row.prompt for row in control]
    assert all(word in row.completion for word, row in zip(words, made, strict=True))
    assert len({row.completion for row in control}) == 1


def test_every_method_costs_the_same() -> None:
    budget, batch = 96.0, 4
    for name, method in smol_methods.METHODS.items():
        count = smol_methods.updates(method, budget, batch)
        cost = method.schedule.plan(count).cost(1.0, smol_methods.PAIR).sum()
        assert 0.85 * budget < cost < 1.05 * budget, name
        assert smol_methods.label(name)


def test_flips_count_pairs_whose_order_changed() -> None:
    runs = pd.DataFrame(
        {
            "base_chosen": [[1.0, 0.0, 1.0, 0.0]],
            "base_rejected": [[0.0, 1.0, 0.0, 1.0]],
            "end_chosen": [[1.0, 1.0, 0.0, 0.0]],
            "end_rejected": [[0.0, 0.0, 1.0, 1.0]],
        }
    )
    found = smol_scores.flips(runs)
    assert {name: float(v[0]) for name, v in found.items()} == {
        "gained": 0.25,
        "lost": 0.25,
        "right": 0.5,
    }


def test_an_unknown_pair_or_method_is_bad_input() -> None:
    with pytest.raises(InputError, match="none-such"):
        smol_plan.formed("full", methods=["none-such"])
    with pytest.raises(InputError, match="no such pair"):
        smol_rows.rows("none-such")


@pytest.mark.slow
def test_a_study_that_is_cut_short_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smol_runs, "FOLDER", tmp_path)
    form = smol_plan.FORMS["fast"]
    planned = int(smol_plan.plan(form)["runs"].sum())
    assert smol_study.go("fast", seconds=0.0)["done"] == 0
    assert smol_study.summary(form) == {}
    first = smol_study.go("fast", methods=["sft-dpo"])
    assert first["done"] == first["runs"] == 8
    assert list(smol_study.summary(form)["generated"]["methods"]) == ["sft-dpo"]
    kept: list[dict[str, Any]] = []
    monkeypatch.setattr(smol_study, "KEEP_SECONDS", 0.0)
    done = smol_study.go("fast", keep=kept.append)
    assert done["done"] == done["runs"] == planned
    assert [state["done"] for state in kept] == [*range(9, planned + 1), planned]
    assert kept[-1] == done
    one = done["found"]["generated"]
    assert one["seeds"] == form.seeds
    assert np.shape(one["methods"]["alright"]["ends"]) == (form.seeds, 2)
    assert one["methods"]["sft-dpo"]["less_baseline"]["mean"] == 0.0
    assert one["training"]["runs"] == 2 * form.seeds + len(form.methods) * form.seeds


@pytest.mark.slow
def test_a_twin_stands_for_its_run_and_ends_where_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smol_runs, "FOLDER", tmp_path)
    form = smol_plan.formed("fast", methods=["sft-dpo"])
    done = smol_study.go("fast", methods=["sft-dpo"], twins=True)
    twins = done["found"]["generated"]["twins"]
    assert twins == {"runs": {"sft-dpo": form.seeds}, "both": []}
    laid = smol_study.comparison(form, "generated")
    assert smol_stored.exact(laid) == [False] * form.seeds
    assert smol_stored.stored(laid) == [True] * form.seeds
    assert smol_study.go("fast", methods=["sft-dpo"])["done"] == done["runs"]
    assert smol_stored.exact(laid) == [False] * form.seeds  # Nothing was missing.
    smol_stored.compute(laid[:1])
    (both,) = smol_study.summary(form)["generated"]["twins"]["both"]
    assert (both["name"], both["seed"]) == ("sft-dpo", 0)
    assert np.abs(both["differences"]).max() < 1e-4
    again = smol_study.go("fast", methods=["sft-dpo"], twins=True, both=form.seeds)
    assert again["done"] == done["runs"]  # Every twin was there.
    (rate,) = form.grid
    assert [r for r, _ in done["found"]["generated"]["steps"]["sft-only"]] == [rate]
    wider = smol_study.go("fast", methods=["sft-dpo"], edges=True)
    assert wider["done"] == wider["runs"] == done["runs"] + 2
    for tried in wider["found"]["generated"]["steps"].values():
        (first, near), (second, far) = tried
        assert (first, second) == (rate, 2 * rate)
        assert near != far
    place = results.place(results.folder(tmp_path), results.STUDY, "all")
    about = {"step": results.STUDY, "method": "all", "setting": {}, "machine": {"device": "cpu"}}
    results.keep(place, about, [{"runs": 0}])
    (smol_runs.FOLDER / "runs" / "another.parquet").write_bytes(b"of another form")
    assert smol_study.publish("fast", tmp_path) == [place, results.runs(place.parent)]
    (said,) = read_json(place)["rounds"]
    assert said["found"]["generated"]["twins"]["both"][0]["name"] == "sft-dpo"
    monkeypatch.setattr(smol_runs, "FOLDER", tmp_path / "adopted")
    assert smol_study.adopt(form, results.runs(place.parent)) == done["runs"] + 3


@pytest.mark.slow
def test_runs_beyond_the_comparison_are_run_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smol_runs, "FOLDER", tmp_path / "study")
    form = smol_plan.formed("fast", methods=AGAINST, extras=smol_plan.EXTRAS)
    done = smol_study.go("fast", methods=AGAINST, extras=smol_plan.EXTRAS)
    assert done["done"] == done["runs"] == smol_study.planned(form)
    found = done["found"]["generated"]["extras"]
    assert list(found) == list(smol_plan.EXTRAS)
    assert list(found["lambdas"]["values"]) == ["0.25", "0.75"]
    assert set(found["lambdas"]["values"]["0.75"]) == set(smol_extra.SWEPT)
    against = {kind: values["sft-dpo"] for kind, values in found["references"]["values"].items()}
    assert against["sft"]["preference_loss"] != against["chosen"]["preference_loss"]
    curve = found["relearning"]["methods"]["sft-dpo"]
    assert curve["updates"] == [0, 1, 2, 3, 4]
    by_step = found["steps"]["values"]
    assert len(by_step) == len(smol_extra.SHARES)
    assert all(set(values) == set(smol_extra.STEPPED) for values in by_step.values())
    best = smol_steps.at_best(found["steps"], "sft-dpo")
    assert best[1] == min(v.min() for v in smol_steps.losses(found["steps"], "sft-dpo").values())
    ends = done["found"]["generated"]["methods"]["sft-dpo"]["ends"]
    assert curve["sft_loss"][0]["mean"] == pytest.approx(ends[0][0], rel=1e-5)
    shown = {"seeds": 1, "pairs": done["found"]}
    monkeypatch.setattr(smol_shown, "numbers", lambda *_: shown)
    for figure in EXTRA_FIGURES:
        figure.main(tmp_path)
    other = tmp_path / "study"
    monkeypatch.setattr(smol_runs, "FOLDER", tmp_path / "adopted")
    assert smol_study.adopt(form, other) == done["runs"]
    assert smol_study.adopt(form, other) == 0
    assert smol_study.go("fast", seconds=0.0, methods=AGAINST)["done"] > 0


@pytest.mark.parametrize("figure", EXTRA_FIGURES)
def test_without_a_run_a_figure_says_so(
    figure: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = {"seeds": 0, "pairs": {}}
    monkeypatch.setattr(smol_shown, "numbers", lambda *_: nothing)
    found = figure.main(tmp_path)
    assert found["pairs"] == {}
    assert "There is no run yet." in captions.caption(figure, found)
    assert list(tmp_path.rglob("*.png"))


def test_ranks_that_agree_have_tau_one_and_an_exact_p() -> None:
    ours = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 9.0}
    found = smol_transfer.agreement(ours, {"a": 0.1, "b": 0.2, "c": 0.5})
    assert found == {"methods": ["a", "b", "c"], "tau": 1.0, "p": pytest.approx(1 / 6)}
    assert smol_transfer.agreement(ours, {"c": 0.5, "b": 0.2, "a": 9.0})["tau"] < 0
    assert smol_transfer.agreement(ours, {"a": 1.0, "b": 2.0})["tau"] is None
    scales = smol_transfer.small_scales()
    assert all({"sft-dpo", "mix"} <= set(values) for values in scales.values())


def ends(gain: float, rounds: float, seeds: int = 10) -> dict[str, Any]:
    """Numbers of two pairs, where joint training and four rounds gain so much."""
    rng = np.random.default_rng(0)
    pairs = {}
    for pair in ("first", "second"):
        start = 1 + rng.uniform(size=(seeds, 2))
        less = {"sft-dpo": 0.0, "alright": gain, "rounds-4": rounds}
        pairs[pair] = {"methods": {n: {"ends": (start - x).tolist()} for n, x in less.items()}}
    return {"pairs": pairs}


def test_claims_hold_only_where_a_gain_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def checked(claim: Any, numbers: dict[str, Any], mutation: str | None = None) -> bool:
        monkeypatch.setattr(smol_claims, "shown", lambda name: numbers)
        return bool(claim(mutation=mutation).holds)

    joint = smol_claims.claim_joint_not_shown_to_win
    half = smol_claims.claim_half_of_the_gain_not_shown
    assert not checked(joint, ends(0.1, 0.0))
    assert checked(joint, ends(-0.1, 0.0))
    assert not checked(joint, ends(-0.1, 0.0), "joint-gains-a-nat")
    assert not checked(half, ends(0.1, 0.06))
    assert checked(half, ends(0.1, 0.04))
    assert not checked(half, ends(0.1, 0.04), "rounds-gain-a-nat")
    with pytest.raises(InputError, match="too few instances"):
        checked(joint, ends(0.1, 0.0, seeds=3))


def test_shares_of_the_sweep_are_those_of_the_papers_epochs() -> None:
    for lam, (preference, sft) in llm_lambdas.EPOCHS.items():
        share = preference / (preference + sft)
        assert smol_extra.at("dpo-sft", lam).schedule.share == pytest.approx(share)
        assert smol_extra.at("sft-dpo", lam).schedule.share == pytest.approx(1 - share)
        assert smol_extra.at("mix", lam).schedule.lam == lam


def test_the_sweep_shares_the_runs_of_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smol_study, "rates", lambda form, pair: (8e-4, 1e-4))
    monkeypatch.setattr(smol_study, "optima", lambda form, pair: [0.5, 0.25])
    form, pair = smol_plan.formed("full", methods=smol_extra.SWEPT), "same prompts"
    swept = smol_study.extra(form, pair, "lambdas")
    half = [c for c in swept if c["method"]["schedule"]["lam"] == smol_methods.LAM]
    shared = [c for c in smol_study.comparison(form, pair) if c["seed"] < form.few]
    assert half == shared
    assert len(swept) == len(form.lams) * len(half)


def test_step_sizes_on_pairs_are_shares_of_the_best_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smol_study, "rates", lambda form, pair: (8e-4, 1e-4))
    monkeypatch.setattr(smol_study, "optima", lambda form, pair: [0.5, 0.25])
    form, pair = smol_plan.formed("gpu", methods=smol_extra.STEPPED), "same prompts"
    laid = smol_study.extra(form, pair, "steps")
    assert {c["preference_rate"] for c in laid} == {5e-5, 1e-4, 2e-4, 4e-4}
    assert {(c["rate"], c["precision"]) for c in laid} == {(8e-4, "fp32")}
    # The runs of the comparison are shared, as their twins.
    shared = [smol_plan.twin(c) for c in smol_study.comparison(form, pair) if c["seed"] < form.few]
    assert [c for c in laid if c["preference_rate"] == 1e-4] == shared


def test_the_plan_says_what_runs_beyond_the_comparison_cost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(smol_rows, "length", lambda pair: 100.0)
    form = smol_plan.formed("full", ["same prompts"], extras=["lambdas"])
    found = smol_extra.plan("lambdas", form, "same prompts")
    assert found["runs"] == form.few * len(form.lams) * len(smol_extra.SWEPT)
    least = found["runs"] * smol_plan.cpu_seconds(form, "same prompts", 0) / 60
    assert least < found["CPU minutes"] < 2 * least
    compared = 2 * (len(form.grid) + form.alone) + form.seeds * len(form.methods)
    assert smol_study.planned(form) == compared + found["runs"]


@pytest.mark.parametrize("kind", ["references", "relearning"])
def test_sft_beside_a_run_has_the_step_size_of_sft(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    def make(c: Any, **_: Any) -> None:
        seen.append(c["rate"])
        raise KeyboardInterrupt

    monkeypatch.setattr(smol_runs, "make", make)
    monkeypatch.setattr(smol_runs, "FOLDER", tmp_path)
    form = smol_plan.FORMS["fast"]
    laid = smol_extra.configurations(kind, form, "generated", (8e-4, 1e-4), [0.0, 0.0])
    ended = SimpleNamespace(model=None, tokenizer=None)
    called = {
        "references": smol_runs.reference,
        "relearning": partial(smol_runs.relearned, trained=ended),
    }[kind]
    for c in laid:
        with pytest.raises(KeyboardInterrupt):
            called(c)
    assert {c["rate"] for c in laid if c["name"] == "dpo-sft"} == {2e-4}
    assert set(seen) == {8e-4}


def test_a_pair_without_runs_does_not_keep_others_from_being_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def later(form: smol_plan.Form, pair: str) -> list[Any]:
        if pair == "first":
            raise smol_stored.Missing("nothing", remedy="Go on.")
        return [pair]

    monkeypatch.setattr(smol_study, "PHASES", (lambda form, pair: [pair], later))
    monkeypatch.setattr(smol_plan, "edges", lambda form, pair: [])
    monkeypatch.setattr(smol_stored, "by_configuration", lambda folder: {})
    monkeypatch.setattr(smol_stored, "take", lambda group, theirs: len(group))
    form = replace(smol_plan.FORMS["fast"], pairs=("first", "second"))
    assert smol_study.adopt(form, tmp_path) == 3


def test_a_figure_of_extras_prefers_a_source_that_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smol_shown.lookup, "place", lambda paper, name: tmp_path / name)
    cost = {"runs": 1, "cpu_seconds": 2.0}
    one: dict[str, Any] = {"seeds": 8, "training": cost, "extras": {}}
    more = one | {"seeds": 3, "extras": {"lambdas": {"seeds": 2, "training": cost, "values": {}}}}
    gpu = {"step": results.STUDY, "machine": {"device": "gpu"}, "setting": {}}
    study = {"name": gpu | {"rounds": [{"found": {"pair": one}}]}}
    monkeypatch.setattr(gpu_run, "every", lambda: study)
    monkeypatch.setattr(smol_study, "summary", lambda form: {"pair": more})
    found = smol_shown.numbers("smol_lambdas", False, "lambdas")
    assert (found["device"], found["seeds"]) == ("cpu", 2)
    # Where no source has them, and where none are asked for, the first one counts.
    assert smol_shown.numbers("smol_relearning", False, "relearning")["device"] == "gpu"
    assert smol_shown.numbers("smol_rounds", False)["device"] == "gpu"


def test_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smol_rows, "DATA", tmp_path)
    smol_rows.rows.cache_clear()
    with pytest.raises(InputError, match="sft_rasbt_train"):
        smol_rows.rows("same prompts")
    smol_rows.rows.cache_clear()


def test_ends_that_rounding_decides_are_shown() -> None:
    both = [
        {"name": "sft-dpo", "seed": 1, "differences": [-1.5, 0.1]},
        {"name": "alright", "seed": 0, "differences": [0.01, -0.02]},
        {"name": "sft-dpo", "seed": 0, "differences": [0.2, 0.0]},
    ]
    methods = {"sft-dpo": {"ends": [[0.1, 0.3], [1.6, 0.4]]}, "alright": {"ends": [[0.1, 0.3]]}}
    one = {"methods": methods, "twins": {"runs": {"evenly": 3}, "both": both}}
    found = smol_loss_space.twins({"made skill": one, "helpful": {"methods": {}}})
    assert (found["runs"], found["methods"], found["both"]) == (3, ["evenly"], 3)
    assert found["largest"] == pytest.approx(0.7)
    assert found["middle"] == pytest.approx(0.1)
    worst = found["worst"]
    assert (worst["method"], worst["seeds"], worst["own"]) == ("SFT→DPO", [1, 0], [1.6, 0.1])
    assert worst["twins"] == pytest.approx([0.1, 0.3])
    nothing = smol_loss_space.twins({})
    assert (nothing["both"], nothing["largest"], nothing["worst"]) == (0, None, None)
    assert smol_shown.label(one, "evenly") == "evenly (CPU)"
    assert smol_shown.label({}, "evenly") == "evenly"


def test_methods_are_compared_over_runs_and_over_pairs() -> None:
    """Ends are (SFT, preference) losses of three seeds; the weight is 1/2."""

    def pair(**ends: list[float]) -> dict[str, Any]:
        both = {n: {"ends": [[2 * e, 0.0] for e in own]} for n, own in ends.items()}
        return {"methods": {name.replace("_", "-"): one for name, one in both.items()}}

    base = [1.0, 1.0, 1.0]
    pairs = {
        "helpful": pair(sft_dpo=base, alright=[0.5, 0.9, 2.0], mix=base),
        "online": pair(sft_dpo=base, alright=[1.1, 1.2, 0.7]),
    }
    (found,) = smol_loss_space.compared(pairs, "sft-dpo").items()  # Mix lacks a pair.
    name, numbers = found
    assert name == "alright"
    counts = {"runs": 6, "below": 3, "pairs_below": 1, "p": 0.75}
    assert numbers == counts | {"middle": pytest.approx(0.0)}
    assert smol_loss_space.compared(pairs, "mix") == {}
    assert smol_loss_space.compared({}, "sft-dpo") == {}


def test_a_step_beyond_the_grid_stands_beside_the_best_of_it() -> None:
    tried = {
        "sft-only": [(1e-3, 0.5), (2e-3, 0.4), (4e-3, None)],
        "preference-only": [(1e-3, None), (2e-3, 0.6)],
    }
    (found,) = smol_loss_space.edges({"helpful": {"steps": tried}, "online": {}}, 2e-3)
    assert found == {
        "pair": "helpful", "name": "sft-only", "best": (2e-3, 0.4), "beyond": (4e-3, None),
    }  # fmt: skip
