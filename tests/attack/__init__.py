"""Attacks on the promises of the package, seeded: ``python -m tests.attack``.

Every module here whose name has no underscore in front is one attack. It has

    PROMISE                    what must hold, in one sentence
    TRIES, FULL                tries of the selection and of the full set
    run(tries, seed)           an :class:`tests.attack._outcome.Outcome`

so a new attack is one new file.
"""

from __future__ import annotations

import sys
from pathlib import Path

# The tests' helpers are imported by their plain names, as pytest does it.
_TESTS = str(Path(__file__).parents[1])
if _TESTS not in sys.path:
    sys.path.append(_TESTS)
