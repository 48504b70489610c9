"""Rows and tokens on disk: the same training bit for bit, found by name, checked when read."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from llm_models import bpe_tokenizer_hf
from llm_runs import preference_rows, sft_rows, steady, trainer, weights

from tradeoff.data import Message, PreferenceRow, SftRow, read_preferences, read_sft
from tradeoff.data.rows import Origin
from tradeoff.data.splits import hold_out
from tradeoff.data.spool import Spool, View, chosen, decoded, encoded, on_disk
from tradeoff.errors import InputError
from tradeoff.llm import _stored
from tradeoff.llm._data import Tokenised, tokenise_preferences, tokenise_sft
from tradeoff.llm.defects import Defects

TOKENIZER = bpe_tokenizer_hf()


def write(path: Path, rows) -> Path:
    """Rows as JSON lines."""
    names = ("prompt", "completion") if isinstance(rows[0], SftRow) else ()
    names = names or ("prompt", "chosen", "rejected")
    lines = [json.dumps({name: getattr(row, name) for name in names}) + "\n" for row in rows]
    path.write_text("".join(lines), "utf-8")
    return path


def assert_same(first: Tokenised, second: Tokenised) -> None:
    """All properties of two sets, and every token of them, are equal."""
    names = ("too_long", "truncated", "fingerprint", "identical", "cut_equal", "findings")
    assert [getattr(first, name) for name in names] == [getattr(second, name) for name in names]
    assert list(first.rows) == list(second.rows)
    assert list(map(str, first.dropped)) == list(map(str, second.dropped))
    assert first.summary() == second.summary()
    for ours, theirs in zip(first, second, strict=True):
        assert ours.start == theirs.start
        for a, b in zip(ours.sequences, theirs.sequences, strict=True):
            assert a.dtype == b.dtype
            assert np.array_equal(a, b)
    assert all(np.array_equal(a, b) for a, b in zip(first.extents, second.extents, strict=True))


# ---------------------------------------------------------------------- rows

TALK = (Message("user", "Hallo, 世界?"), Message("assistant", "", '{"tool_calls": [1]}'))
ROWS = [
    SftRow("p\n", "ü ", origin=Origin("a.jsonl", 7)),
    SftRow(TALK[:1], TALK[1:], extras='{"tools": []}'),
    PreferenceRow("p", "c", "r", margin=0.1),
    PreferenceRow("", "c", "r"),
]


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_read_as_it_was_written(row):
    found = decoded(encoded(row))
    assert found == row
    assert found.origin == row.origin
    assert type(found) is type(row)


def test_rows_on_disk_are_a_sequence_of_the_same_rows(tmp_path):
    spool = Spool.of(iter(ROWS), tmp_path)
    assert list(spool) == ROWS
    assert spool[-1] == ROWS[-1]
    assert spool[1:3] == tuple(ROWS[1:3])
    with pytest.raises(IndexError):
        spool[4]
    view = chosen(spool, np.array([True, False, False, True]))
    assert isinstance(view, View)
    assert list(view) == [ROWS[0], ROWS[3]]
    spool.append(ROWS[0])
    assert (len(spool), spool[4]) == (5, ROWS[0])
    assert list(tmp_path.iterdir()) == []  # The file has no name.


def test_what_cannot_be_kept_is_one_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="row_cache"):
        Spool(tmp_path / "file")
    with pytest.raises(InputError, match="rows of this kind"):
        Spool(tmp_path).append({"prompt": "a"})


def test_reading_splitting_and_tokens_are_those_of_memory(tmp_path):
    files = (
        write(tmp_path / "a.jsonl", sft_rows(40)),
        write(tmp_path / "b.jsonl", preference_rows(40)),
    )
    memory = read_sft(files[0]), read_preferences(files[1])
    disk = read_sft(files[0], folder=tmp_path), read_preferences(files[1], folder=tmp_path)
    assert all(on_disk(rows) is not None for rows in disk)
    for ours, theirs in zip(disk, memory, strict=True):
        assert list(ours) == list(theirs)
        assert [row.origin for row in ours] == [row.origin for row in theirs]
    here = hold_out((disk[0], None), (disk[1], None), 0.2, 3)
    there = hold_out((memory[0], None), (memory[1], None), 0.2, 3)
    for ours, theirs in zip(here, there, strict=True):
        assert list(ours.train) == list(theirs.train)
        assert list(ours.test) == list(theirs.test)
        assert on_disk(ours.train) is not None
    cache = tmp_path / "cache"
    assert_same(
        tokenise_sft(here[0].train, TOKENIZER, 16, cache=cache),
        tokenise_sft(there[0].train, TOKENIZER, 16),
    )
    assert_same(
        tokenise_preferences(here[1].train, TOKENIZER, 16, cache=cache),
        tokenise_preferences(there[1].train, TOKENIZER, 16),
    )


def test_many_parts_are_as_one(tmp_path, monkeypatch):
    rows = [*sft_rows(30), SftRow("long " * 80, "x"), *sft_rows(9)]
    whole = tokenise_sft(rows, TOKENIZER, 32)
    assert whole.too_long == 1
    monkeypatch.setattr("tradeoff.llm._encoding._ROWS_AT_ONCE", 7)
    assert_same(tokenise_sft(rows, TOKENIZER, 32), whole)
    assert_same(tokenise_sft(rows, TOKENIZER, 32, cache=tmp_path), whole)


# ---------------------------------------------------------------------- training


def test_training_from_disk_is_that_from_memory_bit_for_bit(tmp_path):
    files = write(tmp_path / "a.jsonl", sft_rows()), write(tmp_path / "b.jsonl", preference_rows())
    settings = {"steps": 4, "turns": "all"}
    memory = trainer(sft=read_sft(files[0]), preference=read_preferences(files[1]), **settings)
    disk = trainer(sft=files[0], preference=files[1], row_cache=str(tmp_path / "c"), **settings)
    assert isinstance(disk.data.sft.items, _stored.Stored)
    assert memory.identity == disk.identity
    assert memory.data.summary() == disk.data.summary()
    first, second = (run.train(progress=False) for run in (memory, disk))
    assert steady(first.table).equals(steady(second.table))
    ours, theirs = weights(disk), weights(memory)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_shifted_masks_of_the_official_code_are_those_of_memory(tmp_path):
    defects = Defects(mask_first_token=True)
    memory = trainer(defects=defects)
    disk = trainer(defects=defects, row_cache=str(tmp_path))
    for name, part in memory.data.sets().items():
        assert_same(disk.data.sets()[name], part)


# ---------------------------------------------------------------------- names and damage


def test_a_later_run_finds_the_tokens_and_any_change_makes_others(tmp_path, monkeypatch):
    rows = list(sft_rows())
    options = {"cache": tmp_path}
    found = tokenise_sft(rows, TOKENIZER, 32, **options)
    with monkeypatch.context() as patch:
        patch.setattr("tradeoff.llm._data._gathered", None)  # Nothing is tokenised again.
        assert_same(tokenise_sft(rows, TOKENIZER, 32, **options), found)
    assert len(list(tmp_path.iterdir())) == 1
    other = bpe_tokenizer_hf()
    other.chat_template = "{{ messages }}"
    added = bpe_tokenizer_hf()
    added.add_special_tokens({"pad_token": "<another>"})
    moved = [replace(rows[0], origin=Origin("other.jsonl", 1)), *rows[1:]]
    changed = [
        (rows[::-1], TOKENIZER, 32, {}),
        (rows[:-1], TOKENIZER, 32, {}),
        (moved, TOKENIZER, 32, {}),
        (rows, TOKENIZER, 31, {}),
        (rows, TOKENIZER, 32, {"loss_on": "all"}),
        (rows, TOKENIZER, 32, {"skip_bad": True}),
        (rows, other, 32, {"plain_is_meant": True}),
        (rows, added, 32, {}),
    ]
    for number, (given, tokenizer, length, settings) in enumerate(changed, start=2):
        tokenise_sft(given, tokenizer, length, **settings, **options)
        assert len(list(tmp_path.iterdir())) == number
    monkeypatch.setattr(_stored, "version", lambda name: "0")
    tokenise_sft(rows, TOKENIZER, 32, **options)
    assert len(list(tmp_path.iterdir())) == len(changed) + 2


@pytest.mark.parametrize("name", ["tokens.arrow", "rows.npy", "about.json"])
def test_a_damaged_entry_is_made_again_and_said(tmp_path, name):
    rows = sft_rows()
    found = tokenise_sft(rows, TOKENIZER, 32)
    tokenise_sft(rows, TOKENIZER, 32, cache=tmp_path)
    (entry,) = tmp_path.iterdir()
    content = bytearray((entry / name).read_bytes())
    content[len(content) // 2] ^= 64
    (entry / name).write_bytes(content)
    with pytest.warns(UserWarning, match="made again"):
        assert_same(tokenise_sft(rows, TOKENIZER, 32, cache=tmp_path), found)
    assert_same(tokenise_sft(rows, TOKENIZER, 32, cache=tmp_path), found)


def test_a_kill_while_tokens_are_made_leaves_no_entry(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("tradeoff.llm._data._gather", killed)
    with pytest.raises(KeyboardInterrupt):
        tokenise_sft(sft_rows(), TOKENIZER, 32, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_refused_rows_and_findings_come_back(tmp_path):
    tokenizer = bpe_tokenizer_hf()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.content == 'no' %}{{ raise_exception('not this') }}"
        "{% endif %}{{ m.content }}{% endfor %}"
    )
    talk = [
        SftRow((Message("user", q),), (Message("assistant", "yes"),), origin=Origin("f.jsonl", i))
        for i, q in enumerate(("a", "no", "b"), start=1)
    ]
    found = tokenise_sft(talk, tokenizer, 32, skip_bad=True)
    assert found.dropped
    assert found.findings
    for _ in range(2):
        assert_same(tokenise_sft(talk, tokenizer, 32, skip_bad=True, cache=tmp_path), found)


# ---------------------------------------------------------------------- memory


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("tradeoff.llm._encoding._ROWS_AT_ONCE", 20)
    rows = [SftRow(f"Say {i}: ", f"a long walk {i} " * 60) for i in range(450)]
    file = write(tmp_path / "rows.jsonl", rows)
    del rows

    def peak(folder) -> int:
        tracemalloc.start()
        tokenise_sft(read_sft(file, folder=folder), TOKENIZER, 512, cache=folder)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    tokenise_sft(sft_rows(), TOKENIZER, 32, cache=tmp_path)  # Imports do not count.
    on_disk_peak, in_memory_peak = peak(tmp_path), peak(None)
    assert in_memory_peak > 450 * 300 * 8
    assert on_disk_peak < in_memory_peak / 3
