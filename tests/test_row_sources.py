"""Sources of rows: files of every kind, folders, patterns, the hub and Python."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from tradeoff.data import SftRow, _lines, read_sft
from tradeoff.data.rows import Origin
from tradeoff.data.sources import check_apart
from tradeoff.errors import InputError

ROWS = [{"prompt": f"Say {i}.", "completion": f'{i}, "said"\nhe'} for i in range(5)]
EXPECTED = tuple(SftRow(**row) for row in ROWS)
CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}


@pytest.fixture(autouse=True)
def _quiet() -> None:
    datasets.disable_progress_bars()


def as_lines(rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


WRITERS: dict[str, Callable[[Path], Any]] = {
    ".jsonl": lambda path: path.write_bytes(as_lines(ROWS)),
    ".ndjson": lambda path: path.write_bytes(as_lines(ROWS)),
    ".jsonl.gz": lambda path: path.write_bytes(gzip.compress(as_lines(ROWS))),
    ".json": lambda path: path.write_text("\ufeff " + json.dumps(ROWS, indent=1), "utf-8"),
    ".JSON": lambda path: path.write_bytes(as_lines(ROWS)),  # JSON lines in a file of this name.
    ".json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(ROWS).encode())),
    ".csv": lambda path: pd.DataFrame(ROWS).to_csv(path, index=False, encoding="utf-8-sig"),
    ".csv.gz": lambda path: pd.DataFrame(ROWS).to_csv(path, index=False),
    ".tsv": lambda path: pd.DataFrame(ROWS).to_csv(path, index=False, sep="\t"),
    ".parquet": lambda path: pd.DataFrame(ROWS).to_parquet(path),
    ".arrow": lambda path: write_arrow(path, pa.ipc.new_stream),
    ".file.arrow": lambda path: write_arrow(path, pa.ipc.new_file),
}


def write_arrow(path: Path, writer: Any) -> None:
    found = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as sink, writer(sink, found.schema) as out:
        out.write_table(found)


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_file_of_every_kind(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{suffix}"
    WRITERS[suffix](path)
    read = read_sft(path)
    assert read.rows == EXPECTED
    assert read.source == str(path)
    assert {row.origin.file for row in read if row.origin} == {str(path)}


def test_zstandard(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.zst"
    with pa.CompressedOutputStream(str(path), "zstd") as stream:
        stream.write(as_lines(ROWS))
    assert read_sft(path).rows == EXPECTED
    path.write_bytes(b"not packed")
    with pytest.raises(InputError, match="rest of the file cannot be read"):
        read_sft(path)


def test_every_row_knows_its_line(tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.csv"
    first.write_bytes(b"\n{\n" + as_lines(ROWS[:2]) + b"{}\n" + as_lines(ROWS[2:]))
    pd.DataFrame(ROWS).to_csv(second, index=False)
    read = read_sft([first, second], skip_bad=True, limit=7)
    at = [Origin(str(first), row) for row in (3, 4, 6, 7, 8)]
    # Each completion has two lines, below the header.
    assert [row.origin for row in read] == [*at, (str(second), 2), (str(second), 4)]
    assert [error.row for error in read.dropped] == [2, 5]


def test_several_sources_and_patterns(tmp_path: Path) -> None:
    for i, row in enumerate(ROWS):
        (tmp_path / f"part-{i}.jsonl").write_bytes(as_lines([row]))
    (tmp_path / "a, b.jsonl").write_bytes(as_lines(ROWS[:1]))
    pattern = tmp_path / "part-*.jsonl"
    assert read_sft(pattern).rows == read_sft(str(pattern)).rows == EXPECTED
    names = [str(tmp_path / f"part-{i}.jsonl") for i in range(5)]
    assert read_sft(names).rows == read_sft(" , ".join(names)).rows == EXPECTED
    assert read_sft(names).identities == tuple(names)
    assert read_sft(tmp_path / "a, b.jsonl").rows == EXPECTED[:1]
    with pytest.raises(InputError, match="no file matches"):
        read_sft(str(tmp_path / "none-*.jsonl"))
    odd = tmp_path / "[x]"
    odd.mkdir()
    (odd / "r*.jsonl").write_bytes(as_lines(ROWS))
    assert read_sft(odd / "r*.jsonl").rows == EXPECTED


def test_folders_that_datasets_saved(tmp_path: Path) -> None:
    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk(tmp_path / "one")
    splits = {"train": data, "test": data.select([1])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "all")
    assert read_sft(tmp_path / "one").rows == EXPECTED
    assert read_sft(f"{tmp_path / 'all'}@test").rows == EXPECTED[1:2]
    assert read_sft(tmp_path / "all", split="train").rows == EXPECTED
    for split in (None, "nonesuch"):
        with pytest.raises(InputError, match="split") as error:
            read_sft(tmp_path / "all", split=split)
        assert "@test|train" in error.value.remedy
    with pytest.raises(InputError, match="no splits"):
        read_sft(f"{tmp_path / 'one'}@train")
    with pytest.raises(InputError, match="directory"):
        read_sft(tmp_path)


def test_a_saved_folder_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    state = tmp_path / "one" / "state.json"
    state.write_text(json.dumps({"_data_files": [{"filename": "../x.arrow"}]}))
    with pytest.raises(InputError, match="not a file of the folder"):
        read_sft(tmp_path / "one")
    for content in ("", "[]", '{"_data_files": 3}'):
        state.write_text(content)
        with pytest.raises(InputError, match="rest of the file cannot be read"):
            read_sft(tmp_path / "one")


# ---------------------------------------------------------------------- objects of Python


@pytest.mark.parametrize(
    "source",
    [
        ROWS,
        tuple(ROWS),
        datasets.Dataset.from_list(ROWS),
        pd.DataFrame(ROWS),
        pd.DataFrame(ROWS).assign(id=[None, 1, 2, 3, 4]),
        datasets.Dataset.from_list(ROWS).to_iterable_dataset(),
    ],
)
def test_rows_in_python(source: Any) -> None:
    read = read_sft(source)
    assert read.rows == EXPECTED
    assert [row.origin and row.origin.row for row in read] == [1, 2, 3, 4, 5]
    assert read_sft(iter(ROWS)).rows == EXPECTED


def test_cells_of_frames_become_plain() -> None:
    frame = pd.DataFrame({"messages": [np.array(CHAT["messages"], object), None, pd.NA]})
    read = read_sft(frame, skip_bad=True)
    assert (len(read), len(read.dropped)) == (1, 2)


def test_columns_that_nothing_reads_are_named_once() -> None:
    unknown = datasets.Dataset.from_list([{"question": "a", "reply": "b"}])
    with pytest.raises(InputError, match=r"found \['question', 'reply'\]"):
        read_sft(unknown)


@pytest.mark.parametrize(
    "source", [{"train": ROWS}, datasets.DatasetDict(), [1], ["x", 1], [ROWS], b"x"]
)
def test_what_is_no_rows(source: Any) -> None:
    with pytest.raises(InputError):
        read_sft(source)
    with pytest.raises(InputError, match="splits"):
        read_sft(ROWS, split="train")


# ---------------------------------------------------------------------- the hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A hub of one data set with two splits, and the requests that it gets."""
    asked: list[Any] = []

    def load_dataset(name: str, config: str | None = None, *, split: str) -> list[dict[str, Any]]:
        asked.append((name, config, split))
        if split.partition("[")[0] not in ("train", "test"):
            raise ValueError(f'Unknown split "{split}". Should be one of train, test.')
        return [*ROWS, {}]

    made = ModuleType("datasets")
    monkeypatch.setattr(made, "load_dataset", load_dataset, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", made)
    return asked


def test_hub_names_with_configuration_and_split(hub: list[Any]) -> None:
    for name in ("me/chats", "me/chats@test", "me/chats:main@test[:50%]", "me/chats:main"):
        read = read_sft(name, skip_bad=True)
        assert (read.rows, len(read.dropped)) == (EXPECTED, 1)
    assert read_sft("me/chats", split="test", skip_bad=True).source == "me/chats@test"
    assert hub == [
        ("me/chats", None, "train"),
        ("me/chats", None, "test"),
        ("me/chats", "main", "test[:50%]"),
        ("me/chats", "main", "train"),
        ("me/chats", None, "test"),
    ]


def test_a_split_has_to_be_named_where_it_matters(hub: list[Any]) -> None:
    with pytest.raises(InputError, match="name of their split") as error:
        read_sft("me/chats", default_split=None)
    assert "me/chats@test" in error.value.remedy
    assert hub == []
    with pytest.raises(InputError, match="Should be one of") as error:
        read_sft("me/feedback@train_prefs")
    assert "owner/name[:config]@split" in error.value.remedy
    with pytest.raises(InputError, match="two splits"):
        read_sft("me/chats@test", split="train")
    with pytest.raises(InputError, match="no such file"):
        read_sft("me/chats(train)")


def test_rows_to_test_on_are_not_those_trained_on(hub: list[Any], tmp_path: Path) -> None:
    path, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    path.write_bytes(as_lines(ROWS))
    other.symlink_to(path)
    read = {name: read_sft(name, skip_bad=True) for name in (
        str(path), str(other), "me/chats", "me/chats@test", "me/chats@train[:90%]",
        "me/chats@train[90%:]", "me/chats@train[:50%]",
    )}  # fmt: skip
    read["both"] = read_sft([path, "me/chats@test"], skip_bad=True)
    for train, test in (
        (str(path), str(other)),
        ("me/chats", "me/chats"),
        ("me/chats", "me/chats@train[90%:]"),
        ("me/chats@train[:90%]", "me/chats@train[:90%]"),
        ("both", "me/chats@test"),
        (str(other), "both"),
    ):
        with pytest.raises(InputError, match="also trained on") as error:
            check_apart(read[train], read[test], "sft_test")
        assert error.value.field == "sft_test"
    check_apart(read["me/chats"], read["me/chats@test"], "sft_test")
    check_apart(read["me/chats@train[:90%]"], read["me/chats@train[90%:]"], "sft_test")
    check_apart(read[str(path)], None, "sft_test")


# ---------------------------------------------------------------------- damaged and hostile files


def test_a_line_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lines, "LONGEST", 200)
    path = tmp_path / "rows.jsonl"
    long = json.dumps({"text": "x" * 900}).encode()
    path.write_bytes(as_lines(ROWS[:1]) + long + b"\n" + as_lines(ROWS[1:]) + long)
    read = read_sft(path, skip_bad=True)
    assert read.rows == EXPECTED
    assert [(error.row, "too long" in str(error)) for error in read.dropped] == [
        (2, True),
        (7, True),
    ]


def test_a_file_may_not_grow_beyond_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lines, "SMALL", 2**20)
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(as_lines(ROWS) + b" " * 2**23))
    assert path.stat().st_size * _lines.GROWTH < 2**23
    with pytest.raises(InputError, match="grows to more than"):
        read_sft(path)
    assert read_sft(path, skip_bad=True).rows == EXPECTED
    path = tmp_path / "rows.parquet"
    pd.DataFrame({"text": ["x" * 2**14] * 2**10}).to_parquet(path)
    with pytest.raises(InputError, match="grows to more than"):
        read_sft(path)


def test_dates_and_durations_in_cells(tmp_path: Path) -> None:
    far = pa.array([0, 2**62, None], pa.timestamp("us"))
    span = pa.array([0, 2**62, None], pa.duration("us"))
    for kind in (far, span, pa.array([date(2020, 1, 1), None, None])):
        found = pa.table({"prompt": ["a", "b", "c"], "completion": kind})
        parquet.write_table(found, tmp_path / "rows.parquet")
        with pytest.raises(InputError) as error:
            read_sft(tmp_path / "rows.parquet")
        assert error.value.row == 1
        with pytest.raises(InputError, match="no usable row"):
            read_sft(tmp_path / "rows.parquet", skip_bad=True)
    # They do not matter in a column that is not read.
    found = pa.table({"text": ["a", "b", "c"], "made": far, "took": span})
    parquet.write_table(found, tmp_path / "rows.parquet")
    assert len(read_sft(tmp_path / "rows.parquet")) == 3
    frame = pd.DataFrame({"text": [pd.Timestamp(0), timedelta(1)]})
    with pytest.raises(InputError, match="not text"):
        read_sft(frame)


def test_pages_of_parquet_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    found = pa.table({"text": [f"the text of row {i}" for i in range(50)]})
    options: dict[str, Any] = {"compression": "none", "use_dictionary": False}
    parquet.write_table(found, path, write_page_checksum=True, **options)
    content = bytearray(path.read_bytes())
    content[content.index(b"row 20") + 4] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"(?i)crc|checksum"):
        read_sft(path)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("rows.json", b"[", "cannot be read"),
        ("rows.json", b'[{"text": "a"}', "comma"),
        ("rows.json", b'[{"text": "a"}] x', "something follows"),
        ("rows.json", b'[{"text": "a"} {"text": "b"}]', "comma"),
        ("rows.json", b"[" * 10**5, "cannot be read"),
        ("rows.json", b'[{"text": "a", "text": "b"}]', "twice"),
        ("rows.json", b"[3]", "not a JSON object"),
        ("rows.json", b"[]", "no usable row"),
        ("rows.json", b'{"data": [1]}', "no known layout"),
        ("rows.json", b'{"data": [{"text": "a"}]} x', "something follows"),
        ("rows.json", b"\xff\xfe[", "UTF-16, .*iconv -f utf-16"),
        ("rows.jsonl", b"\xfe\xff{", "UTF-16, .*iconv -f utf-16"),
        ("rows.csv", b"\xff\xfet", "UTF-16, .*iconv -f utf-16"),
        ("rows.jsonl", b"\x1f\x8b", "gzip.* add .gz"),
        ("rows.jsonl", b"\x28\xb5\x2f\xfd", "zstd.* add .zst"),
        ("rows.json", b"PAR1", "Parquet.* .parquet"),
        ("rows.json", b"[\xff]", "cannot be read.*iconv -f latin1"),
        ("rows.jsonl", b'[{"text": "a"}]', "begins with a list.* .json"),
        ("rows.jsonl", b'{\n"text": "a"}', "jq -c"),
        ("rows.csv", b"prompt;completion\na;b\n", "separated by ';'"),
        ("rows.tsv", b"prompt,completion\na,b\n", "separated by ','.* .csv"),
        ("rows.csv", b"", "no usable row"),
        ("rows.csv", b"text,text\na,b\n", "one name"),
        ("rows.csv", b"text\na,b\n", "2 cells"),
        ("rows.csv", b'text\n"a\n', "cannot be read"),
        ("rows.csv", b"text\n\xff\n", "cannot be read"),
        ("rows.csv", b"text\na\x00b\n", "cannot be read|usable"),
        ("rows.arrow", b"", "cannot be read"),
        ("rows.arrow", b"ARROW1 and nothing else", "cannot be read"),
        ("rows.jsonl", b"\xef\xbb\xbf", "no usable row"),
    ],
)
def test_one_clear_error(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    if b"\x00" in content:  # Newer versions of Python read it.
        assert read_sft(path).rows == (SftRow("", "a\x00b"),)
        return
    with pytest.raises(InputError, match=problem) as error:
        read_sft(path)
    assert str(error.value.file) == str(path)


def test_rows_under_the_key_data(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('{"version": "1", "data": [{"text": "a"},\n {"text": "b"}], "n": 2}')
    assert read_sft(path).rows == (SftRow("", "a"), SftRow("", "b"))
    assert [row.origin.row for row in read_sft(path) if row.origin] == [1, 2]


def test_blanks_around_names_of_columns_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("prompt, completion\na,b\n")
    assert read_sft(path).rows == (SftRow("a", "b"),)


def test_empty_cells_are_absent(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('prompt,completion,text\n,,"a, b"\nq,a,\n\n')
    assert read_sft(path).rows == (SftRow("", "a, b"), SftRow("q", "a"))
