"""A figure is up to date only if drawing it again would give the same; no other is shown."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from analysis.dossier import runner, stamps, style
from analysis.dossier.declaration import Chapter
from analysis.fernando2024.dossier import DOSSIER
from tradeoff import plots
from tradeoff.errors import InputError
from tradeoff.records import read_json

NAME = "certified_front"


class Figure(ModuleType):
    """A replacement for a figure's module, in which every drawing differs from the ones before."""

    def __init__(self, data: Path) -> None:
        super().__init__("analysis.figure")
        self.data, self.drawn = data, 0

    def main(self, out: Path, fast: bool = False) -> dict[str, Any]:
        """Draw."""
        self.drawn += 1
        style.save(self, out, NAME)  # type: ignore[arg-type]
        return {"fast": fast, "drawn": self.drawn, "read": self.data.read_text("utf-8")}


@pytest.fixture
def figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Figure:
    (tmp_path / "data").mkdir()
    data = tmp_path / "data" / "rows.jsonl"
    data.write_text("rows", "utf-8")
    made = Figure(data)
    monkeypatch.setitem(sys.modules, DOSSIER.dotted(NAME), made)
    monkeypatch.setattr(runner, "STAMPS", tmp_path / "stamps")
    monkeypatch.setattr(runner, "DATA", data.parent)
    monkeypatch.setattr(runner, "sources", lambda name: "as they are")
    monkeypatch.setattr(plots, "drawn", lambda fig, kind: f"{kind} {fig.drawn}".encode())
    return made


def run(out: Path, *, fast: bool = False) -> tuple[str, int]:
    """Reason for the drawing, and number of the drawing that numbers and pictures show."""
    done = runner.run(DOSSIER, NAME, out, fast=fast)
    stored = read_json(out / "results" / f"{NAME}.json")
    assert stored["numbers"] == done.numbers
    assert done.numbers["fast"] is fast
    assert stored["provenance"]["form"] == ("fast" if fast else "full")
    for path in style.files(out, NAME):
        assert path.read_text("utf-8") == f"{path.suffix} {done.numbers['drawn']}"
    assert done.fresh is bool(done.why)
    return done.why, done.numbers["drawn"]


def test_a_form_is_never_shown_as_the_other(figure: Figure, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(out) == ("not drawn here before", 1)
    assert run(out) == ("", 1)
    assert run(out, fast=True) == ("other form", 2)
    assert run(out) == ("other form", 3)
    assert run(out) == ("", 3)


def test_a_result_changes_only_if_a_number_does(
    figure: Figure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results" / f"{NAME}.json"
    monkeypatch.setattr(figure, "main", lambda out, fast: {"value": 1})
    runner.run(DOSSIER, NAME, tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr(runner, "sources", lambda name: "others, which give the same numbers")
    assert runner.run(DOSSIER, NAME, tmp_path).why == "other sources"
    assert path.read_bytes() == before
    monkeypatch.setattr(figure, "main", lambda out, fast: {"value": 2})
    runner.run(DOSSIER, NAME, tmp_path, force=True)
    assert read_json(path)["provenance"]["sources"] == "others, which gi"


def test_folders_have_stamps_of_their_own(figure: Figure, tmp_path: Path) -> None:
    run(tmp_path / "a", fast=True)
    run(tmp_path / "b")
    assert run(tmp_path / "a", fast=True) == ("", 1)
    assert run(tmp_path / "b") == ("", 2)


@pytest.mark.parametrize(
    "file", [f"results/{NAME}.json", f"figures/{NAME}.svg", f"figures/{NAME}.png"]
)
@pytest.mark.parametrize("harm", ["empty", "change", "remove", "folder"])
def test_files_that_are_not_as_they_were_written_are_found(
    file: str, harm: str, figure: Figure, tmp_path: Path
) -> None:
    run(tmp_path)
    place = tmp_path / file
    if harm == "empty":
        place.write_bytes(b"")
    elif harm == "change":
        place.write_bytes(place.read_bytes().replace(b"1", b"2", 1))
    else:
        place.unlink()
    if harm == "folder":
        place.mkdir()
        with pytest.raises(InputError, match=f"{place.name}: cannot be written: Is a directory"):
            run(tmp_path)
        place.rmdir()
    why, drawn = run(tmp_path)
    assert why.endswith("is not as it was written")
    assert file in why or harm == "folder"  # The numbers are then those of the next drawing.
    assert drawn == figure.drawn
    assert run(tmp_path) == ("", figure.drawn)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff", b"[" * 99_999, b'{"files": 3}', b'{"files": {}}',
     b'{"files": {}, "inputs": [1]}'],
)  # fmt: skip
def test_a_stamp_that_cannot_be_read_is_no_stamp(
    content: bytes, figure: Figure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path)
    (stamp,) = (tmp_path / "stamps").iterdir()
    stamp.write_bytes(content)
    runner.run_all(DOSSIER, [NAME], tmp_path, fast=False, force=False, progress=True)
    assert figure.drawn == 2
    said = capsys.readouterr()
    (line,) = [line for line in (said.out + said.err).splitlines() if " s (" in line]
    assert "its stamp cannot be read" in line or "other figure" in line
    assert run(tmp_path) == ("", 2)


def test_what_a_figure_reads_counts(
    figure: Figure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path)
    figure.data.write_text("other rows", "utf-8")
    assert run(tmp_path) == (f"{figure.data} has changed", 2)
    monkeypatch.setattr(runner, "sources", lambda name: "edited")
    assert run(tmp_path) == ("other sources", 3)
    monkeypatch.setattr(runner, "versions", lambda *_: {"numpy": "0"})
    assert run(tmp_path) == ("other packages", 4)
    assert run(tmp_path) == ("", 4)


def test_a_pdf_is_drawn_with_the_others_and_goes_with_them(figure: Figure, tmp_path: Path) -> None:
    run(tmp_path)
    with style.as_pdf():
        assert run(tmp_path) == (f"{NAME}.pdf is not drawn yet", 2)
        assert run(tmp_path) == ("", 2)
    assert run(tmp_path) == ("", 2)
    assert run(tmp_path, fast=True) == ("other form", 3)
    assert not (tmp_path / "figures" / f"{NAME}.pdf").exists()


def test_a_run_that_is_cut_between_two_files_is_not_up_to_date(
    figure: Figure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path)
    figure.data.write_text("other rows", "utf-8")
    before = {path: path.read_bytes() for path in style.files(tmp_path, NAME)}
    with monkeypatch.context() as patch:

        def full(pictures: Any) -> None:
            raise InputError("cannot be written", remedy="Free space.")

        patch.setattr(style, "write", full)
        with pytest.raises(InputError):
            run(tmp_path)
    # The expensive numbers are stored; the pictures are still the old ones.
    assert read_json(tmp_path / "results" / f"{NAME}.json")["numbers"]["drawn"] == 2
    assert before == {path: path.read_bytes() for path in before}
    why, drawn = run(tmp_path)
    assert why.endswith("is not as it was written")
    assert drawn == 3


STORED = read_json(DOSSIER.folder / "results" / "scores.json")


def test_listing_figures_passes_over_a_result_that_cannot_be_read(tmp_path: Path) -> None:
    names = ("absent", "damaged", "good")
    chapter = tmp_path / "home" / "convex"
    chapter.mkdir(parents=True)
    for name in names:
        figure = f'"""Ask about {name}."""\nCAPTION = ""\n\ndef main():\n    """Draw."""\n'
        (chapter / f"{name}.py").write_text(figure, "utf-8")
    dossier = replace(DOSSIER, folder=tmp_path, chapters=(Chapter("convex", "Convex", ""),))
    dossier.__dict__["home"] = chapter.parent
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "damaged.json").write_bytes(b"\xff")
    good = json.dumps({**STORED, "figure": "good"})
    (tmp_path / "results" / "good.json").write_text(good, "utf-8")
    table = runner.table(dossier)
    assert table.shows.tolist() == [f"Ask about {name}." for name in names]
    assert table.seconds.isna().tolist() == [True, True, False]


def test_only_files_below_the_folders_are_inputs(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in" / "deep" / "a", tmp_path / "b"
    inside.parent.mkdir(parents=True)
    for path in (inside, outside):
        path.write_text("x", "utf-8")
    with stamps.reading(tmp_path / "in") as found:
        for path in (inside, outside):
            path.read_text("utf-8")
    assert found == {str(inside): stamps.digest(inside)}
    outside.read_text("utf-8")
    assert len(found) == 1
