"""Three sets of known conflict, made of a user's own pairs, which give the numbers a scale.

- same: demonstrations are the chosen responses. Both objectives ask for the same responses.
- reversed: demonstrations are the rejected responses. One objective asks for what the other one
  rejects: the most conflict that these pairs can have.
- shuffled: the user's demonstrations, and pairs whose labels are drawn by coin. They ask for
  nothing, so what is learned of them is noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tradeoff.data.rows import PreferenceRow, SftRow

ANCHORS = ("same", "reversed", "shuffled")
"""Names of the sets of known conflict."""


def anchor(
    name: str, sft: Sequence[SftRow], preference: Sequence[PreferenceRow], seed: int
) -> tuple[list[SftRow], list[PreferenceRow]]:
    """The rows of one anchor; as many demonstrations as the user has, if there are enough pairs.

    Parameters
    ----------
    name
        One of `ANCHORS`.
    sft, preference
        The user's rows.
    seed
        Of the shuffled labels, and of which pairs become demonstrations.
    """
    rng = np.random.default_rng(seed)
    if name == "shuffled":
        coins = rng.random(len(preference)) < 0.5
        return list(sft), [
            replace(row, chosen=row.rejected, rejected=row.chosen) if coin else row
            for row, coin in zip(preference, coins, strict=True)
        ]
    some = rng.permutation(len(preference))[: len(sft)]
    field = {"same": "chosen", "reversed": "rejected"}[name]
    taken = (preference[int(i)] for i in sorted(some))
    return [SftRow(row.prompt, getattr(row, field)) for row in taken], list(preference)
