"""Wrong settings, files of claims and stored results.

The search is `tests/settings_fuzz.py`.
"""

from __future__ import annotations

import settings_fuzz

from tests.attack._outcome import Outcome

PROMISE = "A wrong setting, claim or stored result is one clear error that names it."
TRIES, FULL = 300, 2000


def run(tries: int, seed: int) -> Outcome:
    """Try `tries` wrong inputs."""
    outcome = Outcome()
    outcome.add("settings, claims and results", tries=tries)
    for problem in settings_fuzz.run(tries, seed)[1]:
        outcome.add("settings, claims and results", problem, tries=0)
    return outcome
