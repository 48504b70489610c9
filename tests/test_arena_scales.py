"""Boards of several scales side by side: tables, sentences, rows of the page, and agreement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.arena import across, pretrained, stored, transfer
from analysis.arena.dossier import DOSSIER
from analysis.arena.pictures import third_networks
from analysis.arena.pictures import transfer as picture
from analysis.dossier import report
from tradeoff.arena.ranks import kendall
from tradeoff.display import cell
from tradeoff.errors import InputError


def few(numbers: dict[str, Any], methods: int, problems: int) -> dict[str, Any]:
    """The first methods and problems of the stored board, in the form of other scales."""
    law = stored.means(numbers, "law_regret").iloc[:methods, :problems]
    half = stored.array(numbers["half_width"])[:methods, :problems]
    compared = numbers["differences"]["regret"]
    return {
        **numbers,
        "methods": numbers["methods"][:methods],
        "labels": numbers["labels"][:methods],
        "slots": numbers["slots"][:methods],
        "at_edge": numbers["at_edge"][:methods],
        "problems": numbers["problems"][:problems],
        "cells": {
            score: [row[:problems] for row in rows[:methods]]
            for score, rows in numbers["cells"].items()
        },
        "means": {"second_regret": stored.texts(law)},
        "half_width": stored.texts(half),
        "differences": {
            "regret": {
                name: {
                    key: stored.texts(stored.array(values)[:methods, :problems])
                    for key, values in table.items()
                }
                for name, table in compared.items()
            }
        },
    }


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    whole = stored.shown()
    boards = {
        "board": whole,
        "text": few(whole, 140, 2),
        "policies": few(whole, 130, 3),
        "language": few(whole, 120, 2),
    }
    tables = transfer.regrets(boards)
    numbers = {
        "scales": list(tables),
        "within": {scale: transfer.within(table) for scale, table in tables.items()},
        "between": picture.pairs(tables),
        "without_preference": picture.pairs(tables, "preference"),
        "everywhere": picture.pairs(picture.on_all(tables)),
    }
    return {**boards, "transfer": numbers}


@pytest.mark.slow
def test_agreement_of_scales_is_that_of_mean_regrets(results: dict[str, Any]) -> None:
    tables = transfer.regrets(results)
    found = transfer.between(tables["law"], tables["policies"])
    common = list(tables["policies"].index)
    means = [tables[scale].loc[common].mean(axis=1) for scale in ("law", "policies")]
    assert found.tau == pytest.approx(kendall(*means))
    assert found.low < found.tau < found.high
    assert found.n == 130
    without = transfer.between(tables["law"], tables["policies"], "preference")
    kept = [slot != "preference" for slot in results["policies"]["slots"]]
    assert without.n == sum(kept) < found.n
    # The rows of the other boards are those of the convex one.
    assert transfer.between(tables["law"], tables["text held out"]).n == 140
    assert np.isnan(transfer.within(tables["law"].iloc[:, :1]))


def test_tables_have_every_board_and_every_method(results: dict[str, Any]) -> None:
    made = across.tables(results)
    assert list(made["scales"]["scale"]) == list(across.SCALES.values())
    places = made["places"].set_index("method")
    assert len(places) == len(results["board"]["methods"])
    last = results["board"]["methods"][-1]
    assert places.loc[last, "language model"] == ""
    assert places.loc[last, "convex, law"] != ""
    assert len(made["transfer"]) == len(results["transfer"]["between"]) == 15
    third = made["third"].set_index(["scale", "measure"])
    # The other boards of this test have no third measures.
    assert set(third.index.get_level_values("scale")) == {"convex"}
    flips = stored.means(results["board"], "flips").mean(axis=1)
    assert third.loc[("convex", "flips"), "mix"] == cell(float(flips["mix"]))
    assert across.tables({"board": results["board"]}) == {}


def test_sentences_are_those_of_the_numbers(results: dict[str, Any]) -> None:
    found = across.answers(results)
    assert {pair["first"] for pair in found["pairs"]} >= {"rows", "law"}
    policies = next(each for each in found["boards"] if each["scale"] == "small networks")
    regret = stored.means(results["policies"], "regret").mean(axis=1)
    assert policies["first"][0]["name"] == regret.idxmin()
    assert policies["known"]["mix"] == pytest.approx(regret["mix"])
    assert across.answers({}) == {}
    content = {"scales": found, "tables": across.tables(results), "results": results}
    content["pretrained"] = real = pretrained.answers()
    text = report.render(DOSSIER, ("sections/scales.md.j2",), content)
    assert "**Do ranks transfer across scales?**" in text
    assert "convex, law and language model: " in text
    assert "Of the 120 methods that ran on every scale alone" in text
    for name, one in real["leaders"].items():
        said = f"`{name}` ends below ALRIGHT in {one['below']['alright']} of {one['runs']} runs"
        assert said.replace("-", "_") in text
    empty = report.render(DOSSIER, ("sections/scales.md.j2",), {"scales": {}})
    assert "have not run yet" in empty


def test_the_page_has_a_row_for_every_problem_of_every_scale(results: dict[str, Any]) -> None:
    rows = across.rows(results)
    numbers = [results[name] for name in transfer.BOARDS]
    assert len(rows) == sum(len(n["methods"]) * (len(n["problems"]) + 1) for n in numbers)
    shown = [row for row in rows if row["shown"]]
    assert len(shown) == sum(len(each["methods"]) for each in numbers)
    first = next(row for row in rows if row["made"]["scale"] == "small networks")
    assert first["made"]["problem"] == across.MEAN
    assert first["cells"][5] == "1"
    assert len({len(row["cells"]) for row in rows}) == 1


@pytest.mark.slow
def test_the_picture_of_networks_shows_what_boards_have(
    results: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boards = {scale: dict(results[scale]) for scale in third_networks.SCALES}
    monkeypatch.setattr(third_networks, "beside", lambda out, fast, name: boards[name])
    with pytest.raises(InputError, match="older than their third measures"):
        third_networks.main(tmp_path, fast=True)
    for numbers in boards.values():
        size = len(numbers["methods"]), len(numbers["problems"])
        kept = {s: stored.array(results["board"]["means"][s])[: size[0], : size[1]]
                for s in ("kl", "flips", "calibration")}  # fmt: skip
        numbers["means"] = {score: stored.texts(values) for score, values in kept.items()}
    regret = stored.array(boards["language"]["cells"]["regret"]).mean(axis=2)
    boards["language"]["means"]["documents"] = stored.texts(regret)
    numbers = third_networks.main(tmp_path, fast=True)
    assert numbers["scales"]["language"]["tau"]["documents"] == pytest.approx(1.0, abs=0.02)
    assert "documents" not in numbers["scales"]["policies"]["tau"]
    assert "{" not in third_networks.CAPTION.format(**third_networks.words(numbers))


def test_leaders_are_compared_on_the_pairs_that_have_them() -> None:
    known = {"seeds": 2, "start": [2.0, 1.0], "ideal": [1.0, 0.0]}
    baselines = {"alright": [[1.5, 0.5], [1.5, 0.5]], "sft-dpo": [[1.6, 0.6], [1.3, 0.5]]}
    some = {"weighted_loss": {"mean": 1.0}}
    methods = {name: {"ends": ends, **some} for name, ends in baselines.items()}
    leader = {"evenly": {"ends": [[1.5, 0.4], [1.4, 0.8]], **some}}
    pairs = {
        "first": {**known, "methods": {**methods, **leader}},
        "second": {**known, "methods": methods},
    }
    found = pretrained.answers({"pairs": pairs})
    assert found["pairs"] == ["first", "second"]
    assert found["methods"] == ["sft-dpo", "alright", "evenly"]
    (name,) = found["leaders"]
    assert name == "evenly"
    one = found["leaders"]["evenly"]
    assert one["runs"] == 2
    assert one["below"] == {"alright": 1, "sft-dpo": 1}
    # Weighted losses: .95 and 1.1, against 1 and 1; a range is 1.
    assert one["less"]["alright"] == {"first": pytest.approx(0.025)}
    assert found["transfer"] == {}  # Three methods are too few.
    both = [{"name": "alright", "seed": 1, "differences": [0.2, 0.2]}]
    pairs["first"]["twins"] = {"runs": {"evenly": 2}, "both": both}
    again = pretrained.answers({"pairs": pairs})["leaders"]["evenly"]
    assert again["below"] == {"alright": 2, "sft-dpo": 1}


def test_ranks_of_the_convex_board_agree_with_themselves() -> None:
    regret = stored.means(stored.of("board"), "law_regret").mean(axis=1)
    names = ("sft-dpo", "dpo-sft", "alright", "mix", "evenly", "tracked")
    one = {
        "seeds": 1, "start": [2.0, 1.0], "ideal": [1.0, 0.0],
        "methods": {
            name: {"weighted_loss": {"mean": float(regret[name])}, "ends": [[1.0, 1.0]]}
            for name in names
        },
    }  # fmt: skip
    (found,) = pretrained.answers({"pairs": {"own": one}})["transfer"].values()
    assert found["tau"] == pytest.approx(1.0)
    assert found["p"] == pytest.approx(1 / 720)


def test_ranks_of_scales_at_once_have_an_exact_p() -> None:
    """One scale has the p of all orders; a second one that is equal adds no evidence."""
    convex = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4, "e": 9.0}
    real = {"a": 1.0, "b": 3.0, "c": 2.0, "d": 4.0}
    one, two = (pretrained.at_once([real] * n, convex) for n in (1, 2))
    assert (
        one == two == {"methods": [*real], "tau": pytest.approx(4 / 6), "p": pytest.approx(4 / 24)}
    )
    turned = {name: -value for name, value in real.items()}
    mixed = pretrained.at_once([real, turned], convex)
    assert mixed["tau"] == pytest.approx(0.0)
    assert mixed["p"] == 1.0
    assert pretrained.at_once([], convex)["tau"] is None
    assert pretrained.at_once([{"a": 1.0}], convex)["tau"] is None
