"""Allowed values of settings; damaged stored files; a selection of the search over both."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import settings_fuzz

from analysis.dossier import captions, ledger, page, stored_results
from analysis.fernando2024.convex import scores as a_figure
from analysis.fernando2024.dossier import DOSSIER
from tradeoff import plots
from tradeoff.errors import InputError
from tradeoff.settings import Share, Within, build, check, checked, describe, fit


@dataclass(frozen=True)
class Inner:
    width: Annotated[int, Within(1, 8), "It counts cells."] = 2

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    rate: Annotated[float, Within(0, 1, "(]")] = 0.5
    pair: tuple[Share, Share] = (0.0, 1.0)
    order: Literal["up", "down"] = "up"
    more: Inner | None = None
    notes: dict[str, str] | None = None

    def __post_init__(self) -> None:
        check(self)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (int, [True, 1.0, "8", None, 2**70, np.float64(1), np.bool_(True)]),
        (float, [True, "8", None, float("nan"), float("inf"), 10**400, 1j, b"8"]),
        (bool, [0, 1, "true", None]),
        (str, [8, None, b"a", "a\0", "\ud83d", "x" * 70_000]),
        (Annotated[int, Within(1, 8)], [0, 9, -(10**30)]),
        (Annotated[float, Within(0, 1, "()")], [0, 1, 1e20]),
        (tuple[Share, Share], [(0.5,), (0.5, 2.0), "ab", 0.5, {0.1, 0.2}]),
        (tuple[str, ...], ["ab", ("a", 1)]),
        (Literal["a", "b"], ["c", ["a"], None]),
        (int | None, ["8", False]),
    ],
)
def test_what_does_not_fit_is_one_error_with_the_value_and_a_remedy(kind, values):
    for value in values:
        with pytest.raises(InputError) as caught:
            fit(kind, value, "here")
        assert caught.value.field == "here"
        assert f"Give {describe(kind)}." in caught.value.remedy
        assert "found" in str(caught.value)


def test_numbers_of_numpy_and_lists_become_what_records_hold():
    made = build(Outer, {"name": "a", "rate": np.float32(0.25), "pair": [0, 1], "more": {}})
    assert made == Outer(name="a", rate=0.25, pair=(0, 1), more=Inner())
    assert type(made.rate) is float
    assert type(fit(int, np.int64(3), "n")) is int


@pytest.mark.parametrize(
    ("table", "field", "words"),
    [
        ({}, "name", "missing"),
        ({"name": "a", "rat": 1}, "rat", "Did you mean 'rate'"),
        ({"name": "a", "rate": 0}, "rate", r"out of range \(found 0\)"),
        ({"name": "a", "more": {"width": 9}}, "more.width", r"in \[1, 8\]. It counts cells"),
        ({"name": "a", "more": 3}, "more", "not a table"),
        ({"name": "a", "notes": {"b": 1}}, "notes.b", "not a text"),
        ([1], None, "not a table"),
    ],
)
def test_a_table_with_a_fault_names_file_row_and_field(table: Any, field: Any, words: str):
    with pytest.raises(InputError, match=words) as caught:
        build(Outer, table, file="a.toml", row=3)
    assert (caught.value.file, caught.value.row) == ("a.toml", 3)
    assert caught.value.field == field


def test_arguments_are_checked_and_the_others_left_alone():
    @checked
    def call(free: Any, steps: Annotated[int, Within(1, 9)] = 2, *, share: Share = 0.5) -> Any:
        return free, steps, share

    assert call("x", np.int32(3)) == ("x", 3, 0.5)
    for wrong in ({"steps": 10}, {"steps": True}, {"share": "0.5"}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            call(None, **wrong)


def result(tmp_path: Path, change: Any, name: str = "bridge") -> Path:
    path = tmp_path / f"{name}.json"
    table = json.loads((DOSSIER.folder / "results" / path.name).read_text("utf-8"))
    change(table)
    path.write_text(json.dumps(table), "utf-8")
    return path


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda t: t.update(figure="scores"), "figure"),
        (lambda t: t.pop("numbers"), "numbers"),
        (lambda t: t.update(numbers=[]), "numbers"),
        (lambda t: t["numbers"].update(n=float("inf")), None),
        (lambda t: t["provenance"].update(seconds="1.5"), "provenance.seconds"),
        (lambda t: t["provenance"].pop("form"), "provenance.form"),
        (lambda t: t["provenance"].update(packages={"numpy": 2}), "provenance.packages.numpy"),
    ],
)
def test_a_result_that_was_edited_names_file_and_field(change: Any, field: Any, tmp_path: Path):
    path = result(tmp_path, change)
    with pytest.raises(InputError, match=r"Take the file of the repository, or") as caught:
        stored_results.read(path)
    assert str(caught.value.file) == str(path)
    assert caught.value.field == field


def test_a_caption_names_the_number_that_does_not_fit_it(tmp_path: Path):
    numbers = stored_results.numbers(result(tmp_path, lambda t: None, "scores"))
    assert captions.caption(a_figure, numbers)
    for change, words in (
        (lambda t: [t["numbers"].pop(name) for name in list(t["numbers"])[1:]], "it is missing"),
        (lambda t: t["numbers"].update(dict.fromkeys(t["numbers"], "x")), "it does not fit"),
    ):
        path = result(tmp_path, change, "scores")
        with pytest.raises(InputError, match=words) as caught:
            captions.caption(a_figure, stored_results.numbers(path))
        assert str(caught.value.file) == str(path)
        assert str(caught.value.field).startswith("numbers.")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"\xff", b"NaN", b'{"a": 1, "a": 2}', b"[" * 100_000]
)
def test_a_file_that_holds_no_result_is_named(content: bytes, tmp_path: Path):
    path = tmp_path / "bridge.json"
    path.write_bytes(content)
    for read in (stored_results.read, ledger.verdicts):
        with pytest.raises(InputError, match=r"bridge\.json.*tradeoff figures bridge --force"):
            read(path)
    with pytest.raises(InputError, match=r"none\.json"):
        stored_results.read(tmp_path / "none.json")


def test_an_error_before_any_stored_value_is_that_of_the_code():
    with pytest.raises(ZeroDivisionError), stored_results.fitting("a table"):
        1 / 0  # noqa: B018


def test_a_picture_that_is_none_is_named(tmp_path: Path):
    (tmp_path / "scores.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"scores\.png.*no picture"):
        page.image(tmp_path, "scores")


@pytest.mark.parametrize(
    ("name", "drawn"), [("a$x$.jsonl", r"a\$x\$.jsonl"), ("a\nb%d.json", "a b%d.json")]
)
def test_file_names_are_drawn_as_they_are(name: str, drawn: str):
    assert plots.literal(name) == drawn
    with plots.figure() as (figure, ax):
        ax.set_title(plots.literal(rf"$\nosuch$ {name}"))
        figure.canvas.draw()


@pytest.mark.slow
def test_odd_settings_and_files_are_used_or_one_clear_error():
    tries, failures = settings_fuzz.run(60, seed=5)
    assert (tries, failures) == (60, [])
