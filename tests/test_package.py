"""The package as a user sees it: it loads at once, and it knows its version."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import tradeoff
import tradeoff.llm
from tests import wheel

ROOT = Path(__file__).parents[1]
HEAVY = {"matplotlib", "numba", "pandas", "scipy", "torch", "transformers"}


def in_fresh_interpreter(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def test_import_is_quick() -> None:
    code = "import time; t = time.perf_counter(); import tradeoff; print(time.perf_counter() - t)"
    assert min(float(in_fresh_interpreter(code)) for _ in range(5)) < 0.3


@pytest.mark.parametrize("name", ["", ".__version__"])
def test_import_leaves_heavy_packages_alone(name: str) -> None:
    code = f"import sys, tradeoff; tradeoff{name}; print(*sys.modules)"
    assert not HEAVY & set(in_fresh_interpreter(code).split())


def test_version_is_the_one_in_pyproject() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert tradeoff.__version__ == tomllib.load(file)["project"]["version"]


@pytest.mark.parametrize("module", [tradeoff, tradeoff.llm], ids=lambda module: module.__name__)
def test_every_public_name_can_be_imported(module: ModuleType) -> None:
    assert module.__all__
    assert all(getattr(module, name) is not None for name in module.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        tradeoff.no_such_name  # noqa: B018


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_folder(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    assert wheel.check(tmp_path) == []
