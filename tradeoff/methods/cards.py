"""The methods of the literature, row by row: what the catalogue holds, and why not the rest."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from tradeoff.parts import SCALES
from tradeoff.settings import build, check

FILE = Path(__file__).with_name("cards.toml")
MARKS = {
    "A": "from the authors' text or code",
    "B": "after a second-hand description",
    "C": "after an abstract",
    "N": "ours",
}
"""How well the formula of a row is known."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One method of the literature.

    Attributes
    ----------
    id
        Letter and number: S of the reading list, G balancing rules, J losses and joint methods, C
        remedies for forgetting, X ours.
    name
        In plain words.
    kind
        What it is, such as "gradient rule".
    source
        Where it was published.
    mark
        How well its formula is known, see :data:`MARKS`.
    method
        Its name in the catalogue; empty if there is none.
    reason
        Why there is none; empty otherwise.
    note
        Which part of it the catalogue holds, where that is not all.
    stop
        Where it ends on convex problems, with exact gradients and steps that fall; empty where that
        is not known. f1 and f2 are the losses of demonstrations and of pairs, gap1 and gap2 what
        they exceed their minima by.
    measure
        The function that computes it, as ``module:name``, where it measures policies and is no
        method; else empty.
    scenario
        Names of the arena's problems, separated by commas, where it is a problem on which any
        method runs; else empty.
    """

    id: str
    name: str
    kind: str
    source: str
    mark: Literal["A", "B", "C", "N"]
    method: str = ""
    reason: str = ""
    note: str = ""
    stop: str = ""
    measure: str = ""
    scenario: str = ""

    def __post_init__(self) -> None:
        check(self)

    @property
    def scenarios(self) -> tuple[str, ...]:
        """Names of the problems of the arena that it is."""
        return tuple(name.strip() for name in self.scenario.split(",") if name)

    def scales(self) -> dict[str, str | None]:
        """By scale, why it cannot run there; None if it can."""
        from tradeoff.methods.catalogue import find  # which knows every part

        if not self.method:
            return dict.fromkeys(SCALES, self.reason)
        method = find(self.method)
        return {scale: method.unsupported(scale) for scale in SCALES}


@cache
def cards() -> tuple[Card, ...]:
    """All rows, in the order of their ids.

    Raises
    ------
    InputError
        If a row of the stored table does not fit.

    Examples
    --------
    >>> next(card.name for card in cards() if card.method == "cagrad")
    'CAGrad'
    """
    with FILE.open("rb") as file:
        rows = tomllib.load(file)["card"]
    return tuple(build(Card, row, file=FILE.name, row=k) for k, row in enumerate(rows, 1))
