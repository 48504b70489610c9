"""Run figures, keep their numbers with provenance, and skip what is up to date.

A figure is up to date when the stamp of an earlier run, kept beside the checkout's other
scratch output and never committed, fits, see :mod:`analysis.stamps`. So a fresh clone recomputes
everything and an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import importlib
import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import stamps, stored_results, style
from tradeoff.checkout import DATA, ROOT
from tradeoff.errors import InputError
from tradeoff.files import check_writable
from tradeoff.progress import tqdm
from tradeoff.records import plain, read_json, write_json
from tradeoff.study.engines import few_threads
from tradeoff.study.sources import fingerprint

PAPER = ROOT / "papers" / "fernando2024"
STAMPS = ROOT / "out" / "stamps"
PACKAGES = ("tradeoff", "numpy", "scipy", "numba", "pandas")
"""Packages whose versions are stored with a result."""
FIGURES = (
    "toy_trajectories",
    "loss_space",
    "explorer",
    "sequential_gap",
    "budget_splits",
    "beta_sweep",
    "convergence",
    "last_iterate",
    "interleaving",
    "stale_refresh",
    "value_error",
    "equal_compute",
    "quadratic_exact",
    "certified_front",
    "scores",
    "text_front",
)
"""Figures of the convex laboratory, in the order in which a reader meets them."""
REAL_TEXT = (
    "llm_loss_space",
    "llm_forgetting",
    "llm_table",
    "llm_bars",
    "llm_lambdas",
    "llm_references",
    "max_eval_interval",
)
"""The studies that need real text, and show their stored run where it is absent."""
STUDIES: tuple[str, ...] = (
    "bridge",
    "token_convexity",
    "lm_rates",  # The step sizes that it stores are those of the five below.
    "lm_loss_space",
    "lm_headline",
    "lm_rounds",
    "lm_forgetting",
    "lm_suppressed",
    "schedule_cost",
    *REAL_TEXT,
    "llm_resources",
    "llm_memory",
)
"""Figures of trained networks. Their full form takes minutes each and runs on request; what is
shown is the stored full run, and the fast form is run to see that it still works."""
SCRATCH = ROOT / "out" / "fast"
"""Where the fast forms of the studies go, so that they never replace a stored full run."""


@dataclass(frozen=True)
class Outcome:
    """What became of one figure."""

    name: str
    numbers: dict[str, Any]
    seconds: float
    fresh: bool
    why: str = ""
    """Why it was drawn; empty where it was up to date."""


def run(name: str, out: Path = PAPER, *, fast: bool = False, force: bool = False) -> Outcome:
    """Draw one figure and store its numbers, unless they are up to date.

    Parameters
    ----------
    name
        One of :data:`FIGURES` or :data:`STUDIES`.
    out
        Folder that receives ``figures/`` and ``results/``.
    fast
        The reduced form that the tests run: fewer replicas and steps, same code.
    force
        Recompute even what is up to date.
    """
    path = out / "results" / f"{name}.json"
    place = STAMPS / f"{name}-{hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:12]}.json"
    made = _made(name, fast)
    why = stamps.difference(place, out, made, [path, *style.files(out, name)])
    if not (force or why):
        record = read_json(path)
        return Outcome(name, record["numbers"], record["provenance"]["seconds"], fresh=False)
    started = time.perf_counter()
    draw = importlib.import_module(f"analysis.{name}").main
    # What figures factorise is small; only simulations gain from threads.
    with (
        few_threads(1, kernels=False),
        style.kept() as pictures,
        stamps.reading(PAPER, DATA) as inputs,
    ):
        numbers = plain(draw(out, fast=fast))
    seconds = round(time.perf_counter() - started, 1)
    origin = _origin(name, fast, seconds)
    if numbers.pop("source", "") == "stored run":  # Nothing was computed, so nothing is dated anew.
        origin = read_json(PAPER / "results" / path.name)["provenance"]
    if "training" in numbers:  # Stored runs: what the figure shows cost more than drawing it.
        origin["training"] = numbers.pop("training")
    # The numbers come first: they cost the time. Until the stamp fits again, nothing is up to date.
    write_json(path, {"figure": name, "numbers": numbers, "provenance": origin})
    style.write(pictures)
    inputs.pop(str(path.resolve()), None)  # A figure may show what is stored, and stores it again.
    write_json(place, stamps.stamp(out, {**made, "inputs": inputs}, [path, *pictures]))
    return Outcome(name, numbers, seconds, fresh=True, why=why or "asked for")


def run_all(
    names: Sequence[str], out: Path = PAPER, *, fast: bool, force: bool, progress: bool
) -> list[Outcome]:
    """Run figures one after the other, saying how long each took."""
    for folder, what in ((out, "output folder"), (STAMPS, "folder of stamps")):
        check_writable(folder, what=what)
    outcomes = []
    with tqdm(names, desc="figures", disable=not progress, unit="figure") as bar:
        for name in bar:
            bar.set_postfix_str(name)
            outcomes.append(run(name, out, fast=fast, force=force))
            done = outcomes[-1]
            state = f"{done.seconds:.1f} s ({done.why})" if done.fresh else "up to date"
            if progress:
                bar.write(f"  {name:<18} {state}")
    return outcomes


def reproduce(
    out: Path = PAPER, *, fast: bool, full: bool, force: bool, progress: bool
) -> list[Outcome]:
    """Run all figures, and the studies in their full or, by default, in their fast form."""
    figures = run_all(FIGURES, out, fast=fast, force=force, progress=progress)
    place = out if full else SCRATCH
    return figures + run_all(STUDIES, place, fast=not full, force=force, progress=progress)


def stored(name: str, out: Path = PAPER) -> Path:
    """The result shown for a figure; that of a study may be the paper folder's full run."""
    path = out / "results" / f"{name}.json"
    return PAPER / "results" / path.name if name in STUDIES and not path.exists() else path


def shown(name: str) -> dict[str, Any]:
    """Numbers of the stored full run of a figure, which claims and other figures read."""
    return stored_results.numbers(PAPER / "results" / f"{name}.json")


def table() -> pd.DataFrame:
    """What figures there are, what each shows, and how long it took: drawing, and its runs."""
    rows = []
    for name in FIGURES + STUDIES:
        path = stored(name)
        shows = (importlib.import_module(f"analysis.{name}").__doc__ or "").split("\n")[0]
        origin: dict[str, Any] = {"seconds": float("nan")}
        with suppress(InputError):
            origin = stored_results.read(path)["provenance"]
        seconds = origin["seconds"] + origin.get("training", {}).get("cpu_seconds", 0.0)
        rows.append({"figure": name, "shows": shows, "seconds": seconds})
    return pd.DataFrame(rows)


@cache
def sources(name: str) -> str:
    """Hash of every definition that drawing a figure reaches."""
    return fingerprint([f"analysis.{name}:main"])


@cache
def versions(*more: str) -> dict[str, str]:
    """Versions of :data:`PACKAGES` and of some more."""
    return {package: version(package) for package in (*PACKAGES, *more)}


def _made(name: str, fast: bool) -> dict[str, Any]:
    """What a figure is made of, but for the files that it reads."""
    return {
        "figure": name,
        "form": "fast" if fast else "full",
        "sources": sources(name),
        "python": platform.python_version(),
        "packages": versions("matplotlib"),
    }


def _origin(name: str, fast: bool, seconds: float) -> dict[str, Any]:
    return {
        "command": f"python -m analysis {name}{' --fast' if fast else ''}",
        "form": "fast" if fast else "full",
        "seconds": seconds,
        "python": platform.python_version(),
        "packages": versions(),
        "sources": sources(name)[:16],
    }
