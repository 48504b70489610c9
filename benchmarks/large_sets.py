"""Time and memory of `tradeoff analyse` on a million rows of each set.

    python benchmarks/large_sets.py --rows 1000000 --folder /tmp/large

writes seeded rows of 20 to 120 words to that folder, unless they exist. It then runs the command on
two threads, and prints seconds and peak memory. The bar is 5 minutes and 4 GiB on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path


def write(folder: Path, rows: int) -> None:
    """Write rows whose words have the frequencies of a natural text (Zipf's law)."""
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(30_000)]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    stream = rng.choices(words, weights, k=2_000_000)

    def text(least: int, most: int) -> str:
        start = rng.randrange(len(stream) - most)
        return " ".join(stream[start : start + rng.randint(least, most)])

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "sft.jsonl").open("w") as sft, (folder / "pairs.jsonl").open("w") as pairs:
        for row in range(rows):
            prompt = f"{text(5, 60)} {row}"
            sft.write(json.dumps({"prompt": prompt, "completion": text(20, 120)}) + "\n")
            sides = {"chosen": f"{text(20, 100)} thanks", "rejected": text(20, 100)}
            pairs.write(json.dumps({"prompt": f"{text(5, 60)} {row}", **sides}) + "\n")


def main() -> None:
    """Write the rows, run the command, and print time and memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    folder = given.folder / str(given.rows)
    if not (folder / "done").exists():
        write(folder, given.rows)
        (folder / "done").touch()
    command = [sys.executable, "-m", "tradeoff", "analyse", "--json", "--out", str(folder / "out")]
    command += ["--sft", str(folder / "sft.jsonl"), "--preference", str(folder / "pairs.jsonl")]
    began = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {
        "rows": given.rows,
        "seconds": round(time.perf_counter() - began, 1),
        "processor_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_gib": round(used.ru_maxrss / 2**20, 2),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
