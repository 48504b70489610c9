"""Stochastic runs: compiled kernels compared with plain C and with numpy batched over replicas.

ALRIGHT on 16 prompts of 8 responses with 16 parameters, 1024 replicas, 10,000 updates. numpy runs
fewer updates; all rates are per update of one replica.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numba
import numpy as np

from benchmarks.measure import interleave, summary
from tradeoff import draws
from tradeoff.convex.instances import random_log_linear
from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.simulate import Trajectories, trajectories
from tradeoff.schedules import Alright

SOURCE = Path(__file__).with_name("reference.c")
FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
REPLICAS, STEPS, NUMPY_STEPS, STEP_SIZE = 1024, 10_000, 50, 0.1
BAR = 1.0


def main(repetitions: int = 9) -> dict[str, Any]:
    problem = random_log_linear(0)
    threads = numba.get_num_threads()
    # Threads sleep between measurements: spinning OpenMP threads would slow the other side.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    run_c = _compile(problem, threads)

    def kernels(steps: int = STEPS) -> Trajectories:
        return _trajectories(problem, "numba", steps)

    contenders = {"kernels": kernels, "numpy": lambda: _trajectories(problem, "numpy", NUMPY_STEPS)}
    updates = {"kernels": STEPS, "numpy": NUMPY_STEPS, "c": STEPS}
    kernels(10)  # compiles
    numbers: dict[str, Any] = {"threads": threads, "replicas": REPLICAS, "updates": STEPS}
    if run_c is None:
        numbers["note"] = "no gcc: not compared with C"
    else:
        agreement = float(np.max(np.abs(run_c()[0] - kernels().last[0])))
        numbers["largest_difference_from_c"] = agreement
        contenders["c"] = run_c
    seconds = interleave(contenders, repetitions)
    rates = {k: updates[k] * REPLICAS / np.array(v) / 1e6 for k, v in seconds.items()}
    numbers["million_updates_per_second"] = {k: summary(v) for k, v in rates.items()}
    numbers["kernels_over_numpy"] = summary(rates["kernels"] / rates["numpy"])
    if run_c is not None:
        numbers["kernels_over_c"] = summary(rates["kernels"] / rates["c"])
        numbers |= {"bar": BAR, "bar_met": numbers["kernels_over_c"]["median"] >= BAR}
    return numbers


def _trajectories(problem: LogLinear, engine: Any, steps: int) -> Trajectories:
    return trajectories(
        problem,
        Alright(),
        steps=steps,
        step_size=STEP_SIZE,
        replicas=REPLICAS,
        engine=engine,
        checkpoints=_checkpoints(steps),
    )


def _checkpoints(steps: int) -> np.ndarray:
    return np.unique(np.geomspace(1, steps, 30).round().astype(np.int64))


def _compile(problem: LogLinear, threads: int) -> Any:
    """Make a function that runs `reference.c`; ``None`` without gcc."""
    if shutil.which("gcc") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "reference.so"
        subprocess.run(["gcc", *FLAGS, "-o", library, SOURCE, "-lm"], check=True)
        function = ctypes.CDLL(str(library)).run
    keys = np.stack([draws.keys(0, np.arange(REPLICAS), s) for s in range(3)], axis=-1)
    marks = _checkpoints(STEPS)
    last, average = np.empty((2, REPLICAS, len(marks), problem.dimension))
    arguments = [
        problem.dimension,
        problem.features,
        problem.offsets,
        int(np.diff(problem.offsets).max()),
        len(problem.demonstrations),
        problem.demonstrations,
        problem.prompt_of_row[problem.demonstrations],
        len(problem.chosen),
        problem.pair_differences,
        problem.beta,
        problem.radius,
        Alright().lam,
        STEP_SIZE,
        REPLICAS,
        keys,
        len(marks),
        marks,
        last,
        average,
        threads,
    ]
    converted = [_c(value) for value in arguments]

    def run() -> tuple[np.ndarray, np.ndarray]:
        assert len(arguments) == len(converted)  # keeps the arrays alive
        function(*converted)
        return last, average

    return run


def _c(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.ctypes.data_as(ctypes.c_void_p)
    return ctypes.c_double(value) if isinstance(value, float) else ctypes.c_int64(value)
