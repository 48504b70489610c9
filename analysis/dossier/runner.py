"""Runner of figures: it stores their numbers with provenance and skips what is up to date.

A figure is up to date if it fits the stamp of an earlier run, see :mod:`analysis.dossier.stamps`.
Stamps are scratch files and never committed. So a fresh clone recomputes everything, and an
interrupted run goes on where it stopped. A stored result changes only if a number does: equal
numbers keep the provenance of the first run.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.dossier import lookup, stamps, stored_results, style
from analysis.dossier.declaration import Dossier
from analysis.dossier.stored_results import fitting
from tradeoff.checkout import DATA, WORK
from tradeoff.errors import InputError
from tradeoff.files import check_writable
from tradeoff.progress import tqdm
from tradeoff.records import plain, read_json, write_json
from tradeoff.study.engines import few_threads
from tradeoff.study.sources import fingerprint

STAMPS = WORK / "stamps"
PACKAGES = ("tradeoff", "numpy", "scipy", "numba", "pandas")
"""Packages whose versions are stored with a result."""
SCRATCH = WORK / "fast"
"""Folder for the fast forms of the studies, so that they never replace a stored full run."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one figure."""

    name: str
    numbers: dict[str, Any]
    seconds: float
    fresh: bool
    why: str = ""
    """Why it was drawn; empty where it was up to date."""
    borrowed: tuple[str, ...] = ()
    """Figures whose results it read from the paper's folder, as they are not in its own."""


def run(
    dossier: Dossier,
    name: str,
    out: Path | None = None,
    *,
    fast: bool = False,
    force: bool = False,
    twin: Path | None = None,
) -> Outcome:
    """Draw one figure and store its numbers, unless they are up to date.

    Parameters
    ----------
    dossier
        The dossier of the figure.
    name
        Name of the figure or study.
    out
        Folder that receives ``figures/`` and ``results/``; the dossier's own by default.
    fast
        Use the reduced form, which the tests run: fewer replicas and updates, the same code.
    force
        Recompute also what is up to date.
    twin
        Another folder of the dossier. What is up to date there is copied, not computed.
    """
    out = out or dossier.folder
    path = out / "results" / f"{name}.json"
    place = _stamp(name, out)
    made = _made(dossier.dotted(name), fast)
    why = stamps.difference(place, out, made, _files(name, out))
    if not force and (not why or (twin is not None and _copied(name, twin, out, made))):
        record = read_json(path)
        return Outcome(name, record["numbers"], record["provenance"]["seconds"], fresh=False)
    started = time.perf_counter()
    draw = dossier.module(name).main
    # Figures factorise only small matrices; only simulations gain from threads.
    with (
        few_threads(1, kernels=False),
        style.kept() as pictures,
        stamps.reading(dossier.folder, out, DATA) as inputs,
        lookup.reading_from(out) as borrowed,
    ):
        numbers = plain(draw(out, fast=fast))
        stored = numbers.pop("source", "") == "stored run"
        source = lookup.place(dossier.folder, name) if stored else None
    seconds = round(time.perf_counter() - started, 1)
    origin = _origin(dossier, name, fast, seconds)
    if source is not None:  # Nothing was computed, so nothing is dated anew.
        origin = read_json(source)["provenance"]
    if "training" in numbers:  # Stored runs: what the figure shows cost more than drawing it.
        origin["training"] = numbers.pop("training")
    origin = _of_the_same_numbers(path, numbers, origin)
    # Numbers are written first, as they cost the time. The figure is up to date only with its
    # stamp.
    write_json(path, {"figure": name, "numbers": numbers, "provenance": origin})
    style.write(pictures)
    borrowed.pop(name, None)  # A figure may show what is stored, and stores it again.
    inputs.pop(str(path.resolve()), None)
    inputs |= {str(own.resolve()): stamps.digest(own) for own in borrowed.values()}
    write_json(place, stamps.stamp(out, {**made, "inputs": inputs}, [path, *pictures]))
    return Outcome(name, numbers, seconds, True, why or "asked for", tuple(borrowed))


def redraw(dossier: Dossier, name: str, out: Path | None = None) -> list[Path]:
    """Draw a figure from its stored numbers alone, by its ``picture(out, numbers)``.

    Parameters
    ----------
    dossier
        Whose figure it is.
    name
        The figure or study.
    out
        Folder that receives the picture, and whose result is drawn, if it has one; the dossier's
        own by default.

    Returns
    -------
    list
        The files of the picture.

    Raises
    ------
    InputError
        If the figure needs more than its numbers, or these are absent or do not fit.
    """
    out = out or dossier.folder
    module = dossier.module(name)
    if not hasattr(module, "picture"):
        raise InputError(
            "this figure needs more than its stored numbers",
            value=name,
            remedy=f"Run it: tradeoff figures {name} --force.",
        )
    path = dossier.stored(name, out)
    numbers = stored_results.numbers(path if path.exists() else dossier.stored(name))
    with style.kept() as pictures, fitting(f"the picture of {name}"):
        module.picture(out, numbers)
    style.write(pictures)
    return list(pictures)


def run_all(
    dossier: Dossier,
    names: Sequence[str],
    out: Path | None = None,
    *,
    fast: bool,
    force: bool,
    progress: bool,
    twin: Path | None = None,
) -> list[Outcome]:
    """Run figures one after the other, and print the time of each."""
    out = out or dossier.folder
    for folder, what in ((out, "output folder"), (STAMPS, "folder of stamps")):
        check_writable(folder, what=what)
    outcomes = []
    with tqdm(names, desc="figures", disable=not progress, unit="figure") as bar:
        for name in bar:
            bar.set_postfix_str(name)
            outcomes.append(run(dossier, name, out, fast=fast, force=force, twin=twin))
            done = outcomes[-1]
            state = f"{done.seconds:.1f} s ({done.why})" if done.fresh else "up to date"
            if progress:
                bar.write(f"  {name:<18} {state}")
            if progress and done.borrowed:
                names_read = ", ".join(done.borrowed)
                bar.write(f"  {'':<18} reads the paper's stored results of {names_read}")
    return outcomes


def reproduce(
    dossier: Dossier,
    out: Path | None = None,
    *,
    fast: bool,
    full: bool,
    force: bool,
    progress: bool,
    twin: Path | None = None,
) -> list[Outcome]:
    """Run all figures, and the studies in their full or, by default, in their fast form."""
    place = out if full else SCRATCH / dossier.package.rpartition(".")[2]
    again = twin if full else None
    studies = partial(run_all, dossier, dossier.studies, place, fast=not full, twin=again)
    figures = partial(run_all, dossier, dossier.figures, out, fast=fast, twin=twin)
    # Figures read what full studies find; the fast forms are worth nothing to them.
    order = (studies, figures) if full else (figures, studies)
    return [done for draw in order for done in draw(force=force, progress=progress)]


def table(dossier: Dossier) -> pd.DataFrame:
    """Table of all figures: what each shows, and the time of drawing and of its runs."""
    rows = []
    for name in dossier.figures + dossier.studies:
        path = dossier.stored(name)
        origin: dict[str, Any] = {"seconds": float("nan")}
        with suppress(InputError):
            origin = stored_results.read(path)["provenance"]
        seconds = origin["seconds"] + origin.get("training", {}).get("cpu_seconds", 0.0)
        rows.append({"figure": name, "shows": dossier.asks(name), "seconds": seconds})
    return pd.DataFrame(rows)


def _stamp(name: str, out: Path) -> Path:
    """File of the stamp of a figure in a folder."""
    return STAMPS / f"{name}-{hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:12]}.json"


def _files(name: str, out: Path) -> list[Path]:
    """The result of a figure and its pictures."""
    return [out / "results" / f"{name}.json", *style.files(out, name)]


def _copied(name: str, twin: Path, out: Path, made: dict[str, Any]) -> bool:
    """Copy a figure from a folder in which it is up to date; False if it is not."""
    theirs, files = _stamp(name, twin), _files(name, twin)
    if stamps.difference(theirs, twin, made, files):
        return False
    inputs = stamps.moved(read_json(theirs)["inputs"], twin, out)
    path, *pictures = _files(name, out)
    record = read_json(files[0])
    origin = _of_the_same_numbers(path, record["numbers"], record["provenance"])
    write_json(path, {**record, "provenance": origin})
    style.write({new: old.read_bytes() for new, old in zip(pictures, files[1:], strict=True)})
    write_json(_stamp(name, out), stamps.stamp(out, {**made, "inputs": inputs}, [path, *pictures]))
    return True


def _of_the_same_numbers(
    path: Path, numbers: dict[str, Any], origin: dict[str, Any]
) -> dict[str, Any]:
    """Provenance of an earlier run of this form if it stored the same numbers, else `origin`.

    So a file changes only if a number does, and drawing a figure again does not change a checkout.
    """
    with suppress(InputError):
        stored_results.read(path)  # rejects a damaged file
        stored = read_json(path)
        if stored["numbers"] == numbers and stored["provenance"]["form"] == origin["form"]:
            return dict(stored["provenance"])
    return origin


@cache
def sources(module: str) -> str:
    """Hash of every definition that the drawing of a module's figure uses."""
    return fingerprint([f"{module}:main"])


@cache
def versions(*more: str) -> dict[str, str]:
    """Versions of :data:`PACKAGES` and of further packages."""
    return {package: version(package) for package in (*PACKAGES, *more)}


def _made(module: str, fast: bool) -> dict[str, Any]:
    """Everything that a figure depends on, except the files that it reads."""
    return {
        "figure": module.rpartition(".")[2],
        "form": "fast" if fast else "full",
        "sources": sources(module),
        "python": platform.python_version(),
        "packages": versions("matplotlib"),
    }


def _origin(dossier: Dossier, name: str, fast: bool, seconds: float) -> dict[str, Any]:
    return {
        "command": f"python -m analysis {name}{' --fast' if fast else ''}",
        "form": "fast" if fast else "full",
        "seconds": seconds,
        "python": platform.python_version(),
        "packages": versions(),
        "sources": sources(dossier.dotted(name))[:16],
    }
