"""Mutated rows: reader, template, tokens, two updates, saving and loading of the model.

The search is `tests/rows_fuzz.py`.
"""

from __future__ import annotations

import rows_fuzz

from tests.attack._outcome import Outcome

PROMISE = "Every row is trained on unchanged, or reported with one clear error."
TRIES, FULL = 30, 500


def run(tries: int, seed: int) -> Outcome:
    """Try `tries` files of mutated rows."""
    outcome = Outcome()
    outcome.add("files of mutated rows", tries=tries)
    for problem in rows_fuzz.run(tries, seed)[1]:
        outcome.add("files of mutated rows", problem, tries=0)
    return outcome
