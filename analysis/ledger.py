"""The ledger of claims: each statement of claims.toml is computed, judged, and made to fail.

A claim's ``code`` names a function ``claim_...(fast=False, mutation=None)`` that returns a
:class:`tradeoff.Checked`. Each of its ``mutations`` is a deliberate mistake (see
:mod:`analysis.mutations`) with which the same function must return one that does not hold.
"""

from __future__ import annotations

import importlib
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.mutations import reject_unknown
from analysis.runner import PAPER
from tradeoff.errors import InputError
from tradeoff.files import check_writable
from tradeoff.progress import tqdm
from tradeoff.records import write_json
from tradeoff.study.engines import few_threads
from tradeoff.theory.checked import Checked

KINDS = {
    "identity": "an equality that mathematics gives: a check of the code",
    "certificate": "a computed bound that encloses what it certifies: a check of the code",
    "upper": "a theorem's bound from above, on every instance named",
    "lower": "a theorem's bound from below, on every instance named",
    "finding": "a comparison that could have come out otherwise, with an interval",
    "regression": "a property of this implementation, such as memory or a count, that is kept",
    "against": "a finding that speaks against the paper, the method or a reading of either",
}
"""What kinds of claims there are. Only findings, and those against, say something of the world."""
RELATIONS = {
    "identity": ("exact",),
    "certificate": ("upper", "lower"),
    "upper": ("upper",),
    "lower": ("lower",),
}
"""What a claim of a kind returns; the other kinds may return anything."""
READS = ("computed", "stored")


@dataclass(frozen=True)
class Claim:
    """One entry of claims.toml.

    Attributes
    ----------
    id
        Unique name.
    statement
        What is said, with its quantifiers.
    over
        The instances, weights lambda and seeds that are looked at.
    kind
        One of :data:`KINDS`.
    source
        Who says it.
    code
        ``module:function`` that computes it.
    reads
        "computed": everything is computed now; "stored": the numbers of a stored run are read.
    tolerance
        The slack allowed, the thresholds, and when these were set.
    mutations
        Names of the mistakes that must break the claim.
    """

    id: str
    statement: str
    over: str
    kind: str
    source: str
    code: str
    reads: str
    tolerance: str
    mutations: tuple[str, ...]

    def check(self, fast: bool = False, mutation: str | None = None) -> Checked:
        """Compute the claim, or what becomes of it under one of its mutations.

        Raises
        ------
        InputError
            If the claim has no such mutation.
        """
        reject_unknown(mutation, self.mutations)
        module, function = self.code.split(":")
        settings = {} if mutation is None else {"mutation": mutation}
        return getattr(importlib.import_module(module), function)(fast=fast, **settings)


FIELDS = tuple(field.name for field in fields(Claim))


def claims(path: Path = PAPER / "claims.toml") -> list[Claim]:
    """Read and check the ledger."""
    entries = tomllib.loads(path.read_text("utf-8"))["claim"]
    seen: set[str] = set()
    for row, entry in enumerate(entries, start=1):
        for field, problem, remedy in _mistakes(entry, seen):
            raise InputError(
                problem, file=path, row=row, field=field, value=entry.get(field), remedy=remedy
            )
        seen.add(entry["id"])
    return [Claim(**{**entry, "mutations": tuple(entry["mutations"])}) for entry in entries]


def _mistakes(entry: Mapping[str, Any], seen: set[str]) -> Iterable[tuple[str, str, str]]:
    """(field, problem, remedy) of everything wrong in an entry, the first one first."""
    for field in sorted(set(entry) ^ set(FIELDS)):
        yield (
            field,
            "a claim has exactly these fields: " + ", ".join(FIELDS),
            "Add what is missing and remove what is not in the list.",
        )
    if set(entry) != set(FIELDS):
        return
    if entry["id"] in seen:
        yield "id", "two claims share an id", "Ids are unique."
    if entry["kind"] not in KINDS:
        yield "kind", "unknown kind", f"Kinds are {', '.join(KINDS)}."
    if entry["reads"] not in READS:
        yield "reads", "neither computed nor stored", f"Use one of {', '.join(READS)}."
    names = entry["mutations"]
    if not isinstance(names, list) or len(set(names)) != len(names):
        yield "mutations", "not a list of different names", "Name each mutation once."


def check(
    out: Path = PAPER,
    names: Sequence[str] | None = None,
    *,
    fast: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Compute claims and return one row each, with its verdict; all of them are also stored.

    ``measured`` and ``bound`` are those of the entry with the least slack where a claim has many.
    """
    wanted = _named(names)
    if not names:
        check_writable(out)
    with few_threads(1, kernels=False):
        rows = [
            _verdict(claim, fast)
            for claim in tqdm(wanted, desc="claims", disable=not progress, leave=False)
        ]
    if not names:
        write_json(
            out / "results" / "claims.json", {"form": "fast" if fast else "full", "claims": rows}
        )
    return pd.DataFrame(rows)


def mutate(
    names: Sequence[str] | None = None, *, fast: bool = True, progress: bool = True
) -> pd.DataFrame:
    """Run every mutation of the claims; one row each, with whether it broke its claim.

    Parameters
    ----------
    names
        Ids of claims; all by default.
    fast
        The reduced form of the claims, which the tests run.
    progress
        Show a progress bar.

    Returns
    -------
    DataFrame
        Columns id, mutation, measured, bound, relation, broken, seconds.
    """
    jobs = [(claim, mutation) for claim in _named(names) for mutation in claim.mutations]
    rows = []
    with few_threads(1, kernels=False):
        for claim, mutation in tqdm(jobs, desc="mutations", disable=not progress, leave=False):
            started = time.perf_counter()
            checked = claim.check(fast, mutation)
            row = {"id": claim.id, "mutation": mutation, **_tightest(checked)}
            broken, seconds = not checked.holds, round(time.perf_counter() - started, 2)
            rows.append({**row, "broken": broken, "seconds": seconds})
    columns = ("id", "mutation", "measured", "bound", "relation", "cases", "broken", "seconds")
    return pd.DataFrame(rows, columns=columns)


def counts(verdicts: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many claims there are of each sort: what README, dossier and report say of the ledger.

    Returns
    -------
    dict
        ``checks`` (identities and certificates), ``bounds``, ``findings``, ``regressions``,
        ``against``, ``computed``, ``stored``, ``failing`` and ``total``.
    """
    rows = list(verdicts)
    kinds = Counter(row["kind"] for row in rows)
    reads = Counter(row["reads"] for row in rows)
    return {
        "checks": kinds["identity"] + kinds["certificate"],
        "bounds": kinds["upper"] + kinds["lower"],
        "findings": kinds["finding"],
        "regressions": kinds["regression"],
        "against": kinds["against"],
        "computed": reads["computed"],
        "stored": reads["stored"],
        "failing": sum(not row["holds"] for row in rows),
        "total": len(rows),
    }


def summary(verdicts: Iterable[Mapping[str, Any]]) -> str:
    """The counts as the sentence that every page shows."""
    found = counts(verdicts)
    sorts = ", ".join(
        _counted(found[key], one, many)
        for key, one, many in (
            ("checks", "identity or certificate", "identities and certificates"),
            ("bounds", "bound", "bounds"),
            ("findings", "finding", "findings"),
            ("regressions", "regression", "regressions"),
        )
    )
    failing = _counted(found["failing"], "claim fails", "claims fail") if found["failing"] else ""
    return (
        f"{sorts}, {found['against']} against us; "
        f"{found['computed']} computed now, {found['stored']} from stored runs"
        + (f"; {failing}" if failing else "")
    )


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _named(names: Sequence[str] | None) -> list[Claim]:
    known = claims()
    if unknown := sorted(set(names or ()) - {claim.id for claim in known}):
        raise InputError(
            "no such claim",
            value=unknown[0],
            remedy="`tradeoff claims` without a name lists them all.",
        )
    return [claim for claim in known if not names or claim.id in names]


def _verdict(claim: Claim, fast: bool) -> dict[str, Any]:
    checked = claim.check(fast)
    entry = {name: getattr(claim, name) for name in FIELDS}
    return {**entry, **_tightest(checked), "holds": checked.holds}


def _tightest(checked: Checked) -> dict[str, Any]:
    """Relation, measured value and bound of the case with the least slack, number of cases."""
    measured, bound = np.broadcast_arrays(np.asarray(checked.measured), np.asarray(checked.bound))
    sign = {"upper": 1, "lower": -1}.get(checked.kind)
    excess = np.abs(measured - bound) if sign is None else sign * (measured - bound)
    tightest = int(np.argmax(excess))
    return {
        "relation": checked.kind,
        "measured": float(measured.flat[tightest]),
        "bound": float(bound.flat[tightest]),
        "cases": int(measured.size),
    }
