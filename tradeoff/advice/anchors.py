"""Anchors: three sets of known conflict, made from a user's own pairs, which give a scale.

- same: demonstrations are the chosen responses. Both objectives ask for the same responses.
- reversed: demonstrations are the rejected responses. One objective asks for the responses that the
  other rejects, which is the largest conflict that these pairs can have.
- shuffled: the user's demonstrations, and pairs with labels drawn by a fair coin. These pairs have
  no information, so a policy learns only noise from them.
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
    """Rows of one anchor, with as many demonstrations as the user has if there are enough pairs.

    Parameters
    ----------
    name
        One of `ANCHORS`.
    sft, preference
        The user's rows.
    seed
        Seed of the shuffled labels, and of the choice of pairs that become demonstrations.
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
