"""`python -m analysis.advised [--check]`: write the answer of `tradeoff advise` that pages show.

It reads two public sets of rows from the folder of real data. ``--check`` only compares, by `same`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from textwrap import wrap

from tradeoff.checkout import DATA, ROOT
from tradeoff.errors import InputError
from tradeoff.records import replacing

STORED = ROOT / "docs" / "howto" / "advise_rasbt.txt"
ROWS = ("sft_rasbt_train.jsonl.gz", "pref_rasbt_train.jsonl.gz")
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?")
WIDTH = "100"
"""Columns of the terminal that the answer is printed for."""


def available(files: Iterable[str] = ROWS) -> bool:
    """Whether the rows are here."""
    return all((DATA / name).exists() for name in files)


def check_here(files: Iterable[str]) -> None:
    """Raise an `InputError` if a file is not in the folder of real data."""
    files = list(files)
    if not available(files):
        remedy = "Put the files there, or set TRADEOFF_DATA to their folder."
        raise InputError("the rows are not here", file=DATA, value=files, remedy=remedy)


def answer() -> str:
    """What the command prints for these rows, in an empty folder.

    Raises
    ------
    InputError
        If the rows are absent.
    """
    check_here(ROWS)
    with tempfile.TemporaryDirectory() as folder:
        for name in ROWS:
            (Path(folder) / name).symlink_to(DATA / name)
        done = subprocess.run(
            [sys.executable, "-m", "tradeoff", "advise", *ROWS, "--details"],
            cwd=folder,
            env={**os.environ, "COLUMNS": WIDTH, "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
    return "\n".join(line.rstrip() for line in done.stdout.rstrip().splitlines()) + "\n"


def same(found: str, stored: str) -> bool:
    """Whether two answers have the same words, and numbers equal to a unit of their last digit.

    Another machine adds in another order, and a number near the edge of a digit may cross it.
    """
    if NUMBER.sub("#", found) != NUMBER.sub("#", stored):
        return False
    pairs = zip(NUMBER.findall(found), NUMBER.findall(stored), strict=True)
    return all(_near(Decimal(one), Decimal(other)) for one, other in pairs)


def _near(one: Decimal, other: Decimal) -> bool:
    unit = max(int(one.as_tuple().exponent), int(other.as_tuple().exponent))
    return abs(one - other) <= Decimal(1).scaleb(unit)


def sentences() -> list[str]:
    """The sentences of the stored answer, in lines; none where there is no file."""
    if not STORED.exists():
        return []
    lines = STORED.read_text("utf-8").splitlines()
    numbered = [line for line in lines if line[:1].isdigit() and line[1:3] == ". "]
    return [part for line in numbered for part in wrap(line, int(WIDTH), subsequent_indent="   ")]


def command() -> list[str]:
    """The command to train of the stored answer, in lines of a shell; none without a file."""
    if not STORED.exists():
        return []
    (line,) = re.findall(r"^train: (.*)$", STORED.read_text("utf-8"), re.MULTILINE)
    space = "\N{NO-BREAK SPACE}"  # keeps an option and its value together
    joined = re.sub(r"(--\S+) ", rf"\1{space}", line)
    parts = wrap(joined, width=90, break_on_hyphens=False, subsequent_indent="  ")
    return " \\\n".join(parts).replace(space, " ").splitlines()


def weight() -> float:
    """The weight of the preference objective that the stored answer advises."""
    (found,) = re.findall(r" --lam (\S+)", STORED.read_text("utf-8"))
    return float(found)


def main(arguments: list[str]) -> int:
    """Write the answer, or compare it with the stored one; 1 where they differ."""
    found = answer()
    if "--check" in arguments:
        return int(not same(found, STORED.read_text("utf-8")))
    with replacing(STORED) as partial:
        partial.write_text(found, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
