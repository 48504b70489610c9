"""The declaration of the arena's dossier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.arena.stored import PAPER
from analysis.dossier.declaration import Chapter, Dossier

Results = Mapping[str, Any]
TITLES = {
    "board": "Every method on the board, best first: means over problems, in units of the fronts' "
    "ranges.",
    "winners": "Methods that are ahead of ALRIGHT or MAXRIGHT on more problems than behind.",
    "losses": "Losses of pairs less DPO: means over problems, with 95 % t-intervals over problems.",
    "skills": "Probability of the answers that show a skill, before training and after it.",
    "skills_networks": "The same for small networks.",
    "scales": "What ran on each scale.",
    "places": "Rank of each method by mean regret on every scale.",
    "third": "Measures that neither objective trains, by scale: of some methods, and Kendall's tau "
    "of each measure with the regret over all methods.",
    "transfer": "Kendall's tau of the mean regrets of the methods on two scales.",
    "absent": "Names of the catalogue that have no place on the convex board.",
}
"""Captions of the tables in LaTeX."""


# The import below is late: a list of figures needs no tables.


def _tables(results: Results) -> dict[str, pd.DataFrame]:
    from analysis.arena import across
    from analysis.arena.tables import all_tables

    return {**all_tables(results), **across.tables(results)}


def _content(results: Results) -> dict[str, Any]:
    from analysis.arena import across, pretrained
    from analysis.arena.answers import answers, evidence

    return {
        "answers": answers(results),
        # Claims read what is stored, so that there are none before the first run.
        "evidence": evidence() if results else {},
        "scales": across.answers(results),
        "places": across.rows(results),
        "pretrained": pretrained.answers(),
    }


DOSSIER = Dossier(
    title="The arena: every method on problems whose best trade-offs are certified",
    folder=PAPER,
    package="analysis.arena",
    chapters=(
        Chapter("boards", "The boards", first=("board",), studies=True),
        Chapter(
            "pictures",
            "Pictures of the board",
            first=("transfer", "kinds", "families", "third", "third_networks"),
            studies=True,  # Their full form shows the full board, and comes after it.
        ),
    ),
    sections={
        "method": "How it is measured",
        "answers": "Answers",
        "scales": "Across scales",
        "predictions": "Predictions and their verdicts",
        "table": "The board",
    },
    opening=3,
    tables=_tables,
    titles=TITLES,
    content=_content,
)
