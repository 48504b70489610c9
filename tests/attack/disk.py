"""Every command on a disk that is full, read-only or gone, at each of its writes.

The command must end with status 2 and one clear error, or with all of its results. No earlier file
may be lost. When the disk works again, the same call must complete.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from tests.attack import _children, _faults, _lab
from tests.attack._outcome import Outcome, spread
from tests.attack._setup import copied, intact, model_folder, names, place, row_files

PROMISE = "A disk that is full, read-only or gone is one clear error, and nothing earlier is lost."
TRIES, FULL = 54, 450

ERRORS = {"full": errno.ENOSPC, "read-only": errno.EROFS, "gone": errno.ENOENT}
ROWS = ("--sft", "../sft.jsonl", "--preference", "../preference.jsonl")
COMMANDS: dict[str, tuple[str, ...]] = {
    "train": ("train", "--model", "../model", *ROWS, "--out", "run", "--steps", "4",
              "--batch-size", "4", "--save-every", "2", "--max-length", "64",
              "--set", "train.holdout=0.2", "--set", "train.reference_cache=cache", "--json"),
    "evaluate": ("evaluate", "../model", "--sft", "../sft.jsonl", "--exact-match",
                 "--max-new-tokens", "2", "--max-length", "64", "--out", "scores", "--json"),
    "export": ("export", "../model", "--out", "exported", "--json"),
    "front": ("front", "--dimension", "2", "--prompts", "2", "--responses", "2", "--accuracy",
              "0.1", "--out", "front", "--json"),
    "simulate": ("simulate", "--schedule", "mix", "--steps", "10", "--replicas", "2",
                 "--out", "runs", "--json"),
    "analyse": ("analyse", *ROWS, "--lam", "0.5", "--radius", "2", "--candidates", "2",
                "--features", "64", "--solves", "3", "--steps", "4", "--out", "found", "--json"),
    "advise": ("advise", "../sft.jsonl", "../preference.jsonl", "--repeats", "2", "--rows", "8",
               "--out", "advice", "--json"),
    "compare": ("compare", "--model", "../model", *ROWS, "--out", "compared", "--method", "mix",
                "--lam", "0.5", "--seeds", "2", "--steps", "2", "--batch-size", "4",
                "--max-length", "64", "--set", "train.holdout=0.2", "--json"),
    "figures": ("figures", "certified_front", "--fast", "--force", "--out", "paper", "--json"),
    "claims": ("claims", "--out", "paper", "--json"),
}  # fmt: skip
"""The commands, which run in a folder beside model and rows."""
FRESH = {"export"}
"""Commands that need an empty folder."""


def run(tries: int, seed: int) -> Outcome:
    """Run commands on `tries` broken disks."""
    kinds: dict[str, Any] = {command: partial(_tried, command) for command in COMMANDS}
    kinds["study"] = partial(_tried, "study")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return spread(tries, seed, kinds)


# ---------------------------------------------------------------------- in children


def _called(what: str, folder: Path) -> None:
    """Run one command in a folder."""
    from tradeoff.errors import InputError

    os.chdir(folder)
    if what == "study":
        try:
            _lab.run(folder / "study")
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)  # the message of the command line
            raise SystemExit(2) from error
        return
    if what == "claims":
        from analysis.dossier import ledger

        every, chosen = ledger.claims, "sequential-gap-log-cosh"
        ledger.claims = lambda *a: [claim for claim in every(*a) if claim.id == chosen]
    _children.command(COMMANDS[what], stamps=folder / "stamps")


def _counted(what: str, folder: Path) -> int:
    with _faults.Watch(folder) as watch:
        _called(what, folder)
    return watch.count


def _refused(what: str, folder: Path, number: int, at: int) -> None:
    with _faults.Watch(folder, at, _faults.refused(number), lasting=True):
        _called(what, folder)


def _limited(what: str, folder: Path, size: int) -> None:
    with _faults.small_files(size):
        _called(what, folder)


# ---------------------------------------------------------------------- judgement


def _tried(what: str, tries: int, rng: random.Random, outcome: Outcome) -> None:
    with place() as root:
        row_files(root)
        model_folder(root / "model")
        folder = root / "work"  # one folder for all, because stamps contain their path
        folder.mkdir()
        counted = _children.call(_counted, what, folder)
        if counted.status != 0:
            outcome.add(
                what, f"on a good disk it ends with {counted.status}: {counted.text[-300:]}"
            )
            return
        whole, expected, writes = copied(folder, root / "whole"), names(folder), counted.value
        sizes = [(whole / name).stat().st_size for name in expected]
        for _ in range(tries):
            before = what not in FRESH and rng.random() < 0.5
            copied(whole, folder) if before else _emptied(folder)
            if rng.random() < 0.25:
                size = rng.randrange(max(sizes))
                fault = f"files of at most {size} bytes"
                ended = _children.call(_limited, what, folder, size)
            else:
                kind, at = rng.choice(list(ERRORS)), rng.randint(1, writes)
                fault = f"disk {kind} from write {at} of {writes}"
                ended = _children.call(_refused, what, folder, ERRORS[kind], at)
            problem = _problem(ended, folder, expected, before=before)
            if problem is None and ended.status:
                again = _children.call(_counted, what, folder)
                if again.status:
                    problem = f"with the disk back: {_last(again.text)}"
                elif names(folder) != expected:
                    odd = sorted(names(folder) ^ expected)[0]
                    problem = f"with the disk back: {odd} is left over or missing"
            where = "over earlier results" if before else "into an empty folder"
            outcome.add(what, problem and f"{fault}, {where}: {problem}")


def _problem(
    ended: _children.Ended, folder: Path, expected: set[str], *, before: bool
) -> str | None:
    """Description of a fault in the end of a command on a broken disk; None if there is none."""
    if ended.hung:
        return "it does not end"
    if "Traceback" in ended.text:
        return f"a traceback: {_last(ended.text)}"
    if ended.status == 0:
        missing = sorted(expected - names(folder))
        return f"it is content without {missing[0]}" if missing else None
    errors = [line for line in ended.text.splitlines() if line.startswith("error: ")]
    if ended.status != 2 or len(errors) != 1:
        return f"status {ended.status}, and it says {ended.text[-200:]!r}"
    if before:
        lost = [n for n in sorted(expected) if not intact(folder / n) and not _passing(n)]
        return f"{lost[0]} is lost or broken" if lost else None
    return None


def _passing(name: str) -> bool:
    """Whether a file may be absent in the middle of a run: newer checkpoints replace older ones."""
    return "checkpoints/step-" in name


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:300] if lines else "nothing is said"


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder
