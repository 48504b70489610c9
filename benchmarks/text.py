"""The certified front of real text: Dolly demonstrations against HH preferences.

Data are in ../shared/data beside the checkout. The front is computed in its own process, so that
the peak memory is only that of the front.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from typing import Any

from tradeoff.checkout import DATA, ROOT

SFT = "sft_dolly15k_train.jsonl.gz"
PREFERENCES = "pref_hh_helpful_base_train.jsonl.gz"
SOLVES, BAR_SECONDS, BAR_GIB = 9, 60.0, 4.0


def main() -> dict[str, Any]:
    if not all((DATA / name).is_file() for name in (SFT, PREFERENCES)):
        return {"note": f"skipped: needs {SFT} and {PREFERENCES} in ../shared/data"}
    command = [sys.executable, "-m", "benchmarks.text"]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    numbers = json.loads(done.stdout.splitlines()[-1])
    within = numbers["front_seconds"] < BAR_SECONDS and numbers["peak_gib"] < BAR_GIB
    return {**numbers, "bar": f"{BAR_SECONDS:g} s and {BAR_GIB:g} GiB", "bar_met": within}


def measure_front() -> dict[str, Any]:
    from tradeoff.convex.front import pareto_front
    from tradeoff.convex.text import text_problem
    from tradeoff.data.files import read_preferences, read_sft

    began = time.perf_counter()
    demonstrations = read_sft(DATA / SFT)
    pairs = read_preferences(DATA / PREFERENCES)
    problem = text_problem(demonstrations, pairs, radius=10.0)
    built = time.perf_counter()
    front = pareto_front(problem, solves=SOLVES)
    done = time.perf_counter()
    kilobyte = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobyte
    return {
        "demonstrations": len(demonstrations),
        "pairs": len(pairs),
        "parameters": problem.dimension,
        "solves": SOLVES,
        "minima": len(front.weights),
        "certified_error": float(front.error),
        "build_seconds": built - began,
        "front_seconds": done - built,
        "peak_gib": peak / 2**30,
    }


if __name__ == "__main__":
    print(json.dumps(measure_front()))
