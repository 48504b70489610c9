"""The documentation's page of each method: complete, with the numbers of the stored board."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from analysis.arena import stored
from analysis.arena.pages import pages
from analysis.arena.pages.docstrings import described_presets, sections, settings
from analysis.arena.pages.picture import SIDE
from tradeoff.arena.ranks import rank_table
from tradeoff.methods import find, names
from tradeoff.methods.anchors import LearningWithoutForgetting
from tradeoff.methods.cards import cards
from tradeoff.methods.presets import PRESETS

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return pages()


def test_every_name_has_a_page_that_says_what_it_is(made: dict[str, str]) -> None:
    board = stored.shown()["methods"]
    assert set(made) == {f"{n}.md" for n in names()} | {f"{n}.svg" for n in board}
    for name in names():
        text = made[f"{name}.md"]
        assert text.startswith(f"# {find(name).label}\n")
        assert ":`" not in text, name
        assert (f"]({name}.svg)" in text) == (name in board)
        assert ("no place on the convex board" in text) == (name not in board)


def test_a_page_has_what_its_card_and_the_board_say(made: dict[str, str]) -> None:
    numbers = stored.shown()
    places = rank_table(stored.means(numbers, "regret"))["rank"]
    for card in cards():
        if card.method:
            text = made[f"{card.method}.md"]
            assert f"| row {card.id} | {card.name}" in text
            assert f"Mark {card.mark}: " in text
            assert not card.stop or card.stop in text
            assert not card.note or card.note in text
    for name, rank in places.items():
        assert f"| rank | {rank:.1f} of {len(places)} (" in made[f"{name}.md"]


def test_a_picture_has_one_dot_for_each_weight_of_a_panel(made: dict[str, str]) -> None:
    numbers = stored.shown()
    root = ElementTree.fromstring(made["mix.svg"])
    panels = root.findall(f"{SVG}svg")
    assert len(panels) == 4
    for panel in panels:
        assert len(panel.findall(f"{SVG}circle")) == len(numbers["lams"])
        front, mix, own = (line.get("points") for line in panel.findall(f"{SVG}polyline"))
        assert mix == own
        places = [float(x) for pair in str(front).split() for x in pair.split(",")]
        assert all(0 <= place <= SIDE for place in places)


def test_a_docstring_is_taken_apart() -> None:
    assert set(described_presets()) == set(PRESETS)
    assert described_presets()["evenly_budget"] == "with half of the turns each"
    assert set(sections(LearningWithoutForgetting)) >= {"", "Attributes"}
    for name in names():
        for part in find(name).changed().values():
            assert all(settings(type(part)).values()), name
