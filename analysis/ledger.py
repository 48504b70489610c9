"""The ledger of claims: each statement of claims.toml is computed and judged.

A claim's ``code`` names a function ``claim_...(fast=False)`` that returns a
:class:`tradeoff.Checked`; nothing in the ledger is typed by hand but the sentences.
"""

from __future__ import annotations

import importlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.runner import PAPER
from tradeoff.errors import InputError
from tradeoff.progress import tqdm
from tradeoff.records import write_json
from tradeoff.study.engines import few_threads
from tradeoff.theory.checked import Checked

KINDS = ("exact", "upper", "lower", "trend")
FIELDS = ("id", "statement", "source", "kind", "code", "tolerance")


@dataclass(frozen=True)
class Claim:
    """One entry of claims.toml."""

    id: str
    statement: str
    source: str
    kind: str
    code: str
    tolerance: str

    def check(self, fast: bool = False) -> Checked:
        """Compute the claim."""
        module, function = self.code.split(":")
        return getattr(importlib.import_module(module), function)(fast=fast)


def claims(path: Path = PAPER / "claims.toml") -> list[Claim]:
    """Read and check the ledger."""
    entries = tomllib.loads(path.read_text("utf-8"))["claim"]
    seen: set[str] = set()
    for row, entry in enumerate(entries, start=1):
        if set(entry) != set(FIELDS):
            wrong = sorted(set(entry) ^ set(FIELDS))
            raise InputError(
                "a claim has exactly these fields: " + ", ".join(FIELDS),
                file=path,
                row=row,
                field=wrong[0],
                remedy="Add what is missing and remove what is not in the list.",
            )
        if entry["kind"] not in KINDS or entry["id"] in seen:
            field = "id" if entry["id"] in seen else "kind"
            raise InputError(
                "unknown kind" if field == "kind" else "two claims share an id",
                file=path,
                row=row,
                field=field,
                value=entry[field],
                remedy=f"Kinds are {', '.join(KINDS)}; ids are unique.",
            )
        seen.add(entry["id"])
    return [Claim(**entry) for entry in entries]


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
    known = claims()
    if unknown := sorted(set(names or ()) - {claim.id for claim in known}):
        raise InputError(
            "no such claim",
            value=unknown[0],
            remedy="`tradeoff claims` without a name lists them all.",
        )
    wanted = [claim for claim in known if not names or claim.id in names]
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


def _verdict(claim: Claim, fast: bool) -> dict[str, Any]:
    checked = claim.check(fast)
    measured, bound = np.broadcast_arrays(np.asarray(checked.measured), np.asarray(checked.bound))
    sign = {"upper": 1, "lower": -1}.get(checked.kind)
    excess = np.abs(measured - bound) if sign is None else sign * (measured - bound)
    tightest = int(np.argmax(excess))
    return {
        "id": claim.id,
        "statement": claim.statement,
        "source": claim.source,
        "kind": claim.kind,
        "relation": checked.kind,
        "measured": float(measured.flat[tightest]),
        "bound": float(bound.flat[tightest]),
        "cases": int(measured.size),
        "tolerance": claim.tolerance,
        "code": claim.code,
        "holds": checked.holds,
    }
