"""Every example of CONTRIBUTING.md is one file, and works at the path in its title."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.dossier.captions import caption
from analysis.fernando2024.dossier import DOSSIER
from tradeoff import Alright, Method, Mix, Sequential, random_log_linear, simulate
from tradeoff.checkout import ROOT
from tradeoff.methods.gradients import GradientRule
from tradeoff.methods.hooks import Hook
from tradeoff.methods.losses import PreferenceLoss
from tradeoff.methods.transforms import Transform
from tradeoff.parts import collected, restore
from tradeoff.schedules import Schedule

BLOCK = re.compile(r'^```python title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
EXAMPLES = dict(BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text("utf-8")))
LINES = 20
"""Largest number of lines of an example, without empty ones."""


@pytest.fixture
def placed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Put an example into its package, which has a second folder during the test."""
    before = set(sys.modules)

    def place(title: str) -> Path:
        path = tmp_path / title
        path.parent.mkdir(parents=True)
        path.write_text(EXAMPLES[title], "utf-8")
        folder = ROOT / title
        while not (folder := folder.parent).is_dir():
            pass
        inner = folder.relative_to(ROOT)
        package = importlib.import_module(".".join(inner.parts))
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / inner)])
        importlib.invalidate_caches()
        return path

    yield place
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def ends(method: Method | Schedule) -> list[float]:
    runs = simulate(random_log_linear(seed=0), method, steps=20, step_size=0.05, replicas=2)
    return list(runs[(runs.step == 20) & (runs.iterate == "last")].sft_loss)


PARTS: dict[str, tuple[type[Any], Callable[[Any], Method | Schedule], Method | Schedule]] = {
    "tradeoff/schedules/ramp.py": (Schedule, lambda ramp: ramp(lam=0.3), Alright(lam=0.3)),
    "tradeoff/methods/losses/squared.py": (
        PreferenceLoss,
        lambda squared: Method(Mix(lam=0.3), preference=squared()),
        Mix(lam=0.3),
    ),
    "tradeoff/methods/gradients/normalised.py": (
        GradientRule,
        lambda normalised: Method(Mix(lam=0.3), gradient=normalised()),
        Mix(lam=0.3),
    ),
    "tradeoff/methods/merges/midpoint.py": (
        Hook,
        lambda midpoint: Method(Sequential(lam=0.3), merge=midpoint()),
        Sequential(lam=0.3),
    ),
    "tradeoff/methods/transforms/every_other.py": (
        Transform,
        lambda every_other: Method(Mix(lam=0.3), data=every_other()),
        Mix(lam=0.3),
    ),
}
FIGURE, PAPER = "analysis/fernando2024/convex/halves.py", "analysis/halves2030/dossier.py"


@pytest.mark.parametrize("title", PARTS)
def test_a_part_is_found_by_its_folder_and_runs(title: str, placed: Any) -> None:
    path = placed(title)
    base, method, plain = PARTS[title]
    package = ".".join(Path(title).parent.parts)
    found = collected(package, base)[path.stem]
    made = method(found)
    assert ends(made) != ends(plain)
    assert restore(found().to_dict(), {path.stem: found}, found.kind) == found()


def test_a_figure_is_found_by_its_folder_and_drawn(placed: Any, tmp_path: Path) -> None:
    path = placed(FIGURE)
    dossier = replace(DOSSIER, chapters=(replace(DOSSIER.chapters[0], first=()),))
    dossier.__dict__["home"] = path.parents[1]
    assert dossier.figures == ("halves",)
    numbers = dossier.module("halves").main(tmp_path, fast=True)
    assert (tmp_path / "figures" / "halves.svg").exists()
    assert "n = 4" in caption(dossier.module("halves"), numbers)


def test_a_paper_is_declared_by_one_module(placed: Any) -> None:
    path = placed(PAPER)
    found = importlib.import_module("analysis.halves2030.dossier").DOSSIER
    assert (found.home, found.figures, found.studies) == (path.parent, (), ())


def test_examples_are_short_and_each_is_tested() -> None:
    assert set(EXAMPLES) == {*PARTS, FIGURE, PAPER}
    for title, text in EXAMPLES.items():
        assert len([line for line in text.splitlines() if line.strip()]) < LINES, title
        assert not (ROOT / title).exists(), title
