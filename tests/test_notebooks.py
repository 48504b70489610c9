"""Every notebook runs without a warning and contains its outputs."""

from __future__ import annotations

import re
from itertools import pairwise

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from notebooks.run import INSTALL, every, executed

pytestmark = pytest.mark.slow

# The training of a network depends on the last bits of its processor.
UNSTEADY = {"05_networks", "06_language_model"}
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.])")


def cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell):
    """Kinds of output of a cell: texts, tables, pictures."""
    return [sorted(o.get("data", {o.get("name", o.output_type): 0})) for o in cell.outputs]


def texts(cell):
    return "\n".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.outputs)


@pytest.mark.parametrize("path", every(), ids=lambda path: path.stem)
def test_a_notebook_shows_what_it_computes(path, tmp_path):
    stored = nbformat.read(path, as_version=4)
    fresh = executed(stored, tmp_path)
    for before, after in zip(cells(stored), cells(fresh), strict=True):
        said = [o.text for o in after.outputs if o.get("name") == "stderr"]
        assert said == [], f"a warning in the cell\n{after.source}"
        assert kinds(before) == kinds(after), f"run `make notebooks`: {after.source}"
        if path.stem not in UNSTEADY:
            assert_alike(texts(before), texts(after))
    assert any("image/png" in kind for cell in cells(fresh) for kind in kinds(cell))


def assert_alike(before, after):
    """Words are equal, and numbers are equal to the printed digits."""
    assert NUMBER.sub("#", before) == NUMBER.sub("#", after)
    numbers = [np.array(NUMBER.findall(text), dtype=float) for text in (before, after)]
    np.testing.assert_allclose(*numbers, rtol=0.02, atol=2e-3)


def test_a_changed_number_would_be_seen():
    with pytest.raises(AssertionError):
        assert_alike("regret 0.2385", "regret 0.2585")
    with pytest.raises(AssertionError):
        assert_alike("holds", "FAILS")
    assert_alike(
        "Minimum(lam=0.5, value 0.61 within 3e-16)", "Minimum(lam=0.5, value 0.61 within 0)"
    )


def test_every_notebook_begins_with_the_cell_that_installs_the_package_where_it_is_absent(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for path in every():
        first = cells(nbformat.read(path, as_version=4))[0]
        assert (first.source, first.outputs) == (INSTALL.rstrip(), []), path.name
    offer = INSTALL.replace("%pip install --quiet", "wheels = ")
    exec(offer, {})  # the package is here: nothing is looked for
    with pytest.raises(AssertionError, match="make build"):
        exec(offer.replace('"tradeoff"', '"no_such_package"'), {})


def test_notebooks_lead_to_each_other_and_stay_thin():
    paths = every()
    assert [int(path.stem[:2]) for path in paths] == list(range(1, len(paths) + 1))
    for path, following in pairwise(paths):
        notebook = nbformat.read(path, as_version=4)
        assert following.name in notebook.cells[-1].source, path.name
    for path in paths:
        lines = [
            line for cell in cells(nbformat.read(path, 4)) for line in cell.source.splitlines()
        ]
        assert len(lines) < 150, path.name
        assert path.stat().st_size < 500_000, path.name


def test_progress_shows_in_a_notebook_without_ipywidgets_and_without_a_warning(tmp_path):
    code = """
import sys, warnings
sys.modules["ipywidgets"] = None
warnings.filterwarnings("error", message="IProgress")
from tradeoff import pareto_front, random_log_linear
front = pareto_front(random_log_linear(), solves=3, accuracy=1e-9, progress=True)
"""
    done = executed(new_notebook(cells=[new_code_cell(code)]), tmp_path)
    assert {output.name for output in done.cells[0].outputs} == {"stderr"}
    shown = texts(done.cells[0])
    assert "front" in shown
    assert "Warning" not in shown


def test_axes_of_ours_leave_the_notebook_drawing(tmp_path):
    """The first figure of a session may be made within our style; later figures must still show."""
    sources = ["from tradeoff import plots\nplots.axes();", "plots.axes();", "plots.axes();"]
    done = executed(new_notebook(cells=[new_code_cell(source) for source in sources]), tmp_path)
    assert [k for cell in done.cells for k in kinds(cell)] == [["image/png", "text/plain"]] * 3
