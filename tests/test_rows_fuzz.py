"""A selection of the fuzz of rows; ``python tests/rows_fuzz.py 20000`` tries more."""

from __future__ import annotations

import pytest
from rows_fuzz import fuzz


@pytest.mark.parametrize("seed", range(2))
def test_a_mutated_row_is_right_or_one_clear_error(seed: int) -> None:
    found = fuzz(250, seed)
    assert found.total() == 250
    assert min(found["read"], found["refused"]) > 40
