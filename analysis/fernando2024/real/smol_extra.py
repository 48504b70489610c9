"""Runs beyond the comparison on SmolLM2: five weights, references, relearning, and step sizes.

Each kind lays out its runs for one pair of data sets, from the step sizes and optima of the
comparison, and says what was found. None is run unless it is asked for, as each costs about as much
as the comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from analysis.fernando2024.methods import cost, finals
from analysis.fernando2024.real import smol_methods
from analysis.fernando2024.real.llm_lambdas import EPOCHS
from analysis.fernando2024.real.smol_plan import BACK, TWIN, Form, configuration, cpu_seconds, own
from analysis.fernando2024.real.smol_scores import LOSSES, cell_of
from tradeoff.methods import Method
from tradeoff.schedules import Sequential

SWEPT = ("sft-dpo", "dpo-sft", "alright", "mix", "maxright")
REFERENCES = ("sft", "chosen")
"""References beside the base model: after SFT on demonstrations, or on chosen responses."""
AGAINST = ("sft-dpo", "dpo-sft", "alright")
FORGOT = ("sft-dpo", "dpo-sft", "alright", "rounds-4")
STEPPED = ("sft-dpo", "alright")
SHARES = (0.125, BACK, 0.5, 1.0)
"""Step sizes on pairs in a method, as shares of the best one on pairs alone."""


def configurations(
    kind: str, form: Form, pair: str, both: tuple[float, float], optima: list[float]
) -> list[dict[str, Any]]:
    """The runs of a kind for one pair of data sets, seed by seed.

    Parameters
    ----------
    kind
        One of :data:`smol_plan.EXTRAS`.
    form, pair
        Size of the study, and the pair.
    both
        Step sizes of (SFT, preference).
    optima
        Least training losses of both objectives.
    """
    found = []
    for seed in range(form.few):
        for name, changes in _laid(kind, form):
            method = Method.from_dict(changes["method"]) if "method" in changes else None
            method = method or smol_methods.named(name)
            known = optima if smol_methods.looks(method) else None
            changes = {"optima": known, **changes}
            share = changes.pop("share", BACK)
            rates = own(name, (both[0], both[1] / BACK * share))
            if kind in ("references", "relearning"):
                # Other runs of SFT belong to it, whose step size need not be that of the method.
                changes["sft_rate"] = both[0]
            found.append(configuration(form, pair, name, seed, rates, **changes))
    return found


def _laid(kind: str, form: Form) -> list[tuple[str, dict[str, Any]]]:
    """Methods of one seed, each with what changes in its configuration."""
    kinds = {"lambdas": _swept, "references": _against, "relearning": _forgot, "steps": _stepped}
    return kinds[kind](form)


def _swept(form: Form) -> list[tuple[str, dict[str, Any]]]:
    """Every method at every weight; only its ends are evaluated.

    The runs of the comparison are shared.
    """
    found: list[tuple[str, dict[str, Any]]] = []
    for lam in form.lams:
        for name in SWEPT:
            if lam == smol_methods.LAM:
                found.append((name, {}))
                continue
            method = at(name, lam)
            count = smol_methods.updates(method, form.budget, form.batch)
            changes = {"method": method.to_dict(), "updates": count, "marks": 1}
            found.append((name, changes))
    return found


def at(name: str, lam: float) -> Method:
    """A method at a weight; sequential ones share the updates as the paper does."""
    method = smol_methods.METHODS[name]
    schedule = method.schedule
    if isinstance(schedule, Sequential):
        preference, sft = EPOCHS[lam]
        share = preference / (preference + sft)
        first = share if schedule.first == "preference" else 1 - share
        return replace(method, schedule=replace(schedule, lam=lam, share=first))
    return replace(method, schedule=replace(schedule, lam=lam))


def _against(form: Form) -> list[tuple[str, dict[str, Any]]]:
    return [(name, {"reference": kind, "marks": 1}) for kind in REFERENCES for name in AGAINST]


def _forgot(form: Form) -> list[tuple[str, dict[str, Any]]]:
    return [(name, {"relearn": form.relearn}) for name in FORGOT]


def _stepped(form: Form) -> list[tuple[str, dict[str, Any]]]:
    """Two methods at every step size on pairs, all in fp32, as rounding decides how one ends."""
    found: list[tuple[str, dict[str, Any]]] = []
    for share in SHARES:
        changes = {**TWIN} if share == BACK else {**TWIN, "share": share, "marks": 1}
        found += [(name, changes) for name in STEPPED]
    return found


def plan(kind: str, form: Form, pair: str) -> dict[str, Any]:
    """Runs and CPU time of a kind, before anything is run.

    For "lambdas" both are upper bounds, as runs of the comparison are shared.
    """
    laid = _laid(kind, form)
    seconds = sum(cpu_seconds(form, pair, c.get("marks", form.marks)) for _, c in laid)
    if kind == "references":  # Each reference is trained once.
        seconds += len(REFERENCES) * cpu_seconds(form, pair, 0) / form.few
    if kind == "relearning":
        share = form.relearn / form.budget
        seconds += len(laid) * share * cpu_seconds(form, pair, 0)
    minutes = round(form.few * seconds / 60, 1)
    return {"pair": pair, "phase": kind, "runs": form.few * len(laid), "CPU minutes": minutes}


# ---------------------------------------------------------------------- what was found


def numbers(kind: str, runs: Sequence[Mapping[str, Any]], table: pd.DataFrame) -> dict[str, Any]:
    """Numbers of a kind, of runs that are all stored.

    Returns
    -------
    dict
        ``seeds`` and ``training``, the cost; for "relearning" by method the SFT loss after each
        count of updates, else by weight, reference or step size and method the cells of both
        losses, and for "steps" the losses of each seed.
    """
    about = {"seeds": len({c["seed"] for c in runs}), "training": cost(table)}
    if kind == "relearning":
        return about | {"methods": _curves(table)}
    ends = finals(table)
    keys = [_key(kind, c) for c in runs]
    found: dict[str, dict[str, Any]] = {}
    for key, name in dict.fromkeys(zip(keys, (c["name"] for c in runs), strict=True)):
        same = [k == key and c["name"] == name for k, c in zip(keys, runs, strict=True)]
        ended = ends.loc[same, LOSSES].to_numpy(dtype=float)
        cells = {loss: cell_of(values) for loss, values in zip(LOSSES, ended.T, strict=True)}
        found.setdefault(key, {})[name] = cells | ({"ends": ended} if kind == "steps" else {})
    return about | {"values": found}


def _key(kind: str, c: Mapping[str, Any]) -> str:
    if kind == "references":
        return str(c["reference"])
    number = c["preference_rate"] if kind == "steps" else c["method"]["schedule"]["lam"]
    return f"{number:g}"


def _curves(table: pd.DataFrame) -> dict[str, Any]:
    """SFT loss by updates of relearning, a cell each, by method."""
    found = {}
    for name in dict.fromkeys(table["name"]):
        one = table[table["name"] == name]
        counts = sorted({int(step) for step in one["relearned"]})
        cells = [
            cell_of(one.loc[one["relearned"] == step, "sft_loss"].to_numpy(dtype=float))
            for step in counts
        ]
        found[str(name)] = {"updates": counts, "sft_loss": cells}
    return found
