"""Settings for every test: one thread, no display, checked shapes, repeatable examples."""

from __future__ import annotations

import os

# Numpy, torch, numba and matplotlib read these once, when they are first loaded, so they come
# first.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
# At least four threads on any machine, so that a test can compare 1, 2 and 4.
os.environ["NUMBA_NUM_THREADS"] = str(max(4, os.cpu_count() or 1))
os.environ["MPLBACKEND"] = "Agg"
# No test needs the network; trainers would otherwise report their use to the hub.
os.environ["HF_HUB_OFFLINE"] = "1"

import gc
import json
import sys
from collections.abc import Callable, Generator, Sequence
from functools import cache
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import pytest
import typer.main
import typer.testing
from _pytest.doctest import DoctestModule

# The modules that are imported for all tests are never freed.
gc.disable()


class _Examples:
    """Look for examples only in modules that have some; the others need not be imported for it."""

    @pytest.hookimpl(wrapper=True)
    def pytest_collect_file(self, file_path: Path) -> Generator[None, list[Any], list[Any]]:
        found = yield
        if found and ">>>" not in file_path.read_text("utf-8"):
            return [part for part in found if not isinstance(part, DoctestModule)]
        return found


def pytest_configure(config: pytest.Config) -> None:
    """Register what concerns the files of the package too, which lie outside this folder."""
    config.pluginmanager.register(_Examples())


def pytest_collection_finish() -> None:
    """Collect garbage again, but skip the objects that the imports have made."""
    gc.freeze()
    gc.enable()
    if "PYTEST_XDIST_WORKER" in os.environ and "numba" in sys.modules:
        _compile_one_at_a_time()


def _compile_one_at_a_time() -> None:
    """Let one worker compile what numba keeps on disk, while the others wait and then load it."""
    from filelock import FileLock
    from numba.core.caching import NullCache
    from numba.core.compiler_lock import global_compiler_lock
    from numba.core.dispatcher import Dispatcher

    place = Path(__file__).parent / "__pycache__"
    place.mkdir(exist_ok=True)
    compiled, lock = Dispatcher.compile, FileLock(place / "numba.lock", thread_local=False)

    def one_at_a_time(self: Dispatcher, signature: Any) -> Any:
        if isinstance(self._cache, NullCache):
            return compiled(self, signature)
        # In this order in every thread, so that no two of them wait for each other.
        with global_compiler_lock, lock:
            return compiled(self, signature)

    Dispatcher.compile = one_at_a_time


# Only for type checkers: it imports a name that does not exist.
collect_ignore = ["typed_user.py"]


class _PlainKernels(MetaPathFinder):
    """Import `tradeoff....kernels` without wrappers, since numba compiles only plain functions."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.startswith("tradeoff.") and fullname.endswith("kernels"):
            return PathFinder.find_spec(fullname, path, target)
        return None


# Every other function of the package checks its arguments and array shapes in the tests.
sys.path.append(str(Path(__file__).parent))
typechecker = import_module("typechecker")
typechecker.install()
sys.meta_path.insert(0, _PlainKernels())

# Without this, each call of the program would build all of its commands again.
typer.main.get_command = typer.testing._get_command = cache(typer.main.get_command)

# The time of an example depends on the machine, so none has a deadline. CI draws the same examples
# every time; elsewhere each run draws new ones.
hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """Draw a figure's fast form once per module, check its files and return its numbers."""
    from analysis.fernando2024.dossier import DOSSIER
    from tradeoff.records import plain

    out: Path = tmp_path_factory.mktemp("figures")
    found: dict[str, dict[str, Any]] = {}

    def draw(name: str) -> dict[str, Any]:
        if name not in found:
            found[name] = plain(DOSSIER.module(name).main(out, fast=True))
            for suffix, limit in ((".svg", 400_000), (".png", 200_000)):
                size = (out / "figures" / f"{name}{suffix}").stat().st_size
                assert 5_000 < size < limit, f"{name}{suffix}: {size} bytes"
            assert len(json.dumps(found[name], allow_nan=False)) < 300_000
        return found[name]

    return draw


@pytest.fixture(scope="session")
def paper() -> dict[str, Any]:
    """What the templates of the paper's dossier are filled with."""
    from analysis.dossier import report
    from analysis.fernando2024.dossier import DOSSIER

    return report.context(DOSSIER, DOSSIER.folder)


@pytest.fixture(scope="session")
def paper_page(paper: dict[str, Any]) -> str:
    """The report page of the paper's dossier, which takes seconds to render."""
    from analysis.dossier import report
    from analysis.fernando2024.dossier import DOSSIER

    return report.render_page(DOSSIER, paper)


@pytest.fixture(autouse=True)
def _first_calls_are_checked() -> None:
    typechecker.start_counting_anew()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Start each test with one thread of numba and torch, whatever the test before has set."""
    for library in ("numba", "torch"):
        if library in sys.modules:
            sys.modules[library].set_num_threads(1)
