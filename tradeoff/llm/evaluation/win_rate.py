"""Win rate of a policy's responses against others, by a judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tradeoff.data.rows import PreferenceRow
from tradeoff.data.synthetic.right_answers import plain
from tradeoff.errors import InputError
from tradeoff.llm.evaluation.judges import Contest, Judge, MarginJudge
from tradeoff.llm.evaluation.score import Score, share
from tradeoff.progress import tqdm

ROUNDING = 1e-5
"""Largest margin of a tie, in nats or units of a reward: the same response scored in another batch
can differ by as much."""


@dataclass(frozen=True, eq=False)
class Verdicts:
    """The verdicts of a judge.

    Attributes
    ----------
    wins
        For each contest: 1 if the first response won, 0 if the second won, 1/2 for a tie, or a
        probability; NaN without a verdict.
    """

    wins: Float[np.ndarray, " n"]

    @property
    def ties(self) -> int:
        """Number of contests that neither response won; each counts as half a win."""
        return int((self.wins == 0.5).sum())

    @property
    def undecided(self) -> int:
        """Number of contests without a verdict, which do not count."""
        return int(np.isnan(self.wins).sum())

    def score(self) -> Score:
        """The win rate with Wilson's interval, which is conservative for fractional verdicts."""
        found = self.wins[~np.isnan(self.wins)]
        if not len(found):
            remedy = "Give a larger max_length or shorter prompts."
            raise InputError("the judge has no verdict for any prompt", remedy=remedy)
        return share("win_rate", found)


def against_chosen(rows: Sequence[PreferenceRow], responses: Sequence[str]) -> list[Contest]:
    """Contests of a policy's responses with the chosen ones."""
    both = zip(rows, responses, strict=True)
    return [Contest(row.prompt, response, plain(row.chosen)) for row, response in both]


def judged(
    contests: Sequence[Contest],
    judge: Judge | MarginJudge,
    *,
    both_orders: bool = True,
    progress: bool = False,
) -> Verdicts:
    """Ask a judge about each contest.

    Parameters
    ----------
    contests
        At least one.
    judge
        A callable ``(prompt, first, second) -> probability that the first wins``, or an object
        with ``margins`` as in `tradeoff.llm.evaluation.judges`, whose sign decides. Equal
        responses tie, and so do margins that rounding alone could have made.
    both_orders
        Ask a callable twice, with the responses exchanged, and average, as many judges favour the
        first or the second place. A judge with margins is asked once.

    Raises
    ------
    InputError
        If a callable returns a value that is not a probability.
    """
    if not contests:
        raise InputError("there are no contests", remedy="Give at least one.")
    if isinstance(judge, MarginJudge):
        margins = np.asarray(judge.margins(contests, progress), dtype=float)
        equal = np.array([contest.first == contest.second for contest in contests])
        margins[(np.abs(margins) <= ROUNDING) | (equal & ~np.isnan(margins))] = 0.0
        return Verdicts(np.where(np.isnan(margins), np.nan, (np.sign(margins) + 1) / 2))
    wins = np.empty(len(contests))
    for i, contest in enumerate(tqdm(contests, desc="judge", disable=not progress, leave=False)):
        wins[i] = _ask(judge, contest, i)
        if both_orders:
            other = _ask(judge, Contest(contest.prompt, contest.second, contest.first), i)
            wins[i] = (wins[i] + 1 - other) / 2
    return Verdicts(wins)


def _ask(judge: Judge, contest: Contest, place: int) -> float:
    found = judge(contest.prompt, contest.first, contest.second)
    if not 0 <= found <= 1:
        raise InputError(
            "the judge's verdict is not a probability",
            row=place + 1,
            field="judge",
            value=found,
            remedy="Let it return a number from 0 to 1: how likely the first response wins.",
        )
    return float(found)
