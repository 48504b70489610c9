"""Runner of the attacks: it finds them, runs them in parallel, and reports their counts."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.attack._outcome import Outcome

FOLDER = Path(__file__).parent
STORED = FOLDER / "counts.json"
"""Counts of the last long run of each attack, which the documentation shows."""


def known() -> list[str]:
    """Names of all attacks."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


def attack(name: str) -> ModuleType:
    """The module of an attack."""
    return import_module(f"tests.attack.{name}")


def run(
    names: Sequence[str], *, full: bool, tries: int | None, seed: int, jobs: int
) -> dict[str, Any]:
    """Run each attack in its own process, and print a line when it is done."""
    found: dict[str, Any] = {}
    if jobs == 0:
        found = dict(_run_one(name, full, tries, seed) for name in names)
        return found
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _quiet, max_tasks_per_child=1) as pool:
        futures = [pool.submit(_run_one, name, full, tries, seed) for name in names]
        for future in as_completed(futures):
            name, record = future.result()
            found[name] = record
            print(f"{name}: {record['failures']} of {record['tries']} fail, "
                  f"{record['seconds']:.0f} s", file=sys.stderr, flush=True)  # fmt: skip
            # Failures are printed at once, as a long run may be stopped.
            for text in record["examples"]:
                print(f"  {text}", file=sys.stderr, flush=True)
    return {name: found[name] for name in names}


def table(record: dict[str, Any]) -> str:
    """Format promise, tries and failures of each attack, its kinds, and its failures."""
    lines = [f"{'promise':92}{'tries':>9}{'failures':>10}"]
    for name, one in record.items():
        lines.append(f"{f'{name}: ' + one['promise']:92}{one['tries']:9,}{one['failures']:10,}")
        lines += [
            f"    {kind:88}{n['tries']:9,}{n['failures']:10,}" for kind, n in one["kinds"].items()
        ]
    for name, one in record.items():
        lines += [f"{name}: {text}" for text in one["examples"]]
    total = [sum(one[key] for one in record.values()) for key in ("failures", "tries")]
    return "\n".join([*lines, f"{total[0]} failures in {total[1]:,} tries"])


def store(record: dict[str, Any], path: Path) -> None:
    """Write the counts; stored counts of other attacks stay."""
    before = json.loads(path.read_text("utf-8")) if path.exists() else {}
    found = dict(sorted({**before, **record}.items()))
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")


def _quiet() -> None:
    """Redirect the output of commands, as only the counts matter here."""
    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(null, descriptor)


def _run_one(name: str, full: bool, tries: int | None, seed: int) -> tuple[str, dict[str, Any]]:
    from tests.attack import _children

    _children.preload()
    module, started = attack(name), time.monotonic()
    count = tries or (module.FULL if full else module.TRIES)
    try:
        outcome = module.run(count, seed)
    except Exception:
        # The attack itself is broken, which must not count as a kept promise.
        outcome = Outcome()
        outcome.add("the attack itself", traceback.format_exc())
    seconds = round(time.monotonic() - started, 1)
    size = f"--tries {tries}" if tries else "--full" if full else ""
    command = " ".join(filter(None, ["python -m tests.attack", name, size, f"--seed {seed}"]))
    about = {"promise": module.PROMISE, "command": command}
    return name, {**about, **outcome.record(), "seconds": seconds}
