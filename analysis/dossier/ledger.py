"""The ledger of claims: each claim of claims.toml is computed, judged, and tested by mutations.

A claim's ``code`` names a function ``claim_...(fast=False, mutation=None)`` that returns a
:class:`tradeoff.Checked`. Each of its ``mutations`` is a deliberate mistake (see
:mod:`analysis.dossier.mutations`); with it, the same function must return a `Checked` that does not
hold.
"""

from __future__ import annotations

import importlib
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import pandas as pd

from analysis.dossier import lookup
from analysis.dossier.declaration import Dossier
from analysis.dossier.mutations import reject_unknown
from analysis.dossier.stored_results import fields_of, fitting
from tradeoff.errors import InputError
from tradeoff.files import check_writable
from tradeoff.progress import tqdm
from tradeoff.records import load_toml, write_json
from tradeoff.settings import Within, build
from tradeoff.settings import check as check_settings
from tradeoff.study.engines import few_threads
from tradeoff.study.modules import locate
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
"""The kinds of claims. Only findings, for or against, are statements about the world."""
RELATIONS = {
    "identity": ("exact",),
    "certificate": ("upper", "lower"),
    "upper": ("upper",),
    "lower": ("lower",),
}
"""Relation that a claim of a kind returns; other kinds may return any relation."""
_CODE = re.compile(r"(\w+(?:\.\w+)*):(claim\w*)")
LEDGER = "claims.toml"
C = TypeVar("C", bound="Claim")


@dataclass(frozen=True)
class Claim:
    """One entry of claims.toml.

    Attributes
    ----------
    id
        Unique name.
    statement
        The statement, with its quantifiers.
    over
        The instances, weights lambda and seeds that are checked.
    kind
        One of :data:`KINDS`.
    source
        Source of the statement.
    code
        ``module:function`` that computes the claim.
    reads
        "computed": everything is computed now. "stored": the numbers of a stored run are read.
    tolerance
        The slack allowed, the thresholds, and when these were set.
    mutations
        Names of the mutations that must break the claim.
    """

    id: str
    statement: str
    over: str
    kind: Literal["identity", "certificate", "upper", "lower", "finding", "regression", "against"]
    source: str
    code: str
    reads: Literal["computed", "stored"]
    tolerance: str
    mutations: tuple[str, ...]

    def __post_init__(self) -> None:
        check_settings(self)
        for field in FIELDS:
            if getattr(self, field) == "":
                raise InputError("it is empty", field=field, remedy="Say it.")
        if len(set(self.mutations)) != len(self.mutations):
            raise InputError(
                "a mutation is listed twice",
                field="mutations",
                value=self.mutations,
                remedy="Name each mutation once.",
            )
        if not _CODE.fullmatch(self.code):
            remedy = "Name a function as package.chapter.module:claim_name."
            raise InputError("no claim function", field="code", value=self.code, remedy=remedy)

    def check(self, fast: bool = False, mutation: str | None = None) -> Checked:
        """Compute the claim, or the claim under one of its mutations.

        Raises
        ------
        InputError
            If the claim has no such mutation.
        """
        reject_unknown(mutation, self.mutations)
        module, function = self.code.split(":")
        settings = {} if mutation is None else {"mutation": mutation}
        with fitting(f"the claim {self.id}"):
            found = getattr(importlib.import_module(module), function)(fast=fast, **settings)
        assert isinstance(found, Checked)
        return found


FIELDS = tuple(field.name for field in fields(Claim))


@dataclass(frozen=True)
class Verdict(Claim):
    """A claim in ``claims.json``: its entry, and the case with the least slack.

    Attributes
    ----------
    relation
        Relation of the measured value to the bound: "upper", "lower" or "exact".
    measured, bound
        Measured value and bound of that case; None if not finite.
    cases
        Number of cases.
    holds
        Whether the claim holds in all of them.
    """

    relation: Literal["upper", "lower", "exact"]
    measured: float | None
    bound: float | None
    cases: Annotated[int, Within(1, 10**9)]
    holds: bool


def claims(path: Path) -> list[Claim]:
    """Read and check the ledger.

    Raises
    ------
    InputError
        For the first entry that cannot be used; it names the file, the entry and the field.
    """
    table = load_toml(path, remedy="Correct it, or take the file of the repository.")
    found = _entries(Claim, table.pop("claim", None), path, "claim")
    if table:
        raise InputError(
            "the ledger holds claims alone",
            file=path,
            field=next(iter(table)),
            remedy="Begin every entry with [[claim]].",
        )
    for row, claim in enumerate(found, start=1):
        if not _defined(claim.code):
            raise InputError(
                "there is no such function",
                file=path,
                row=row,
                field="code",
                value=claim.code,
                remedy="Write it, or correct the name.",
            )
    return found


def verdicts(path: Path) -> list[dict[str, Any]]:
    """Read the stored verdicts of the last run of all claims; values that are not finite are NaN.

    Raises
    ------
    InputError
        For the first verdict that cannot be used; it names the file, its number and the field.
    """
    found = fields_of(path)
    if found["form"] not in ("fast", "full"):
        remedy = "Compute them anew: tradeoff claims."
        raise InputError(
            "neither fast nor full", file=path, field="form", value=found["form"], remedy=remedy
        )
    rows = [asdict(row) for row in _entries(Verdict, found["claims"], path, "claims")]
    return [{k: float("nan") if v is None else v for k, v in row.items()} for row in rows]


def _entries(kind: type[C], entries: Any, path: Path, field: str) -> list[C]:
    """Check that there are entries and that their ids differ."""
    if not isinstance(entries, list) or not entries:
        remedy = "Give a list of claims, as the repository has it."
        raise InputError(
            "there are no claims", file=path, field=field, value=entries, remedy=remedy
        )
    found = [build(kind, entry, file=str(path), row=row) for row, entry in enumerate(entries, 1)]
    seen: set[str] = set()
    for row, claim in enumerate(found, start=1):
        if claim.id in seen:
            raise InputError(
                "two claims share an id",
                file=path,
                row=row,
                field="id",
                value=claim.id,
                remedy="Ids are unique.",
            )
        seen.add(claim.id)
    return found


def _defined(code: str) -> bool:
    """Whether a module has this function; the module is not imported."""
    found = _CODE.fullmatch(code)
    assert found
    source = locate(found[1])
    written = source.read_text("utf-8") if source else ""
    return re.search(rf"^def {found[2]}\(", written, re.MULTILINE) is not None


def check(
    dossier: Dossier,
    out: Path | None = None,
    names: Sequence[str] | None = None,
    *,
    fast: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Compute claims and return a row with the verdict of each; all of them are also stored.

    ``measured`` and ``bound`` are those of the case with the least slack.
    """
    wanted, out = _named(dossier, names), out or dossier.folder
    if not names:
        check_writable(out)
    with few_threads(1, kernels=False), lookup.reading_from(out) as borrowed:
        rows = [
            _verdict(claim, fast)
            for claim in tqdm(wanted, desc="claims", disable=not progress, leave=False)
        ]
    if progress and borrowed:
        tqdm.write(f"  claims read the paper's stored results of {', '.join(borrowed)}")
    if not names:
        write_json(
            out / "results" / "claims.json", {"form": "fast" if fast else "full", "claims": rows}
        )
    return pd.DataFrame(rows)


def mutate(
    dossier: Dossier,
    names: Sequence[str] | None = None,
    *,
    fast: bool = True,
    progress: bool = True,
) -> pd.DataFrame:
    """Run every mutation of the claims; a row says whether the mutation broke its claim.

    Parameters
    ----------
    dossier
        The dossier of the claims.
    names
        Ids of claims; all by default.
    fast
        Use the reduced form of the claims, which the tests run.
    progress
        Show a progress bar.

    Returns
    -------
    DataFrame
        Columns id, mutation, measured, bound, relation, broken, seconds.
    """
    jobs = [(claim, mutation) for claim in _named(dossier, names) for mutation in claim.mutations]
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
    """Count the claims of each sort, for README, dossier and report.

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
    """The counts as a sentence, which every page shows."""
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


def stored(dossier: Dossier, names: Sequence[str] | None = None) -> pd.DataFrame:
    """Verdicts of the last run of all claims, or of some of them, as :func:`check` returns them."""
    wanted = {claim.id for claim in _named(dossier, names)}
    rows = verdicts(dossier.folder / "results" / "claims.json")
    return pd.DataFrame([row for row in rows if row["id"] in wanted])


def _named(dossier: Dossier, names: Sequence[str] | None) -> list[Claim]:
    known = claims(dossier.folder / LEDGER)
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
    """Relation, measured value and bound of the case with the least slack, and number of cases."""
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
