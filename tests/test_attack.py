"""Each attack with few tries, and the tools of attacks; `make attack` tries more."""

from __future__ import annotations

import errno
import json
import random
from pathlib import Path

import pytest

from tests.attack import _damage, _faults, _outcome, _runner

FEW = {"kills": 4, "corruption": 8, "security": 16, "writers": 3, "disk": 2, "rows": 2,
       "settings": 20, "certificates": 4}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", _runner.known())
def test_no_attack_succeeds_in_a_few_tries(name: str) -> None:
    outcome = _runner.attack(name).run(FEW[name], seed=0)
    assert outcome.failures == []
    assert outcome.tries >= FEW[name]


@pytest.mark.parametrize("name", _runner.known())
def test_every_attack_says_what_it_promises(name: str) -> None:
    module = _runner.attack(name)
    assert module.PROMISE.endswith(".")
    assert 0 < module.TRIES < module.FULL


def test_stored_counts_are_of_the_full_set_of_every_attack_and_without_failures() -> None:
    stored = json.loads(_runner.STORED.read_text("utf-8"))
    assert set(stored) == set(_runner.known())
    for name, found in stored.items():
        assert found["failures"] == 0, found["examples"]
        assert found["tries"] >= _runner.attack(name).FULL, name


# ---------------------------------------------------------------------- the tools


def test_outcomes_count_by_kind_and_tries_are_shared() -> None:
    def kind(count: int, rng: random.Random, outcome: _outcome.Outcome) -> None:
        for _ in range(count):
            outcome.add("odd", "broken" if rng.random() < 2 else None)

    outcome = _outcome.spread(5, 0, {"odd": kind, "even": lambda n, r, o: o.add("even", tries=n)})
    assert (outcome.kinds, len(outcome.failures)) == ({"odd": 3, "even": 2}, 3)
    assert outcome.record()["kinds"]["odd"] == {"tries": 3, "failures": 3}
    assert sorted(_outcome.sample([1, 2], 4, random.Random(0))) == [1, 1, 2, 2]


def test_every_write_below_a_folder_is_seen_and_can_be_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from safetensors.torch import save_file

    def write() -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "b").write_text("x", "utf-8")
        save_file({"x": torch.zeros(1)}, tmp_path / "c.safetensors")
        pq.write_table(pa.table({"x": [1]}), tmp_path / "d.parquet")
        (tmp_path / "a" / "b").replace(tmp_path / "e")
        (tmp_path / "e").unlink()
        (tmp_path / "a").rmdir()

    with _faults.Watch(tmp_path) as watch:
        write()
        (tmp_path / "c.safetensors").read_bytes()
    assert watch.count == 7
    with (
        _faults.Watch(tmp_path, 2, _faults.refused(errno.EROFS)),
        pytest.raises(OSError, match="Read-only"),
    ):
        write()
    (tmp_path / "a").rmdir()
    with _faults.Watch(tmp_path / "elsewhere") as watch:
        write()
    assert watch.count == 0


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.safetensors"])
def test_damage_changes_a_file(tmp_path: Path, name: str) -> None:
    path, rng = tmp_path / name, random.Random(0)
    text = '{"step": 1, "inner": {"loss": [0.5, true, null, "x"]}}\n{"step": 2}\n'
    text = text.splitlines()[0] if name == "a.json" else text
    for _ in range(20):
        for damage in _damage.damages(path):
            path.write_text(text, "utf-8")
            damage(path, rng)
            assert path.read_text("utf-8", errors="replace") != text
