"""Rows read from files: every layout, and one clear error for everything else."""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradeoff.checkout import DATA
from tradeoff.data import (
    Message,
    PreferenceRow,
    SftRow,
    as_text,
    read_preferences,
    read_sft,
)
from tradeoff.errors import InputError

GOOD = {"prompt": "Name a colour.", "completion": "Blue."}
PAIR = {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "No."}
USER, BLUE, NO = (
    {"role": role, "content": content}
    for role, content in (("user", "A colour?"), ("assistant", "Blue."), ("assistant", "No."))
)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write lines, given as rows or raw bytes, to a file."""

    def writer(*lines: Any, name: str = "rows.jsonl") -> Path:
        raw = [x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines]
        content = b"\n".join(raw) + b"\n"
        path = tmp_path / name
        path.write_bytes(gzip.compress(content) if name.lower().endswith(".gz") else content)
        return path

    return writer


def message(turn: dict[str, str]) -> Message:
    return Message(**turn)


# ---------------------------------------------------------------------- what can be read


@pytest.mark.parametrize(
    ("given_row", "row"),
    [
        (GOOD, SftRow("Name a colour.", "Blue.")),
        ({"text": "A document."}, SftRow("", "A document.")),
        ({"messages": [USER, BLUE]}, SftRow((message(USER),), (message(BLUE),))),
        ({"messages": [BLUE]}, SftRow((), (message(BLUE),))),
        ({"prompt": [USER], "completion": [BLUE]}, SftRow((message(USER),), (message(BLUE),))),
        ({"prompt": "x", "messages": [USER, BLUE]}, SftRow((message(USER),), (message(BLUE),))),
        (GOOD | {"source": None, "stars": 3}, SftRow("Name a colour.", "Blue.")),
    ],
)
def test_sft_layouts(write: Callable[..., Path], given_row: Any, row: SftRow) -> None:
    assert read_sft(write(given_row)).rows == (row,)


@pytest.mark.parametrize(
    "given_row",
    [
        {"prompt": [USER], "chosen": [BLUE], "rejected": [NO]},
        {"chosen": [USER, BLUE], "rejected": [USER, NO]},
    ],
)
def test_preference_layouts(write: Callable[..., Path], given_row: Any) -> None:
    row = PreferenceRow((message(USER),), (message(BLUE),), (message(NO),))
    assert read_preferences(write(given_row)).rows == (row,)
    assert read_preferences(write(PAIR)).rows == (PreferenceRow(**PAIR),)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "ROWS.JSONL.GZ"])
def test_blank_lines_marks_and_other_line_ends(write: Callable[..., Path], name: str) -> None:
    first = b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r"
    separator = {"prompt": "a\u2028b", "completion": "c"}  # A line end only to str.splitlines.
    second = json.dumps(separator, ensure_ascii=False).encode()
    rows = read_sft(write(first, b"", b"  ", second, name=name))
    assert rows.rows == (SftRow(**GOOD), SftRow(**separator))


def test_parquet_keeps_both_kinds_of_field(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pd.DataFrame({"messages": [[USER, BLUE]] * 3, "id": [1, 2, 3]}).to_parquet(path)
    assert read_sft(path).rows == (SftRow((message(USER),), (message(BLUE),)),) * 3


def test_rows_are_a_sequence_that_tells_its_origin(write: Callable[..., Path]) -> None:
    path = write(GOOD, b"{", GOOD)
    rows = read_sft(path, skip_bad=True)
    assert (len(rows), rows[0], rows[1:]) == (2, SftRow(**GOOD), (SftRow(**GOOD),))
    assert list(rows) == list(rows.rows)
    assert repr(rows) == f"<2 x SftRow from {str(path)!r}, 1 dropped>"


def test_limit_counts_usable_rows(write: Callable[..., Path]) -> None:
    path = write(b"{", GOOD, GOOD, b"{")
    rows = read_sft(path, skip_bad=True, limit=2)
    assert (len(rows), len(rows.dropped)) == (2, 1)
    with pytest.raises(InputError, match="limit"):
        read_sft(path, limit=0)


def test_a_conversation_as_text() -> None:
    assert as_text((message(USER), message(BLUE))) == "user: A colour?\nassistant: Blue."
    assert as_text("as it is") == "as it is"


# ---------------------------------------------------------------------- what cannot


BAD_SFT = {
    "not JSON": (b'{"prompt": ', None, "not JSON"),
    "not an object": ([GOOD], None, "not a JSON object"),
    "Latin-1": ('{"prompt": "é", "completion": "x"}'.encode("latin1"), None, "not UTF-8"),
    "too deep": (b"[" * 100_000, None, "not JSON"),
    "too long a number": (b'{"prompt": ' + b"1" * 5000 + b"}", None, "not JSON"),
    "other columns": ({"question": "x", "reply": "y"}, None, "no known layout"),
    "no columns": ({}, None, "no known layout"),
    "missing": ({"prompt": "x"}, "completion", "missing"),
    "null": (GOOD | {"completion": None}, "completion", "empty"),
    "NaN": (b'{"prompt": NaN, "completion": "x"}', "prompt", "empty"),
    "blank": (GOOD | {"completion": " \n"}, "completion", "blank"),
    "number": (GOOD | {"completion": 3}, "completion", "not text"),
    "half a pair": (b'{"prompt": "\\ud83d", "completion": "x"}', "prompt", "surrogate"),
    "no messages": ({"messages": []}, "messages", "empty"),
    "no role": ({"messages": [{"content": "x"}]}, "messages", "role"),
    "parts": ({"messages": [BLUE | {"content": [{"type": "text"}]}]}, "messages", "empty"),
    "doubled": (b'{"prompt": "a", "prompt": "b", "completion": "c"}', None, "twice"),
    "doubled within": (b'{"messages": [{"role": "user", "role": "x"}]}', None, "twice"),
    "user last": ({"messages": [BLUE, USER]}, "messages", "assistant"),
    "string messages": ({"messages": "x"}, "messages", "assistant"),
    "conversational text": ({"text": [USER]}, "text", "assistant"),
}
BAD_PREFERENCES = {
    "equal": (PAIR | {"rejected": "Blue."}, "chosen", "the same"),
    "missing": ({"prompt": "x", "chosen": "y"}, "rejected", "missing"),
    "no prompt": ({"chosen": "x a", "rejected": "x b"}, "prompt", "missing"),
    "nothing shared": ({"chosen": [BLUE], "rejected": [NO]}, "chosen", "shared"),
    "prefix": ({"chosen": [USER, BLUE], "rejected": [USER]}, "chosen", "beginning"),
    "mixed": ({"chosen": "x", "rejected": [USER, NO]}, None, "mixed"),
    "another prompt": (
        {"prompt": "x", "chosen": [USER, BLUE], "rejected": [USER, NO]},
        "chosen",
        "begins with a message of the user",
    ),
}


def check_bad_row(read: Any, path: Path, field: str | None, problem: str, good: int) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        read(path)
    assert (caught.value.file, caught.value.row, caught.value.field) == (str(path), 2, field)
    assert caught.value.remedy
    rows = read(path, skip_bad=True)
    assert (len(rows), [str(error) for error in rows.dropped]) == (good, [str(caught.value)])


@pytest.mark.parametrize("case", BAD_SFT)
def test_bad_sft_rows(write: Callable[..., Path], case: str) -> None:
    line, field, problem = BAD_SFT[case]
    check_bad_row(read_sft, write(GOOD, line, GOOD), field, problem, good=2)


@pytest.mark.parametrize("case", BAD_PREFERENCES)
def test_bad_preference_rows(write: Callable[..., Path], case: str) -> None:
    line, field, problem = BAD_PREFERENCES[case]
    check_bad_row(read_preferences, write(PAIR, line, PAIR), field, problem, good=2)


def test_missing_values_in_parquet(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pd.DataFrame({"prompt": ["a", "b", "c"], "completion": ["x", None, "z"]}).to_parquet(path)
    check_bad_row(read_sft, path, "completion", "empty", good=2)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("absent.jsonl", None, "no such file"),
        ("rows.jsonl", b"", "no usable row"),
        ("rows.jsonl", b"\n\n", "no usable row"),
        ("rows.jsonl", "[]".encode("utf-16"), "not UTF-8"),
        ("rows.jsonl.gz", b"", "no usable row"),
        ("rows.jsonl.gz", b"plain text", "[Nn]ot a gzipped file"),
        ("rows.parquet", b"PAR1 and nothing else", "cannot be read"),
        ("rows.parquet", b"", "cannot be read"),
        ("rows.pkl", b"\x80\x04.", "of this kind"),
    ],
)
@pytest.mark.parametrize("skip_bad", [False, True])
def test_unusable_files(
    tmp_path: Path, name: str, content: bytes | None, problem: str, skip_bad: bool
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=problem) as caught:
        read_sft(path, skip_bad=skip_bad)
    assert str(caught.value.file) == str(path)


def test_a_directory_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this is a directory"):
        read_sft(tmp_path)


def test_a_file_has_no_splits(write: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="no splits"):
        read_sft(write(GOOD), split="train")


# Texts whose compressed form is longer than one read of the gzip module.
LONG = [{"prompt": f"{i}?", "completion": f"{i**900 + 7**i:x}"} for i in range(60)]
PACKED = gzip.compress("".join(json.dumps(row) + "\n" for row in LONG).encode())


@given(share=st.floats(0.01, 0.99))
def test_a_truncated_gzip_keeps_the_rows_before_the_damage(
    tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    cut = PACKED[: max(20, int(share * len(PACKED)))]
    path = tmp_path_factory.getbasetemp() / "truncated.jsonl.gz"
    path.write_bytes(cut)
    readable = zlib.decompressobj(wbits=31).decompress(cut).count(b"\n")
    with pytest.raises(InputError, match="rest of the file cannot be read"):
        read_sft(path)
    if readable:
        rows = read_sft(path, skip_bad=True)
        assert rows.rows == tuple(SftRow(**row) for row in LONG[:readable])
        assert [error.row for error in rows.dropped] == [readable + 1]


def test_a_flipped_bit_is_reported(tmp_path: Path) -> None:
    content = bytearray(PACKED)
    content[-8] ^= 1  # The checksum.
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(content)
    rows = read_sft(path, skip_bad=True)
    assert len(rows) == len(LONG)
    assert "CRC" in str(rows.dropped[0])


@given(line=st.binary().filter(lambda x: b"\n" not in x))
def test_any_bytes_are_a_row_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, line: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any_bytes.jsonl"
    path.write_bytes(b"\n".join([json.dumps(GOOD).encode(), line, json.dumps(GOOD).encode()]))
    rows = read_sft(path, skip_bad=True)
    assert rows.rows == (SftRow(**GOOD),) * 2
    assert [error.row for error in rows.dropped] == ([2] if line.strip() else [])


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["role", "content"]), inner),
    max_leaves=8,
)
COLUMN = st.sampled_from(["prompt", "completion", "messages", "text", "chosen", "rejected", "id"])


@pytest.mark.slow
@given(fields=st.dictionaries(COLUMN, JSON))
@pytest.mark.parametrize("read", [read_sft, read_preferences])
def test_any_object_is_a_row_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, read: Any, fields: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "any_object.jsonl"
    path.write_text(json.dumps(fields) + "\n" + json.dumps(GOOD | PAIR) + "\n")
    rows = read(path, skip_bad=True)
    assert len(rows) + len(rows.dropped) == 2
    names = ("completion",) if read is read_sft else ("chosen", "rejected")
    for row in rows:
        assert all(as_text(getattr(row, name)).encode() for name in names)


# ---------------------------------------------------------------------- the hub, and real files


def test_a_hub_name_needs_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="pip install datasets"):
        read_sft("owner/name")


@pytest.mark.parametrize(
    ("read", "name", "count"),
    [
        (read_sft, "sft_rasbt_test", 157),
        (read_sft, "sft_dolly15k_test", 731),
        (read_preferences, "pref_rasbt_test", 156),
        (read_preferences, "pref_xstest_train", 342),
        (read_preferences, "pref_hh_helpful_base_train", 2106),
    ],
)
def test_real_files(read: Any, name: str, count: int) -> None:
    path = DATA / f"{name}.jsonl.gz"
    if not path.exists():
        pytest.skip(f"the real file {path.name} is not here; it is not part of the repository")
    assert len(read(path)) == count
