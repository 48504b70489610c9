"""`tradeoff reproduce` compares and changes nothing; `--update` stores what moved."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from analysis.dossier import ledger, report, reproduced, runner, stamps, style
from analysis.dossier.declaration import Dossier
from analysis.fernando2024.dossier import DOSSIER
from tradeoff import cli, plots
from tradeoff.cli import paper
from tradeoff.records import read_json, write_json

NAME = "certified_front"
VALUE = 0.25


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A dossier in a temporary folder with one quick figure; the folders that it is drawn into."""
    folders: list[Path] = []

    def main(out: Path, fast: bool = False) -> dict[str, Any]:
        folders.append(out)
        with style.figure() as (fig, _):
            style.save(fig, out, NAME)
        return {"value": [VALUE], "fast": fast}

    figure = ModuleType(NAME)
    figure.main = main  # type: ignore[attr-defined]
    chosen = replace(DOSSIER, folder=tmp_path / "papers" / "fernando2024")
    chosen.__dict__.update(figures=(NAME,), studies=())
    monkeypatch.setitem(sys.modules, DOSSIER.dotted(NAME), figure)
    monkeypatch.setattr(plots, "drawn", lambda *_: b"picture")
    monkeypatch.setattr(runner, "STAMPS", tmp_path / "stamps")
    monkeypatch.setattr(runner, "sources", lambda _: "f" * 64)
    monkeypatch.setattr(reproduced, "WORK", tmp_path / "out")
    monkeypatch.setattr(paper, "dossier", lambda _: chosen)
    monkeypatch.setattr(paper, "show_claims", lambda *_: None)
    monkeypatch.setattr(ledger, "check", lambda *_, **__: pd.DataFrame())
    monkeypatch.setattr(report, "write", lambda *_: [])
    runner.run(chosen, NAME)
    return folders


def reproduce(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["reproduce", *options])
    told = capsys.readouterr()
    return int(ended.value.code or 0), told.out + told.err


def kept(tmp_path: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (tmp_path / "papers").rglob("*") if path.is_file()}


def test_equal_numbers_are_reported_and_nothing_stored_is_touched(
    drawn: list[Path], tmp_path: Path, capsys: Any
) -> None:
    before = kept(tmp_path)
    assert before
    status, text = reproduce(capsys, "--force")
    assert status == 0
    assert "1 of 1 results have the stored numbers" in text
    assert drawn[-1] == tmp_path / "out" / "reproduced" / "fernando2024"
    assert kept(tmp_path) == before


def test_a_number_that_moved_fails_until_it_is_stored(
    drawn: list[Path], tmp_path: Path, capsys: Any
) -> None:
    path = tmp_path / "papers" / "fernando2024" / "results" / f"{NAME}.json"
    record = read_json(path)
    record["numbers"]["value"] = [0.5]
    write_json(path, record)
    before = kept(tmp_path)
    status, text = reproduce(capsys)
    assert status == 1
    assert f"{NAME}: value.0 0.5 → 0.25" in text
    assert "--update" in text
    assert kept(tmp_path) == before
    status, text = reproduce(capsys, "--json")
    (moved,) = json.loads(text.splitlines()[-1])["moved"]
    assert (status, moved["field"], moved["now"]) == (1, "value.0", VALUE)

    times = len(drawn)
    status, text = reproduce(capsys, "--update")
    assert status == 0
    assert f"{NAME}: value.0 0.5 → 0.25" in text
    assert read_json(path)["numbers"]["value"] == [VALUE]
    assert reproduce(capsys)[0] == 0
    assert len(drawn) == times  # What was compared is stored; it is not computed again.


def test_fast_numbers_are_neither_compared_nor_stored(
    drawn: list[Path], tmp_path: Path, capsys: Any
) -> None:
    before = kept(tmp_path)
    status, text = reproduce(capsys, "--fast")
    assert (status, "stored numbers" in text) == (0, False)
    for option in ("--fast", f"--out={tmp_path / 'other'}"):
        status, text = reproduce(capsys, "--update", option)
        assert status == 2
        assert text.startswith("error: field 'update'") or "--update" in text
    assert kept(tmp_path) == before


def test_what_differs_by_rounding_is_counted_and_not_listed() -> None:
    nan = float("nan")
    stored = {"a": {"x": [1.0, nan, 3], "y": {"z": True}, "w": "text", "v": [1]}}
    now = {"a": {"x": [1.0 + 1e-8, nan, 3.1], "y": {"z": False}, "w": "other", "v": [1, 2]}}
    found = reproduced.compare(stored, now)
    assert found.rounded == 1
    assert {m.field: (m.stored, m.now) for m in found.moved} == {
        "x.2": (3, 3.1),
        "y.z": (True, False),
        "w": ("text", "other"),
        "v.1": ("absent", 2),
    }
    first, line = found.lines()
    assert first == "0 of 1 results have the stored numbers; 1 differ by rounding"
    assert line.startswith("a: x.2 3 → 3.1, y.z True → False, ")
    assert line.endswith("and 1 more")
    assert reproduced.compare({}, now).moved[0].stored == "absent"


def test_a_copied_figure_depends_on_the_files_of_its_new_folder(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for path in (
        old / "results" / "a.json",
        old / "results" / "b.json",
        new / "results" / "a.json",
    ):
        write_json(path, {})
    inputs = {str(old / "results" / "a.json"): "1", str(old / "results" / "b.json"): "2"}
    inputs |= {str(tmp_path / "rows"): "3", str(old / "results" / "c.json"): ""}
    assert stamps.moved(inputs, old, new) == {
        str(new / "results" / "a.json"): "1",
        str(old / "results" / "b.json"): "2",
        str(new / "results" / "b.json"): "",
        str(tmp_path / "rows"): "3",
    }


def test_the_verdicts_of_claims_are_compared(tmp_path: Path) -> None:
    found = reproduced.stored(DOSSIER, DOSSIER.folder, full=False)
    assert set(found) == {*DOSSIER.figures, reproduced.CLAIMS}
    again = {**found, reproduced.CLAIMS: dict(found[reproduced.CLAIMS])}
    name = next(iter(again[reproduced.CLAIMS]))
    again[reproduced.CLAIMS][name] = {**again[reproduced.CLAIMS][name], "holds": None}
    (moved,) = reproduced.compare(found, again).moved
    assert (moved.name, moved.field) == ("claims", f"{name}.holds")
    empty: Dossier = replace(DOSSIER, folder=tmp_path)
    assert reproduced.stored(empty, tmp_path, full=True) == {}
