"""A selection of the search over mutated rows; ``python tests/rows_fuzz.py`` tries more."""

from __future__ import annotations

import json

import pytest
import rows_fuzz
from rows_fuzz import fuzz, runs


@pytest.mark.parametrize("seed", range(2))
def test_a_mutated_row_is_right_or_one_clear_error(seed: int) -> None:
    found = fuzz(250, seed)
    assert found.total() == 250
    assert min(found["read"], found["refused"]) > 40


@pytest.mark.slow
def test_mutated_rows_are_trained_on_or_reported_and_what_is_saved_was_trained() -> None:
    found = runs(10, seed=7)
    assert found.failures == []
    assert found.counts["inputs"] > 50
    assert min(found.counts["runs"], found.counts["files refused with one error"]) >= 2
    assert rows_fuzz.run(2, seed=7)[1] == []


def test_a_silent_loss_of_rows_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search fails if a reader drops rows without a message."""
    read = rows_fuzz.READ["sft"]

    def silent(path: object, **options: object) -> object:
        found = read(path, **options)
        return rows_fuzz.replace(found, rows=found.rows[1:], dropped=())

    monkeypatch.setitem(rows_fuzz.READ, "sft", silent)
    found = runs(3, seed=7)
    assert found.failures
    assert any("neither used nor told" in failure for failure in found.failures)


def test_the_stored_fuzz_found_nothing() -> None:
    stored = json.loads(rows_fuzz.STORED.read_text("utf-8"))
    assert stored["failures"] == 0
    assert stored["inputs"] >= 2000
    assert min(stored["mutated rows used"], stored["mutated rows told"]) > 500
    assert min(stored["runs"], stored["files refused with one error"]) > 40
