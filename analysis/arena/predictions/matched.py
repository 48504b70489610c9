"""What is predicted of losses of pairs with one beta, and at a weight of equal pull."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.arena.predictions.compare import HALF
from analysis.arena.stored import cells, means, of, shown, wins
from analysis.dossier.evidence import holds_on_units
from analysis.dossier.mutations import SWAPPED, mutate
from tradeoff.theory.checked import Checked

SCORES, TERMS = ("regret", "front_gap"), ("beta", "weight")


def losses() -> dict[str, Any]:
    """Numbers of the stored run of :mod:`analysis.arena.boards.matched`."""
    return of("matched")


def claim_the_same_loss(fast: bool = False, mutation: str | None = None) -> Checked:
    """DPO under its other name is Mix once it has the problem's beta, on every cell."""
    numbers = losses()
    boards = mutate(mutation, [numbers[terms] for terms in TERMS], {"own-beta": [shown()]})
    table = pd.concat([cells(each, score) for each in boards for score in SCORES], axis=1)
    return Checked(table.loc["sigmoid"].to_numpy(), table.loc["mix"].to_numpy(), "exact", {}, 1e-9)


def claim_beta(fast: bool = False, mutation: str | None = None) -> Checked:
    """Most losses have less regret with the problem's beta than with their own settings."""
    numbers = losses()
    return _nearer(shown(), numbers["beta"], _with_beta(numbers), mutation)


def claim_pull(fast: bool = False, mutation: str | None = None) -> Checked:
    """Most losses have less regret at the weight of equal pull than at the requested one."""
    numbers = losses()
    return _nearer(numbers["beta"], numbers["weight"], list(numbers["losses"]), mutation)


def claim_no_better_front(fast: bool = False, mutation: str | None = None) -> Checked:
    """No loss is significantly nearer to the front than DPO on more than half of the problems."""
    return _most_wins("front_gap", mutation)


def claim_no_less_regret(fast: bool = False, mutation: str | None = None) -> Checked:
    """No loss has significantly less regret than DPO on more than half of the problems."""
    return _most_wins("regret", mutation)


def _with_beta(numbers: Mapping[str, Any]) -> list[str]:
    """Losses in which the problem's beta changes anything but DPO itself, on the first problem."""
    every = numbers["losses"].items()
    return [name for name, about in every if about["changed"] and name != "sigmoid"]


def _nearer(
    before: Mapping[str, Any], after: Mapping[str, Any], names: list[str], mutation: str | None
) -> Checked:
    """That on most problems, most losses have less regret after than before."""
    pair = [means(each, "regret").loc[names] for each in (before, after)]
    old, new = mutate(mutation, pair, {SWAPPED: pair[::-1]})
    return holds_on_units((new < old).T.to_numpy(), 0.5)


def _most_wins(score: str, mutation: str | None) -> Checked:
    numbers = losses()
    counts = {terms: wins(numbers[terms], "mix", score).drop("mix") for terms in TERMS}
    side = mutate(mutation, "better", {SWAPPED: "worse"})
    most = max(int(found[side].max()) for found in counts.values())
    return Checked(float(most), float(HALF), "upper", {"losses": len(numbers["losses"])}, 0.0)
