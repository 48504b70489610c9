"""Pack what a GPU machine without a network needs, and measure there in three calls.

    make gpu-pack                              here: writes out/gpu/first, second and third
    python -m analysis.gpu first               there, with the checkout and out/gpu/first
    python -m analysis.gpu second              there, at once, with out/gpu/second beside it
    python -m analysis.gpu third               there, at once: the study on the real model
    python -m analysis.gpu unpack BUNDLE       here: results under the paper's folder
    python -m analysis.gpu first --rehearse    the same steps at tiny shapes on a CPU

Each method writes its own small result as it ends, and what is there is not measured again. Until
the wheels of the pack are installed, only the standard library is imported.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.gpu import parts


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m analysis.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = made.add_subparsers(dest="verb", required=True)
    pack = verbs.add_parser("pack", help="write what travels")
    pack.add_argument("--pack", type=Path, default=parts.PACK, help="folder of what travels")
    pack.add_argument("--limit-mib", type=float, help="most that a call may carry; default: 63")
    pack.add_argument("--no-wheels", action="store_true", help="leave wheels out: no network")
    pack.add_argument(
        "--runs", type=Path, help="archive of runs to go on with; default: the checkout's"
    )
    for name in parts.CALLS:
        call = verbs.add_parser(name, help=f"the {name} call")
        call.add_argument("--pack", type=Path, default=parts.PACK, help="folder of what travelled")
        call.add_argument("--out", type=Path, help="folder that receives results/gpu")
        call.add_argument("--seconds", type=float, default=420.0, help="when to end cleanly")
        call.add_argument("--steps", nargs="+", metavar="STEP", help="some steps of the call")
        call.add_argument("--methods", nargs="+", metavar="METHOD", help="some methods")
        call.add_argument("--rounds", type=int, default=1, help="measurements of each method")
        call.add_argument("--bundle", type=Path, help="one file with all results so far")
        call.add_argument("--jobs", type=int, default=1, help="runs of the study at a time")
        call.add_argument("--pairs", nargs="+", metavar="PAIR", help="of the study; default: all")
        call.add_argument("--extras", nargs="+", metavar="KIND", help="more runs of the study")
        call.add_argument("--rehearse", action="store_true", help="tiny shapes on a CPU")
        call.add_argument("--device", choices=("cpu", "cuda"), default="cpu",
                          help="of a rehearsal; default: cpu")  # fmt: skip
    unpack = verbs.add_parser("unpack", help="write the results of a bundle")
    unpack.add_argument("bundle", type=Path)
    unpack.add_argument("--out", type=Path, help="folder that receives results/gpu")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks; the exit status."""
    given = parser().parse_args(arguments)
    if given.verb in parts.CALLS and not given.rehearse and parts.install(given.pack):
        # Packages are found from the start only in a new process.
        os.execv(sys.executable, [sys.executable, "-m", "analysis.gpu", *sys.argv[1:]])
    from analysis.gpu import calls, pack, results
    from tradeoff.errors import InputError

    try:
        if given.verb == "pack":
            wheels = not given.no_wheels
            limit = given.limit_mib or pack.LIMIT
            print(pack.write(given.pack, limit, wheels=wheels, runs=given.runs))
        elif given.verb == "unpack":
            print(*results.unpack(given.bundle, results.folder(given.out)), sep="\n")
        else:
            calls.run(given)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
