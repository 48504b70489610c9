"""The figures of forecasts: all of their code runs, and their captions say what it counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from analysis.dossier import captions
from analysis.fernando2024.dossier import DOSSIER
from analysis.fernando2024.forecast import fighting_rows, grid
from analysis.fernando2024.forecast.accuracy import FORECASTS

pytestmark = pytest.mark.slow

FIGURES = ("forecast_accuracy", "fighting_rows", "dropped_rows", "smol_forecast")


@pytest.fixture(scope="module", autouse=True)
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs in a folder of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "FOLDER", tmp_path_factory.mktemp("runs"))
        yield


@pytest.mark.parametrize("name", FIGURES)
def test_captions_say_what_varies_and_how_to_redraw(
    name: str, numbers: Callable[[str], dict[str, Any]]
) -> None:
    text = captions.caption(DOSSIER.module(name), numbers(name))
    for part in ("hat varies", "n = ", f"python -m analysis {name}"):
        assert part in text, part
    assert len(text.split()) <= 90


def test_every_forecast_is_judged_on_pairs_that_it_did_not_see(
    numbers: Callable[[str], dict[str, Any]],
) -> None:
    found = numbers("forecast_accuracy")
    assert set(found["scores"]) == set(FORECASTS)
    pairs = len(grid.FORMS["fast"].pairs)
    for name, scores in found["scores"].items():
        assert len(scores["by_pair"]) == pairs, name
        assert 0 <= scores["coverage"] <= 1
        assert scores["median_error"] > 0
    assert all(found["scores"][name]["cost"] is None for name in ("constant", "early"))
    # Fresh pairs are none of those that anything was fitted or chosen on.
    assert set(found["fresh"]["stack"]["by_pair"]) == set(grid.FORMS["fast"].fresh)
    assert not set(grid.FRESH) & set(grid.PAIRS)
    assert not any(a == b for a in grid.FRESH.values() for b in grid.PAIRS.values())


def test_what_is_planned_is_what_is_run() -> None:
    planned = grid.plan("full")
    form, runs = grid.FORMS["full"], grid.configurations("full")
    assert planned["runs"].sum() == len(runs)
    assert len(form.pairs) >= 12
    assert form.seeds >= 2
    # Fronts of all pairs come first, so that an interrupted grid can be judged.
    fronts = [c["name"].startswith(("mix", "early")) for c in runs]
    assert fronts == sorted(fronts, reverse=True)


def test_dropping_rows_that_fight_lowers_the_price_more_than_dropping_others() -> None:
    found = fighting_rows.one(50, 60, fast=True)
    assert found["without_fighting"] < found["without_random"]
    assert found["convex"] > 0.8
