"""Run attacks and print promises, tries and failures: ``python -m tests.attack [NAME ...]``."""

from __future__ import annotations

import argparse
import os
import sys

# Must come before the imports of numpy and torch: two processes share two cores, without network.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from pathlib import Path  # noqa: E402

from tests.attack import _runner  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    known = _runner.known()
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; all")
    parser.add_argument("--full", action="store_true", help="all tries instead of a selection")
    parser.add_argument("--tries", type=int, help="tries of each attack")
    parser.add_argument("--seed", type=int, default=0, help="another seed tries other things")
    parser.add_argument("--jobs", type=int, default=2, help="processes; 0: this one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the counts; others stay")
    given = parser.parse_args(arguments)
    if unknown := set(given.names) - set(known):
        parser.error(f"no attack {sorted(unknown)[0]!r}; they are {', '.join(known)}")
    record = _runner.run(
        given.names or known, full=given.full, tries=given.tries, seed=given.seed, jobs=given.jobs
    )
    print(_runner.table(record))
    if given.json is not None:
        _runner.store(record, given.json)
    return int(any(found["failures"] for found in record.values()))


if __name__ == "__main__":
    sys.exit(main())
