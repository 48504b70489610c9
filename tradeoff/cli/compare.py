"""The command `tradeoff compare`: methods x weights x seeds on one model and its rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tradeoff._terminal import show_json, show_line, show_table, show_written
from tradeoff.cli.ends import keeps
from tradeoff.cli.options import Json, output
from tradeoff.cli.run_options import METHOD, Given, with_settings
from tradeoff.errors import InputError
from tradeoff.records import replacing, write_json

if TYPE_CHECKING:
    from tradeoff.compare import Comparison
    from tradeoff.llm.config import Experiment

SEEDS = 3
"""Seeds of each method at each weight, unless asked otherwise."""
LAMS = (0.25, 0.5, 0.75)
"""Weights, likewise."""


@with_settings("schedule")
def compare(
    given: Given,
    file: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Settings in TOML; or folders of runs that exist.",
            metavar="[CONFIG.toml | FOLDER...]",
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method", "--schedule", help=f"{METHOD} Repeatable; all schedules by default."
        ),
    ] = None,
    lam: Annotated[
        list[float] | None,
        typer.Option(help="Weight of the preference objective; repeatable.", min=0, max=1),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(help="Seeds, from --seed on.", min=1, max=1000, show_default=str(SEEDS)),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(help="Runs that are trained at a time.", min=1, show_default="1"),
    ] = None,
    keep_models: Annotated[
        bool, typer.Option("--keep-models", help="Keep the model of each run.")
    ] = False,
    out: Annotated[Path, output("Folder of the comparison.")] = Path("tradeoff-compare"),
    as_json: Json = False,
) -> None:
    """Compare methods on your model and rows: every method at every weight with every seed.

    Settings are those of `tradeoff train`: a TOML file, then flags, then `--set`. The method, the
    weight and the seed vary; a `[method]` table gives way. `--rounds`, `--limit` and `--relative`
    go to the schedules that have them.

    The plan is printed before any work: how many runs, how long, how much disk. Each run is a
    folder of `--out`, as `tradeoff train` writes it. The same command goes on after an
    interruption, and trains only what is missing. All runs share one reference cache.

    `compare.html` is one page to share, with a picture and a table to sort; `compare.json` holds
    every number. Given folders of runs, they are compared as they are; runs on other held-out
    rows, losses or models are refused.

    Examples:

    - `tradeoff compare run.toml --lam 0.5 --seeds 5 --out compared`

    - `tradeoff compare --method sft-dpo --method mix --method mix+pcgrad --steps 200 --jobs 2`

    - `tradeoff compare runs/*`
    """
    folders = _folders(file or [])
    shown: list[str] = []

    def show(text: str) -> None:
        shown.append(text)
        if not as_json:
            show_line(text)

    if folders:
        _check_alone(given, (method, lam, seeds, jobs, keep_models))
        from tradeoff.compare import of_runs

        found = of_runs(folders)
    else:
        given = replace(given, file=next(iter(file or []), None))
        how = seeds or SEEDS, out, jobs or 1, keep_models
        found = _trained(given, method, lam, *how, not as_json, show)
    _tell(found, out, as_json, shown)


def _folders(given: Sequence[Path]) -> list[Path]:
    """The runs that exist, if that is what is given."""
    folders = [path for path in given if path.is_dir()]
    if len(folders) == len(given) or (len(given) == 1 and given[0].exists()):
        return folders
    wrong = next(path for path in given if not path.is_dir())
    problem = "this is no folder of a run" if wrong.exists() else "there is no such file or folder"
    remedy = "Give one CONFIG.toml, or folders of runs alone."
    raise InputError(problem, field="FOLDER", value=str(wrong), remedy=remedy)


def _check_alone(given: Given, options: Collection[Any]) -> None:
    """Runs that exist have their settings, and nothing is trained."""
    if given.anything or any(options):
        remedy = "Give folders alone, with --out and --json, or CONFIG.toml with settings."
        problem = "runs that exist are compared as they are, and take no settings"
        raise InputError(problem, field="FOLDER", remedy=remedy)


def _trained(
    given: Given,
    methods: Sequence[str] | None,
    lams: Sequence[float] | None,
    seeds: int,
    out: Path,
    jobs: int,
    keep_models: bool,
    progress: bool,
    show: Any,
) -> Comparison:
    from tradeoff.compare import compare, grid
    from tradeoff.compare.work import Interrupted
    from tradeoff.methods import METHODS

    names = list(methods or METHODS)
    _check(given, names)
    first = _for(given, names[0]).settings(method=names[0]).train.seed

    def make(name: str, lam: float, seed: int) -> Experiment:
        flags = {"method": name, "schedule.lam": lam, "train.seed": seed}
        return _for(given, name).settings(**flags)

    planned = grid(make, names, lams or LAMS, range(first, first + seeds))
    keeps(f"runs that have ended are kept in {out}; the same command goes on")
    try:
        return compare(
            planned, out, jobs=jobs, keep_models=keep_models, progress=progress, say=show
        )
    except Interrupted as stop:
        message = f"{stop} in {out}; the same command goes on"
        typer.secho(message, err=True)
        raise typer.Exit(128 + stop.number) from stop


def _check(given: Given, names: Sequence[str]) -> None:
    """Refuse a setting of schedules that none of the methods has."""
    known = {name for each in names for name in _fields(each)}
    for name in [*_of_schedule(given.flags), *_assigned(given.assignments)]:
        if name not in known:
            raise InputError(
                "no method that is compared has this setting",
                field=f"schedule.{name}",
                remedy="Leave it out, or add a method that has it.",
            )


def _for(given: Given, method: str) -> Given:
    """What is given, without settings of other schedules."""
    own = _fields(method)
    left_out = {f"schedule.{name}" for name in _of_schedule(given.flags) if name not in own}
    flags = {name: value for name, value in given.flags.items() if name not in left_out}
    kept = [text for text in given.assignments if set(_assigned([text])) <= own]
    return replace(given, flags=flags, assignments=tuple(kept))


def _fields(method: str) -> set[str]:
    """Settings that the schedule of a method has."""
    from tradeoff.methods import find

    return {*find(method).schedule.__dataclass_fields__, "name"}


def _of_schedule(flags: Any) -> list[str]:
    given = [name for name, value in flags.items() if value is not None]
    return [name.removeprefix("schedule.") for name in given if name.startswith("schedule.")]


def _assigned(assignments: Sequence[str]) -> list[str]:
    names = [text.partition("=")[0].strip() for text in assignments]
    return [name.removeprefix("schedule.") for name in names if name.startswith("schedule.")]


def _tell(found: Comparison, out: Path, as_json: bool, told: Collection[str]) -> None:
    """Write the comparison, and show its table and the remarks that are not `told` yet."""
    from tradeoff.compare.page import HEADS, with_interval

    record = found.record()
    written = [write_json(out / "compare.json", record), out / "compare.html"]
    with replacing(written[1]) as partial:
        partial.write_text(found.page(), "utf-8")
    if as_json:
        show_json({**record, "written": written})
        return
    table = found.methods
    shown = ["method", "settings", "lam", "n", "sft_loss", "preference_loss", "weighted_loss"]
    shown += ["behind_best", "gradients", "seconds"]
    if table.diverged.any():
        shown.insert(shown.index("n") + 1, "diverged")
    if not table.settings.any():
        shown.remove("settings")
    text = table[shown].rename(columns=HEADS).astype(object)
    for name in ("sft_loss", "preference_loss", "weighted_loss", "behind_best"):
        pairs = zip(table[name], table[f"± {name}"], strict=True)
        text[HEADS[name]] = [with_interval(value, half) for value, half in pairs]
    runs, seeds = _count(len(found.runs), "run"), _count(found.runs.seed.nunique(), "seed")
    known = (table.n > 1).any()  # a single seed has no interval
    how = "mean ± half of a 95 % interval over seeds" if known else "without intervals"
    show_table(text, f"{runs}, {seeds}: {how}")
    for line in found.remarks:
        if line not in told:
            show_line(line, style="yellow")
    show_written(written)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
