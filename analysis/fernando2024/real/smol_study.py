"""The study on SmolLM2: running its plan in pieces, and what was found.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from analysis.dossier.stored_results import fields_of
from analysis.fernando2024.methods import finals
from analysis.fernando2024.real import (
    smol_extra,
    smol_jobs,
    smol_methods,
    smol_plan,
    smol_runs,
    smol_scores,
    smol_stored,
)
from analysis.fernando2024.real.smol_methods import CENTRAL, ENDS, METHODS
from analysis.fernando2024.real.smol_plan import (
    BACK,
    EXTRAS,
    FORMS,
    SPECIALIST,
    Form,
    configuration,
    formed,
    own,
)
from analysis.fernando2024.real.smol_stored import Missing, collect, stored
from analysis.gpu import results
from tradeoff.errors import InputError
from tradeoff.records import plain
from tradeoff.study.addresses import canonical

KEEP_SECONDS = 30.0
"""Seconds between two summaries of a study that runs."""


# ---------------------------------------------------------------------- runs that others set


def rates(form: Form, pair: str) -> tuple[float, float]:
    """The step size of each objective: that of its best run, for pairs times :data:`BACK`.

    Raises
    ------
    InputError
        If these runs are not stored yet.
    """
    table = collect(smol_plan.tuning(form, pair))
    found = []
    for name, loss in zip(ENDS, smol_scores.LOSSES, strict=True):
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
        for seed in range(SPECIALIST, SPECIALIST + form.alone)
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
            *(form, pair, name, seed), own(name, both),
            optima=known if smol_methods.looks(METHODS[name]) else None,
        )
        for seed in range(form.seeds)
        for name in methods or form.methods
    ]  # fmt: skip


def extra(form: Form, pair: str, kind: str) -> list[dict[str, Any]]:
    """Runs of a kind beyond the comparison."""
    return smol_extra.configurations(kind, form, pair, rates(form, pair), optima(form, pair))


PHASES = (smol_plan.tuning, ends, comparison)


# ---------------------------------------------------------------------- running it


def go(
    which: str = "full",
    *,
    seconds: float | None = None,
    pairs: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    extras: Sequence[str] = (),
    model: str | None = None,
    jobs: int = 1,
    grace: float = np.inf,
    progress: bool = False,
    twins: bool = False,
    both: int = 0,
    edges: bool = False,
    keep: Callable[[dict[str, Any]], object] | None = None,
) -> dict[str, Any]:
    """Go on with the study until it is done or the time is over.

    Parameters
    ----------
    which
        A name of :data:`smol_plan.FORMS`.
    seconds
        No run is begun after so many; one that runs is ended.
    pairs, methods
        In place of those of the form.
    extras
        Kinds of :mod:`smol_extra` to run, too.
    model
        Folder or GGUF file of SmolLM2, where its package is not installed.
    jobs
        Runs at a time. With more than one, pairs go together, and methods one by one.
    grace
        With several jobs: seconds after `seconds` when runs that still go are given up.
    progress
        Print a line for each run.
    twins
        Do missing runs as :func:`smol_plan.twin` says, which a CPU does fastest.
    both
        With `twins`: number of seeds whose runs are done so even where they are stored, to compare.
    edges
        Do the runs of :func:`smol_plan.edges` before all others.
    keep
        Receives what is returned, as it is so far: about once a minute, and at the end.

    Returns
    -------
    dict
        ``runs`` and how many of them are ``done``, the ``setting``, and what :func:`summary` says.
    """
    form = formed(which, pairs, methods, extras)
    if model:
        os.environ[smol_runs.MODEL] = model
    now = time.monotonic()
    ends_at, kept_at = now + (np.inf if seconds is None else seconds), now
    first = [[c for pair in form.pairs for c in smol_plan.edges(form, pair)]] if edges else []
    state: dict[str, Any] = {
        "runs": planned(form) + sum(map(len, first)), "setting": asdict(form), "done": 0,
    }  # fmt: skip
    if jobs > 1 and form.model != smol_runs.RANDOM:
        ours = smol_plan.on_cpu(form) if twins else form
        smol_runs.load(ours.model, ours.precision)  # The cache is there before many need it.
    with smol_jobs.runner(jobs, grace) as computed:
        groups = phases(form) if jobs == 1 else together(form)
        for group in chain(first, groups):
            missing = [c for c in group if not stored([c])[0]]
            state["done"] += len(group) - len(missing)
            if twins:
                missing = [smol_plan.twin(c) for c in group if c in missing or c["seed"] < both]
                missing = [c for c in missing if not smol_stored.exact([c])[0]]
            for c in computed(missing, ends_at):
                state["done"] += 1
                if progress:
                    print(f"{state['done']} of {state['runs']}: {c['pair']}, {c['name']}, "
                          f"{c['seed']}", flush=True)  # fmt: skip
                if keep and time.monotonic() - kept_at > KEEP_SECONDS:
                    _kept(state, form, keep)
                    kept_at = time.monotonic()
            if time.monotonic() >= ends_at:
                break
    return _kept(state, form, keep)


def planned(form: Form) -> int:
    """Number of runs of the whole study."""
    more = sum(smol_extra.plan(k, form, p)["runs"] for p in form.pairs for k in form.extras)
    return int(smol_plan.plan(form)["runs"].sum()) + more


def _kept(state: dict[str, Any], form: Form, keep: Callable[..., object] | None) -> dict[str, Any]:
    """The state with what was found so far, passed to `keep`."""
    found = state | {"found": summary(form)}
    if keep:
        keep(found)
    return found


def phases(form: Form) -> Iterator[list[dict[str, Any]]]:
    """Every run in order; a phase is laid out after the one before it is stored."""
    for pair in form.pairs:
        for phase in PHASES:
            yield phase(form, pair)
        for kind in form.extras:
            yield extra(form, pair, kind)


def together(form: Form) -> Iterator[list[dict[str, Any]]]:
    """Every run in the order of importance, of all pairs at once; a run is there once.

    The central methods come first, one by one, then the extras of the first pairs, the other
    methods, and the extras of the other pairs. So what a study has that is cut short is whole.
    Pairs that lack runs of an earlier phase are left out.
    """

    def of(phase: Callable[[Form, str], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        found = []
        for pair in form.pairs:
            with suppress(Missing):
                found += phase(form, pair)
        return found

    yield of(smol_plan.tuning)
    yield of(ends)
    order = {name: i for i, name in enumerate(form.methods)}
    compared = sorted(of(comparison), key=lambda c: (order[c["name"]], c["seed"]))
    central = [c for c in compared if c["name"] in CENTRAL]
    beyond = [c for kind in form.extras for c in of(partial(extra, kind=kind))]
    beyond.sort(key=lambda c: int(c["seed"]))
    early = [c for c in beyond if c["pair"] in form.pairs[: form.early]]
    yield list({canonical(c): c for c in (*central, *early, *compared, *beyond)}.values())


def adopt(form: Form, folder: Path) -> int:
    """Take over runs of another checkout's folder that have the configurations of this plan.

    Parameters
    ----------
    form
        The plan.
    folder
        Folder of a study, or the archive of its runs.

    See :func:`smol_stored.take`. The number of runs that were taken over is returned.
    """
    with smol_stored.unpacked(folder) as there:
        theirs, taken = smol_stored.by_configuration(there), 0
        for pair in form.pairs:
            try:
                beyond = smol_plan.edges(form, pair)
                for group in chain([beyond], phases(replace(form, pairs=(pair,)))):
                    taken += smol_stored.take(group, theirs)
            except Missing:
                continue  # A phase is laid out after the one before it, which is not there.
    return taken


# ---------------------------------------------------------------------- what was found


def summary(form: Form) -> dict[str, Any]:
    """Numbers of each pair, of the methods and seeds that are stored; others are left out."""
    found = {}
    for pair in form.pairs:
        try:
            single = collect(ends(form, pair))
            runs = comparison(form, pair)
        except InputError:
            continue  # Runs that come first, or rows, are missing.
        methods, seeds = whole(form, runs)
        if methods:
            runs = [c for c in runs if c["name"] in methods and c["seed"] < seeds]
            found[pair] = smol_scores.numbers(methods, single, collect(runs))
            found[pair]["twins"] = smol_stored.twins(runs)
            found[pair]["steps"] = steps(form, pair)
            found[pair]["extras"] = {
                kind: numbers for kind in form.extras if (numbers := beyond(form, pair, kind))
            }
    return found


def steps(form: Form, pair: str) -> dict[str, list[tuple[float, float | None]]]:
    """Step sizes of each objective that were tried, each with its validation loss.

    A run that diverged has no loss.
    """
    tried = smol_plan.tuning(form, pair) + smol_plan.edges(form, pair)
    done = [c for c, there in zip(tried, stored(tried), strict=True) if there]
    last = finals(collect(done)).sort_values("rate")
    found = {}
    for name, loss in zip(ENDS, smol_scores.LOSSES, strict=True):
        own = last[last["name"] == name]
        losses = own[loss].where(own["diverged_at"].isna())
        found[name] = [
            (float(rate), float(value) if np.isfinite(value) else None)
            for rate, value in zip(own["rate"], losses, strict=True)
        ]
    return found


def beyond(form: Form, pair: str, kind: str) -> dict[str, Any] | None:
    """Numbers of a kind beyond the comparison, of the first seeds that are stored whole."""
    runs = extra(form, pair, kind)
    there = stored(runs)
    seeds = 0
    while any(c["seed"] == seeds for c in runs) and all(
        done for c, done in zip(runs, there, strict=True) if c["seed"] == seeds
    ):
        seeds += 1
    runs = [c for c in runs if c["seed"] < seeds]
    if not runs:
        return None
    return smol_extra.numbers(kind, runs, collect(runs)) | {"twins": smol_stored.twins(runs)}


def whole(form: Form, runs: Sequence[Mapping[str, Any]]) -> tuple[list[str], int]:
    """Methods and seeds, the first ones, all of whose runs are stored; as many runs as possible."""
    done: dict[str, list[bool]] = {name: [] for name in form.methods}
    for c, there in zip(runs, stored(runs), strict=True):
        done[c["name"]].append(there)
    best: tuple[list[str], int] = ([], 0)
    for seeds in range(1, form.seeds + 1):
        kept = [name for name, one in done.items() if all(one[:seeds])]
        if smol_scores.BASELINE in kept and seeds * len(kept) >= best[1] * len(best[0]):
            best = kept, seeds
    return best


def publish(which: str = "gpu", out: Path | None = None) -> list[Path]:
    """Write what all runs of a form say, and the runs, where the figures read them.

    What the GPU's machine was stays as its call wrote it.

    Parameters
    ----------
    which
        A name of :data:`smol_plan.FORMS`.
    out
        In place of the paper's folder.

    Raises
    ------
    InputError
        If no call of :mod:`analysis.gpu` has stored a study before.
    """
    where = results.folder(out)
    place = results.place(where, results.STUDY, "all")
    about = fields_of(place)
    form = formed(which, extras=EXTRAS)
    groups = [group for pair in form.pairs for group in phases(replace(form, pairs=(pair,)))]
    tried = [smol_plan.edges(form, pair) for pair in form.pairs]
    found = {
        "runs": planned(form),
        "done": sum(stored(group).count(True) for group in groups),
        "found": summary(form),
    }
    about["setting"] = plain(asdict(form))
    rounds = about.pop("rounds")
    written = [results.keep(place, about, [*rounds[:-1], found])]
    runs = {file for group in (*groups, *tried) for file in smol_stored.files(group)}
    results.archive(runs, results.runs(where))
    return [*written, results.runs(where)]


# ---------------------------------------------------------------------- command line


def command(
    form: Annotated[str, typer.Option(help=f"One of {', '.join(FORMS)}.")] = "full",
    pairs: Annotated[list[str] | None, typer.Option(help="Pairs of data sets.")] = None,
    methods: Annotated[list[str] | None, typer.Option(help="Methods.")] = None,
    extras: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(EXTRAS)}.")] = None,
    budget_minutes: Annotated[
        float | None, typer.Option(help="Begin no run after so many minutes.")
    ] = None,
    take: Annotated[
        Path | None, typer.Option("--adopt", help="Take over equal runs of a folder or archive.")
    ] = None,
    only_plan: Annotated[bool, typer.Option("--plan", help="Print the cost, and end.")] = False,
    model: Annotated[str | None, typer.Option(help="Folder or GGUF file of SmolLM2.")] = None,
    jobs: Annotated[int, typer.Option(help="Runs at a time.")] = 1,
    twins: Annotated[
        bool, typer.Option("--twins", help="Do runs of a GPU's form in fp32, as a CPU does them.")
    ] = False,
    both: Annotated[
        int, typer.Option(help="With --twins: seeds to do again where a GPU did them, to compare.")
    ] = 0,
    edges: Annotated[
        bool, typer.Option("--edges", help="First: a step size beyond the grid, for each pair.")
    ] = False,
    store: Annotated[
        bool, typer.Option("--store", help="Write the runs and what they say for the figures.")
    ] = False,
) -> None:
    """Run the study, or a piece of it."""
    if form not in FORMS:
        raise typer.BadParameter(f"choose one of {', '.join(FORMS)}", param_hint="--form")
    try:
        if store:
            typer.echo("\n".join(map(str, publish())))
            return
        planned_form = formed(form, pairs, methods, extras or ())
        size = smol_plan.on_cpu(planned_form) if twins else planned_form
        more = [smol_extra.plan(kind, size, pair) for pair in size.pairs for kind in size.extras]
        costs = pd.concat([smol_plan.plan(size), pd.DataFrame(more)], ignore_index=True)
        typer.echo(costs.to_string(index=False))
        minutes = costs["CPU minutes"].sum()
        typer.echo(f"{costs['runs'].sum()} runs, about {minutes:,.0f} CPU minutes in all")
        if take is not None:
            typer.echo(f"{adopt(planned_form, take)} runs of {take} are taken over")
        if only_plan or take is not None:
            return
        seconds = None if budget_minutes is None else 60 * budget_minutes
        found = go(
            form, seconds=seconds, pairs=pairs, methods=methods, extras=extras or (),
            model=model, jobs=jobs, progress=True, twins=twins, both=both,
            edges=edges,
        )  # fmt: skip
    except InputError as error:
        typer.echo(str(error), err=True)
        sys.exit(2)
    typer.echo(f"{found['done']} of {found['runs']} runs are stored in {smol_runs.FOLDER}")


if __name__ == "__main__":
    typer.run(command)
