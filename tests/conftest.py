"""What every test shares: one thread a process, no display, checked shapes, steady examples."""

from __future__ import annotations

import os

# These are read once, when numpy, torch, numba and matplotlib are first loaded, so they come first.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
# At least four to hand on any machine, so that a test can compare 1, 2 and 4.
os.environ["NUMBA_NUM_THREADS"] = str(max(4, os.cpu_count() or 1))
os.environ["MPLBACKEND"] = "Agg"
# No test needs the network; trainers would otherwise report their use to the hub.
os.environ["HF_HUB_OFFLINE"] = "1"

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest
from jaxtyping import install_import_hook


class _PlainKernels(MetaPathFinder):
    """Imports `tradeoff....kernels` unwrapped: numba compiles plain functions only."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.startswith("tradeoff.") and fullname.endswith("kernels"):
            return PathFinder.find_spec(fullname, path, target)
        return None


# Every other function of the package checks its arguments and array shapes in the tests.
sys.path.append(str(Path(__file__).parent))
install_import_hook("tradeoff", "typechecker.check")
sys.meta_path.insert(0, _PlainKernels())

# The machine decides how long an example takes, so none has a deadline. CI draws the same
# examples every time; elsewhere each run looks at new ones.
hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Start each test with one thread of numba and torch, whatever the one before asked for."""
    for library in ("numba", "torch"):
        if library in sys.modules:
            sys.modules[library].set_num_threads(1)
