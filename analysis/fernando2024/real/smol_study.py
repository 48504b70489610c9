"""The study on SmolLM2: what it runs, in which order, what that costs, and running it in pieces.

    python -m analysis.fernando2024.real.smol_study --plan
    python -m analysis.fernando2024.real.smol_study --pairs "same prompts" --budget-minutes 45

For each pair of data sets, runs on one objective choose a step size for each, on validation rows
and seeds that do not score. Then every method runs on every seed, seed by seed: a study that is cut
short has whole seeds. Runs are kept one by one by :mod:`tradeoff.study` under ``out/smol``; the
next call goes on with the first that is missing.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from analysis.fernando2024.methods import finals
from analysis.fernando2024.real import smol_methods, smol_rows, smol_runs, smol_scores
from analysis.fernando2024.real.smol_methods import CENTRAL, ENDS, METHODS
from tradeoff import study
from tradeoff.errors import InputError
from tradeoff.study import plans, store
from tradeoff.study.engines import few_threads

TUNING, SPECIALIST = 20_000, 10_000
"""First seeds of the choice of step sizes, and of the runs that optima come from."""
BACK = 0.25
"""Step size of pairs after the choice, in units of the best of runs on pairs alone: what follows
SFT must not undo it."""
OBJECTIVES = ("sft_loss", "preference_loss")


@dataclass(frozen=True)
class Form:
    """Size of the study.

    Attributes
    ----------
    model, precision, layout
        See :mod:`smol_runs`.
    pairs
        Of data sets, in this order.
    methods
        In this order within a seed.
    seeds
        Of every method.
    budget
        Of a run, in gradients of a batch of demonstrations; a pair counts as two.
    batch, marks, evaluated, longest
        Rows of an update; evaluations after the first; held-out rows of each set; most tokens.
    grid
        Step sizes.
    second
        What an update of each kind takes here, in CPU seconds, for the plan: one of
        demonstrations, and an evaluation.
    """

    model: str = "smollm2"
    precision: str = "fp32"
    layout: str = "padded"
    pairs: tuple[str, ...] = tuple(smol_rows.PAIRS)
    methods: tuple[str, ...] = (*CENTRAL, *(m for m in METHODS if m not in CENTRAL))
    seeds: int = 3
    budget: float = 96.0
    batch: int = 4
    marks: int = 3
    evaluated: int = 32
    longest: int = 256
    grid: tuple[float, ...] = (2e-4, 5e-4, 1e-3)
    second: tuple[float, float] = (1.5, 17.0)


FORMS = {
    "full": Form(),
    "gpu": Form(
        precision="bf16", seeds=8, batch=16, evaluated=150, longest=512,
        second=(0.15, 1.0),
    ),
    "fast": Form(
        model=smol_runs.RANDOM,
        pairs=(smol_rows.GENERATED,),
        methods=("sft-dpo", "dpo-sft", "alright", "rounds-2"),
        seeds=2,
        budget=6.0,
        batch=2,
        marks=2,
        evaluated=4,
        grid=(1e-3,),
        second=(0.1, 0.2),
    ),
}  # fmt: skip


# ---------------------------------------------------------------------- what is run


def configuration(
    form: Form, pair: str, name: str, seed: int, rates: Sequence[float], **changes: Any
) -> dict[str, Any]:
    """One run of a method, or of one objective alone."""
    method = smol_methods.named(name)
    return {
        "model": form.model,
        "precision": form.precision,
        "layout": form.layout,
        "pair": pair,
        "name": name,
        "method": method.to_dict(),
        "seed": seed,
        "rate": rates[0],
        "preference_rate": rates[-1],
        "updates": smol_methods.updates(method, form.budget, form.batch),
        "batch": form.batch,
        "marks": form.marks,
        "evaluated": form.evaluated,
        "longest": form.longest,
        "rows": "test",
        "optima": None,
        **changes,
    }


def tuning(form: Form, pair: str) -> list[dict[str, Any]]:
    """Runs that choose step sizes, on validation rows."""
    return [
        configuration(form, pair, name, TUNING, (rate,), rows="validation", marks=1)
        for name in ENDS
        for rate in form.grid
    ]


def rates(form: Form, pair: str) -> tuple[float, float]:
    """The step size of each objective: that of its best run, for pairs times :data:`BACK`.

    Raises
    ------
    InputError
        If these runs are not stored yet.
    """
    table = collect(tuning(form, pair))
    found = []
    for name, loss in zip(ENDS, OBJECTIVES, strict=True):
        last = table[table["name"] == name].groupby("run").tail(1)
        kept = last[last["diverged_at"].isna()]
        found.append(float(kept.sort_values(loss)["rate"].iloc[0]))
    return found[0], found[1] * BACK


def ends(form: Form, pair: str) -> list[dict[str, Any]]:
    """Runs on one objective with its step size: ends of the front, and where optima come from."""
    sft, preference = rates(form, pair)
    own = {"sft-only": sft, "preference-only": preference / BACK}
    return [
        configuration(form, pair, name, seed, (own[name],))
        for seed in range(SPECIALIST, SPECIALIST + form.seeds)
        for name in ENDS
    ]


def optima(form: Form, pair: str) -> list[float]:
    """Least training losses of (SFT, preference): means over the runs on one objective."""
    last = finals(collect(ends(form, pair)))
    return [
        float(last.loc[last["name"] == name, f"optimum_{kind}"].mean())
        for name, kind in zip(ENDS, ("sft", "preference"), strict=True)
    ]


def comparison(form: Form, pair: str, methods: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Every method on every seed, seed by seed."""
    both, known = rates(form, pair), optima(form, pair)
    return [
        configuration(
            *(form, pair, name, seed), _own(name, both),
            optima=known if smol_methods.looks(METHODS[name]) else None,
        )
        for seed in range(form.seeds)
        for name in methods or form.methods
    ]  # fmt: skip


def _own(name: str, both: tuple[float, float]) -> tuple[float, float]:
    """Step sizes of a method: a first stage on pairs keeps theirs, and SFT comes after it."""
    if name == "dpo-sft":
        return both[0] * BACK, both[1] / BACK
    return both


SHORTEST = "same prompts"
"""The pair that the times of the plan were taken on."""
PHASES = (tuning, ends, comparison)


# ---------------------------------------------------------------------- what it costs


def plan(form: Form) -> pd.DataFrame:
    """Runs and CPU time of each phase and pair, before anything is run."""
    rows = []
    for pair in form.pairs:
        counts = {
            "step sizes": [(name, len(form.grid), 1) for name in ENDS],
            "one objective": [(name, form.seeds, form.marks) for name in ENDS],
            "methods": [(name, form.seeds, form.marks) for name in form.methods],
        }
        for phase, parts in counts.items():
            seconds = sum(n * cpu_seconds(form, pair, marks) for _, n, marks in parts)
            rows.append(
                {
                    "pair": pair,
                    "phase": phase,
                    "runs": sum(n for _, n, _ in parts),
                    "CPU minutes": round(seconds / 60, 1),
                }
            )
    return pd.DataFrame(rows)


def cpu_seconds(form: Form, pair: str, marks: int) -> float:
    """CPU time that a run is expected to take: its gradients and its evaluations."""
    one = form.budget * form.second[0] + (marks + 1) * form.second[1]
    known = SHORTEST if pair in smol_rows.PAIRS else pair
    return one * smol_rows.length(pair) / smol_rows.length(known)


# ---------------------------------------------------------------------- running it


def go(
    which: str = "full",
    *,
    seconds: float | None = None,
    pairs: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    model: str | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Go on with the study until it is done or the time is over.

    Parameters
    ----------
    which
        A name of :data:`FORMS`.
    seconds
        No run is begun after so many; one that runs is ended.
    pairs, methods
        In place of those of the form.
    model
        Folder or GGUF file of SmolLM2, where its package is not installed.
    progress
        Print a line for each run.

    Returns
    -------
    dict
        ``runs`` and how many of them are ``done``, the ``setting``, and what :func:`summary` says.
    """
    form = formed(which, pairs, methods)
    if model:
        os.environ[smol_runs.MODEL] = model
    ends_at = time.monotonic() + (np.inf if seconds is None else seconds)
    runs = int(plan(form)["runs"].sum())
    about = {"runs": runs, "setting": asdict(form)}
    done = 0
    for group in phases(form):
        missing = [c for c, there in zip(group, stored(group), strict=True) if not there]
        done += len(group) - len(missing)
        # Without a limit all are computed in one call, which reads their sources once.
        for some in [missing] if seconds is None and missing else [[c] for c in missing]:
            if time.monotonic() >= ends_at:
                return about | {"done": done, "found": summary(form)}
            with few_threads(1):
                compute(some)
            done += len(some)
            if progress:
                c = some[-1]
                print(f"{done} of {runs}: {c['pair']}, {c['name']}, {c['seed']}", flush=True)
    return about | {"done": done, "found": summary(form)}


def phases(form: Form) -> Iterator[list[dict[str, Any]]]:
    """Every run in order; a phase is laid out after the one before it is stored."""
    for pair in form.pairs:
        for phase in PHASES:
            yield phase(form, pair)


def formed(
    which: str,
    pairs: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
) -> Form:
    """A form with some of its parts replaced.

    Raises
    ------
    InputError
        If a name is not known.
    """
    form = FORMS[which]
    known = {"pairs": (*smol_rows.PAIRS, smol_rows.GENERATED), "methods": tuple(METHODS)}
    for field, given in (("pairs", pairs), ("methods", methods)):
        for name in given or ():
            if name not in known[field]:
                remedy = f"Use some of: {', '.join(known[field])}."
                raise InputError("unknown name", field=field, value=name, remedy=remedy)
    return replace(
        form,
        pairs=tuple(pairs or form.pairs),
        methods=tuple(methods or form.methods),
    )


def compute(configurations: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The table of some runs; computes what is missing."""
    return study.run(
        *(smol_runs.post_train, configurations, smol_runs.FOLDER),
        backend="sequential", jobs=1, progress=False, depends=read(configurations),
    )  # fmt: skip


def collect(configurations: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The table of runs that are all stored."""
    return study.collect(
        smol_runs.post_train, configurations, smol_runs.FOLDER, depends=read(configurations)
    )


def stored(configurations: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Which runs are stored; their sources are read once for all."""
    laid = plans.make(smol_runs.post_train, configurations, smol_runs.FOLDER, read(configurations))
    return [store.run_file(laid.folder, address).exists() for address in laid.addresses]


def read(configurations: Sequence[Mapping[str, Any]]) -> list[Path]:
    """The files that runs read; all of them are of one pair."""
    return smol_rows.files(configurations[0]["pair"])


# ---------------------------------------------------------------------- what was found


def summary(form: Form) -> dict[str, Any]:
    """Numbers of each pair, of the methods and seeds that are stored; others are left out."""
    found = {}
    for pair in form.pairs:
        try:
            single = collect(ends(form, pair))
            methods, seeds = whole(form, pair)
        except InputError:
            continue  # Runs that come first, or rows, are missing.
        if methods:
            runs = [c for c in comparison(form, pair, methods) if c["seed"] < seeds]
            found[pair] = smol_scores.numbers(methods, single, collect(runs))
    return found


def whole(form: Form, pair: str) -> tuple[list[str], int]:
    """Methods and seeds, the first ones, all of whose runs are stored; as many runs as possible."""
    done: dict[str, list[bool]] = {name: [] for name in form.methods}
    runs = comparison(form, pair)
    for c, there in zip(runs, stored(runs), strict=True):
        done[c["name"]].append(there)
    best: tuple[list[str], int] = ([], 0)
    for seeds in range(1, form.seeds + 1):
        kept = [name for name, one in done.items() if all(one[:seeds])]
        if smol_scores.BASELINE in kept and seeds * len(kept) >= best[1] * len(best[0]):
            best = kept, seeds
    return best


# ---------------------------------------------------------------------- command line


def command(
    form: Annotated[str, typer.Option(help=f"One of {', '.join(FORMS)}.")] = "full",
    pairs: Annotated[list[str] | None, typer.Option(help="Pairs of data sets.")] = None,
    methods: Annotated[list[str] | None, typer.Option(help="Methods.")] = None,
    budget_minutes: Annotated[
        float | None, typer.Option(help="Begin no run after so many minutes.")
    ] = None,
    only_plan: Annotated[bool, typer.Option("--plan", help="Print the cost, and end.")] = False,
    model: Annotated[str | None, typer.Option(help="Folder or GGUF file of SmolLM2.")] = None,
) -> None:
    """Run the study, or a piece of it."""
    if form not in FORMS:
        raise typer.BadParameter(f"choose one of {', '.join(FORMS)}", param_hint="--form")
    try:
        size = formed(form, pairs, methods)
        costs = plan(size)
        typer.echo(costs.to_string(index=False))
        minutes = costs["CPU minutes"].sum()
        typer.echo(f"{costs['runs'].sum()} runs, about {minutes:,.0f} CPU minutes in all")
        if only_plan:
            return
        seconds = None if budget_minutes is None else 60 * budget_minutes
        found = go(
            form, seconds=seconds, pairs=pairs, methods=methods, model=model,
            progress=True,
        )  # fmt: skip
    except InputError as error:
        typer.echo(str(error), err=True)
        sys.exit(2)
    typer.echo(f"{found['done']} of {found['runs']} runs are stored in {smol_runs.FOLDER}")


if __name__ == "__main__":
    typer.run(command)
