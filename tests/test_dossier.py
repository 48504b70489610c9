"""The machinery of a dossier knows no paper: a second paper is a separate folder."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from analysis.dossier import cells, ledger, report, runner
from analysis.dossier.declaration import Dossier
from analysis.fernando2024.dossier import DOSSIER
from tradeoff.checkout import ROOT
from tradeoff.errors import InputError
from tradeoff.records import read_json, write_json

FILES = {
    "__init__.py": "",
    "dossier.py": """
from pathlib import Path
import pandas as pd
from analysis.dossier.declaration import Chapter, Dossier

DOSSIER = Dossier(
    title="Halving a number",
    folder=Path(__file__).parent / "stored",
    package="halving2030",
    chapters=(
        Chapter("numbers", "Figures of numbers"),
        Chapter("long", "Figures of long runs", studies=True),
    ),
    sections={"result": "What comes out"},
    opening=1,
    titles={"halves": "What is left."},
    tables=lambda results: {
        "halves": pd.DataFrame({"step": ["last"], "value": [f"{results['halves']['last']:g}"]})
    },
)
""",
    "numbers/__init__.py": "",
    "numbers/halves.py": '''
"""How fast does a number halve?"""
import numpy as np
from analysis.dossier import style
from analysis.dossier.mutations import mutate
from tradeoff.theory.checked import Checked

CAPTION = "Halves of 1, n = {n}. Command: python -m analysis halves."

def words(numbers):
    return {"n": str(numbers["n"])}

def main(out, fast=False):
    values = 0.5 ** np.arange(4)
    with style.figure(height=2.0) as (fig, ax):
        ax.plot(values)
        style.save(fig, out, "halves")
    return {"n": values.size, "last": float(values[-1])}

def claim_halves(fast=False, mutation=None):
    rate = mutate(mutation, 0.5, {"slower": 0.75})
    return Checked(rate ** np.arange(4), 0.5 ** np.arange(4), "exact")
''',
    "long/__init__.py": "",
    "long/not_yet_run.py": '"""A study."""\nCAPTION = ""\n\ndef main(out, fast=False): ...\n',
    "long/helper.py": '"""No figure."""\n',
    "templates/sections/result.md.j2": (
        "After {{ results.halves.n }} steps {{ results.halves.last }} is left.\n\n"
        "{{ tables.halves | markdown }}\n"
    ),
    "stored/claims.toml": """
[[claim]]
id = "halves"
statement = "Every step halves."
over = "four steps"
kind = "identity"
source = "arithmetic"
code = "halving2030.numbers.halves:claim_halves"
reads = "computed"
tolerance = "1e-9"
mutations = ["slower"]
""",
}


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dossier:
    for name, text in FILES.items():
        path = tmp_path / "halving2030" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.lstrip("\n"), "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(runner, "STAMPS", tmp_path / "stamps")
    importlib.invalidate_caches()
    for name in [name for name in sys.modules if name.partition(".")[0] == "halving2030"]:
        monkeypatch.delitem(sys.modules, name)
    found: Any = importlib.import_module("halving2030.dossier").DOSSIER
    assert isinstance(found, Dossier)
    return found


def test_a_second_paper_is_one_folder(toy: Dossier) -> None:
    assert (toy.figures, toy.studies) == (("halves",), ("not_yet_run",))
    done = runner.run(toy, "halves")
    assert done.fresh
    assert not runner.run(toy, "halves").fresh
    assert ledger.check(toy, progress=False).holds.tolist() == [True]
    assert ledger.mutate(toy, progress=False).broken.tolist() == [True]
    (page,) = report.write(toy)
    text, prose = page.read_text("utf-8"), (toy.folder / "README.md").read_text("utf-8")
    for part in ("After 4 steps 0.125 is left.", "| last | 0.125 |", "Halves of 1, n = 4."):
        assert part in prose
    assert prose.startswith("# Halving a number\n")
    assert text.index("What comes out") < text.index("Figures of numbers")
    assert 'id="claim-halves"' in text
    assert "Figures of long runs" not in text
    assert "Fernando" not in text + prose
    (table,) = (path for path in report.write_tables(toy) if path.stem == "claims")
    assert "Every step halves." in table.read_text("utf-8")
    assert runner.table(toy).figure.tolist() == ["halves", "not_yet_run"]
    assert read_json(toy.folder / "results" / "halves.json")["numbers"] == done.numbers


def test_a_name_that_no_figure_has_is_bad_input(toy: Dossier) -> None:
    with pytest.raises(InputError, match=r"no such figure.*halves, not_yet_run"):
        runner.run(toy, "helper")


READER = '''
"""How far is the last half from zero?"""
from pathlib import Path
from analysis.dossier import style
from halving2030.dossier import DOSSIER

CAPTION = ""

def main(out, fast=False):
    with style.figure(height=2.0) as (fig, ax):
        style.save(fig, out, "reader")
    return {"twice": 2 * DOSSIER.shown("halves")["last"]}
'''


def test_a_figure_reads_what_was_run_in_its_folder(toy: Dossier, tmp_path: Path) -> None:
    (toy.home / "numbers" / "reader.py").write_text(READER, "utf-8")
    kept, out = runner.run(toy, "halves").numbers["last"], tmp_path / "own"
    first = runner.run(toy, "reader", out)
    assert (first.numbers["twice"], first.borrowed) == (2 * kept, ("halves",))
    assert not runner.run(toy, "reader", out).fresh
    runner.run(toy, "halves", out, fast=True)  # Figures must not use the fast form of another one.
    assert runner.run(toy, "reader", out).borrowed == ("halves",)
    path = out / "results" / "halves.json"
    record = read_json(path)
    record["provenance"]["form"], record["numbers"]["last"] = "full", 1.0
    write_json(path, record)
    own = runner.run(toy, "reader", out)
    assert (own.numbers["twice"], own.borrowed, own.fresh) == (2.0, (), True)
    assert runner.run(toy, "reader").numbers["twice"] == 2 * kept


def test_a_value_is_found_by_itself_and_not_by_its_place() -> None:
    assert cells.place([0.1, 0.5, 0.9], 0.5) == 1
    for values in ([0.1, 0.9], [0.5, 0.5]):
        with pytest.raises(InputError, match=r"such value|twice"):
            cells.place(values, 0.5)


def test_the_machinery_imports_no_paper() -> None:
    """The machinery does not name a paper either."""
    papers = {path.parent.name for path in (ROOT / "analysis").glob("*/dossier.py")}
    assert papers == {DOSSIER.home.name, "arena"}
    for path in sorted((ROOT / "analysis" / "dossier").rglob("*")):
        if path.suffix in (".py", ".j2", ".js", ".css"):
            assert not any(paper in path.read_text("utf-8") for paper in papers), path


def test_chapters_and_the_machinery_are_imported_by_their_whole_names() -> None:
    """Only the command line finds modules by text."""
    for path in sorted((ROOT / "analysis").rglob("*.py")):
        if path.parts[-2:] == ("dossier", "declaration.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            called = getattr(node, "func", None)
            name = getattr(called, "attr", getattr(called, "id", ""))
            assert name != "import_module" or path.name == "ledger.py", path
