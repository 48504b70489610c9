"""The commands `front` and `simulate`: a random problem, its front, and methods on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tradeoff._terminal import show_json, show_line, show_table, show_written, with_errors
from tradeoff.cli.options import METHODS_HELP, Json, Lams, Out, Seed
from tradeoff.display import outward
from tradeoff.extras import require
from tradeoff.records import EXACT, replacing, write_json

if TYPE_CHECKING:
    import pandas as pd


def front(
    seed: Seed = 0,
    conflict: Annotated[float, typer.Option(help="0: the objectives agree; 1: opposite.")] = 0.75,
    dimension: Annotated[int, typer.Option(help="Parameters.", min=2)] = 16,
    prompts: Annotated[int, typer.Option(help="Prompts.", min=1)] = 16,
    responses: Annotated[int, typer.Option(help="Responses per prompt.", min=2)] = 8,
    radius: Annotated[float, typer.Option(help="Radius of the ball.")] = 4.0,
    beta: Annotated[float, typer.Option(help="Inverse temperature of DPO.")] = 1.0,
    accuracy: Annotated[float, typer.Option(help="Certified error asked, in ranges.")] = 1e-3,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Enclose the Pareto front of a random log-linear problem, with a certificate.

    Examples:

    - `tradeoff front --conflict 0.9 --accuracy 1e-4`

    - `tradeoff front --seed 3 --json`
    """
    from tradeoff import convex, plots

    problem = _random_problem(seed, conflict, dimension, prompts, responses, radius, beta)
    found = convex.pareto_front(problem, accuracy=accuracy, progress=not as_json)
    low, high = found.hypervolume_bounds()
    record = {
        "accuracy": accuracy,
        "certified_error": found.error,
        "ideal": found.ideal.tolist(),
        "ranges": found.ranges.tolist(),
        "hypervolume": [low, high],
        "front": found.table().to_dict("records"),
    }
    written = []
    if out is not None:  # rounded bounds could be false
        written = [write_json(out / "front.json", record, digits=EXACT)]
        with plots.figure(height=4.0) as (figure, ax):
            found.plot(ax)
            written += plots.save(figure, out, "front")
    if as_json:
        show_json({**record, "written": written}, digits=EXACT)
        return
    show_table(found.table(), str(found))
    bounds = outward(low, 6, up=False), outward(high, 6, up=True)
    show_line("hypervolume up to the nadir: between {:.6g} and {:.6g}".format(*bounds))
    if found.error > accuracy:
        text = f"the certified error is above the {accuracy:g} asked: floating-point numbers, or "
        show_line(f"{text}the number of solves, allow no less here", style="yellow")
    show_written(written)


def simulate(
    methods: Annotated[
        list[str] | None,
        typer.Option("--method", "--schedule", metavar="NAME", help=METHODS_HELP),
    ] = None,
    lams: Lams = [0.5],  # noqa: B006  (typer reads the default)
    steps: Annotated[int, typer.Option(help="Updates per run.", min=1)] = 10_000,
    replicas: Annotated[int, typer.Option(help="Repetitions.", min=1)] = 256,
    step_size: Annotated[float, typer.Option(help="Scale of the step size.")] = 0.5,
    decay: Annotated[
        str, typer.Option(help="Step size scale / t^decay; or `constant`, `linear`, `cosine`.")
    ] = "0.5",
    refresh: Annotated[
        int | None,
        typer.Option(help="MAXRIGHT, Constrained: updates between refreshes; else 1.", min=1),
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(help="Sequential: share of the first stage; by default that of lambda."),
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds: how many; else 4.", min=1)] = None,
    limit: Annotated[
        float | None,
        typer.Option(help="Constrained: nats that SFT may lose, or a share; else 0.05."),
    ] = None,
    relative: Annotated[
        bool | None,
        typer.Option("--relative", help="Constrained: the limit is a share of the gain."),
    ] = None,
    conflict: Annotated[float, typer.Option(help="0: the objectives agree; 1: opposite.")] = 0.75,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Run methods on a random log-linear problem and summarise where they end.

    With `--out` the whole trajectory is written as `simulate.parquet`.

    Examples:

    - `tradeoff simulate --schedule alright --schedule mix --lam 0.25 --lam 0.75`

    - `tradeoff simulate --schedule rounds --rounds 16 --decay linear`

    - `tradeoff simulate --method mix+pcgrad --method alright+simpo --method my_methods:Mine`

    - `tradeoff simulate --steps 100000 --replicas 64 --out runs`
    """
    if out is not None:
        require("parquet")
    from tradeoff import convex
    from tradeoff.methods import METHODS

    size = _step_size(step_size, _decay(decay))
    problem = _random_problem(seed, conflict, 16, 16, 8, 4.0, 1.0)
    # A method given twice would count as twice the replicas.
    chosen = dict.fromkeys(methods or METHODS)
    settings = {"share": share, "rounds": rounds, "limit": limit, "relative": relative}
    settings = {k: v for k, v in (settings | {"refresh": refresh}).items() if v is not None}
    made = [_method(name, lam, settings) for lam in dict.fromkeys(lams) for name in chosen]
    _check_taken(settings, made)
    runs = convex.simulate(
        problem,
        made,
        steps=steps,
        step_size=size,
        replicas=replicas,
        seed=seed,
        progress=not as_json,
    )
    if out is not None:
        with replacing(out / "simulate.parquet") as partial:
            runs.to_parquet(partial, index=False)
    table = _end_points(runs, convex.pareto_front(problem, progress=not as_json), steps)
    if as_json:
        show_json(table.to_dict("records"))
        return
    runs_of = f"{replicas} run{'s' if replicas > 1 else ''} of {steps} updates"
    title = f"{runs_of}; mean ± half-width of its 95 % t-interval" if replicas > 1 else runs_of
    show_table(with_errors(table), title)
    if out is not None:
        show_written([out / "simulate.parquet"])


def _random_problem(
    seed: int,
    conflict: float,
    dimension: int,
    prompts: int,
    responses: int,
    radius: float,
    beta: float,
) -> Any:
    from tradeoff.convex import random_log_linear

    return random_log_linear(
        seed,
        conflict=conflict,
        dimension=dimension,
        prompts=prompts,
        responses=responses,
        radius=radius,
        beta=beta,
    )


_TAKERS = {
    "share": ("sequential",), "rounds": ("rounds",), "limit": ("constrained",),
    "relative": ("constrained",), "refresh": ("maxright", "constrained"),
}  # fmt: skip
"""Settings of the command, and names of the schedules that take each."""


def _method(name: str, lam: float, settings: Mapping[str, Any]) -> Any:
    """A method by its name, with the settings given to its kind of schedule."""
    from dataclasses import replace

    from tradeoff.methods import find

    found = find(name, lam)
    own = {k: v for k, v in settings.items() if found.schedule.name in _TAKERS[k]}
    return replace(found, schedule=replace(found.schedule, **own))


def _check_taken(settings: Mapping[str, Any], methods: Sequence[Any]) -> None:
    """Raise an error for a setting that no method has."""
    from tradeoff.errors import InputError

    names = {method.schedule.name for method in methods}
    for name, value in settings.items():
        if not names.intersection(_TAKERS[name]):
            raise InputError(
                "no method of this call has this setting",
                field=name,
                value=value,
                remedy=f"Leave it out, or add a method such as --method {_TAKERS[name][0]}.",
            )


def _step_size(scale: float, decay: Any) -> Any:
    from tradeoff.convex import StepSize
    from tradeoff.errors import InputError

    try:
        return StepSize(scale, decay)
    except InputError as error:
        raise error.at(field="step_size") from error


def _decay(text: str) -> Any:
    from tradeoff.schedules import check_decay

    try:
        found: float | str = float(text)
    except ValueError:
        found = text
    check_decay(found)
    return found


def _end_points(runs: pd.DataFrame, front: Any, steps: int) -> pd.DataFrame:
    """Mean and interval of the final losses, and their place relative to the front."""
    import pandas as pd

    from tradeoff.scores import interval

    last = runs[(runs.step == steps) & (runs.iterate == "last")]
    columns = ["sft_loss", "preference_loss", "gap"]
    rows = []
    for (lam, name), own in last.groupby(["lam", "schedule"], observed=True, sort=False):
        found = interval(own[columns].to_numpy())
        row: dict[str, Any] = {"lam": lam, "schedule": name}
        for column, mean, high in zip(columns, found.mean, found.high, strict=True):
            row |= {column: mean, f"± {column}": high - mean}
        rows.append(row)
    table = pd.DataFrame(rows)
    place = front.score(table[["sft_loss", "preference_loss"]].to_numpy())
    return table.assign(front_gap=place.front_gap, matched_weight=place.matched_weight)
