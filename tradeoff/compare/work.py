"""Making the runs of a comparison: what is missing is trained, what is there stays."""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tradeoff import experiment
from tradeoff.compare._one import has_model, is_done, train_one, warnings_of
from tradeoff.compare.comparison import Comparison, of_runs
from tradeoff.compare.grid import Planned
from tradeoff.errors import InputError
from tradeoff.extras import require
from tradeoff.files import check_writable
from tradeoff.llm import models, setup
from tradeoff.settings import Within, checked

if TYPE_CHECKING:
    from tradeoff.llm.trainer import JointTrainer

Say = Callable[[str], Any]
Jobs = Annotated[int, Within(1, 1024), "It counts the runs that are trained at a time."]


class Interrupted(Exception):
    """A signal has stopped a comparison; what is done stays, and the same call goes on.

    Attributes
    ----------
    number
        Of the signal.
    done, planned
        Runs that have ended, and all of them.
    """

    def __init__(self, number: int, done: int, planned: int) -> None:
        self.number, self.done, self.planned = number, done, planned
        super().__init__(f"interrupted: {done} of {planned} runs have ended and are kept")


@dataclass(frozen=True)
class Shape:
    """What the first run shows of all of them.

    Attributes
    ----------
    sources
        Fingerprints of rows, model and tokenizer.
    size
        Bytes that a run needs while it is trained.
    model_size
        Bytes of its model.
    """

    sources: dict[str, str]
    size: int
    model_size: int


@checked
def compare(
    planned: Sequence[Planned],
    folder: str | Path,
    *,
    jobs: Jobs = 1,
    keep_models: bool = False,
    progress: bool = False,
    say: Say = lambda text: None,
) -> Comparison:
    """Train every planned run that is missing, and compare all of them.

    Parameters
    ----------
    planned
        Of :func:`tradeoff.compare.grid`; all of one model and the same rows.
    folder
        ``runs/`` below it has a folder for each run, as `tradeoff train` writes it; ``reference/``
        the reference's log-probabilities, which all runs share.
    jobs
        Runs that are trained at a time; with more than one, each in a process with its share of
        the cores.
    keep_models
        Keep each run's ``model/``. Checkpoints are removed when a run has ended.
    progress
        Show bars.
    say
        Called with lines that say what is done: the plan before any work, then each run.

    Returns
    -------
    Comparison
        What is said of the rows is among its remarks. The same after any interruptions:
        unfinished runs go on from their newest checkpoint.

    Raises
    ------
    InputError
        Before any training for settings, rows or a model that cannot be used, or if `folder` holds
        runs of others.
    Interrupted
        By SIGINT or SIGTERM, after the run under way was saved.
    """
    if not planned:
        raise InputError("there is nothing to compare", remedy="Plan at least one run.")
    if jobs > 1:
        require("study")
    own = os.environ.get("WORLD_SIZE", "1")
    if own != "1":
        remedy = (
            "Start `tradeoff compare` without a launcher; --jobs trains several runs at a time."
        )
        raise InputError("every run has one process", field="WORLD_SIZE", value=own, remedy=remedy)
    folder = Path(folder)
    planned = [_sharing(run, folder) for run in planned]
    rows = experiment.read_rows(planned[0].experiment)
    trainer = _prepared(planned, rows)
    told = experiment.told(rows, trainer.data, trainer.config.turns)
    said = experiment.in_lines(told, experiment.lost(trainer.data.summary()))
    for text in said:
        say(text)
    shape = _shape(trainer, rows)
    places = {run.name: folder / "runs" / run.name for run in planned}
    missing = [run for run in planned if not is_done(run, places[run.name], shape.sources)]
    if missing:
        _announce(planned, missing, folder, shape, jobs, keep_models, say)
        say(_estimate(trainer, missing, jobs, progress))
        del trainer  # its memory is that of the first run
        calls = [(run, places[run.name], shape.sources) for run in missing]
        _train(calls, rows, len(planned), jobs, keep_models, progress, say)
    found = of_runs(list(places.values()))
    for run in planned:
        said += [f"{run.method.label}: {text}" for text in warnings_of(places[run.name])]
    if keep_models:
        said += [
            f"{place} has no model: it ended without keep_models (--keep-models); remove this "
            "folder to train it again"
            for place in places.values()
            if not has_model(place)
        ]
    return replace(found, remarks=(*found.remarks, *dict.fromkeys(said)))


def _sharing(run: Planned, folder: Path) -> Planned:
    """The run with a reference cache that all runs share, where none is named."""
    train = run.experiment.train
    if train.reference_cache is not None:
        return run
    train = replace(train, reference_cache=str(folder / "reference"))
    return replace(run, experiment=replace(run.experiment, train=train))


def _prepared(planned: Sequence[Planned], rows: Mapping[str, Any]) -> JointTrainer:
    """The trainer of the first run, with every method checked against model and rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each run repeats them
        trainer = experiment.prepare(planned[0].experiment, rows, None, progress=False)
    if not (len(trainer.data.sft_test) and len(trainer.data.preference_test)):
        raise InputError(
            "methods are compared by losses on held-out rows, and there are none",
            field="train.holdout",
            value=trainer.config.holdout,
            remedy="Give held-out rows of both objectives, or a share above 0.",
        )
    for run in {run.method.label: run for run in planned}.values():
        setup.check_method(run.method, trainer.config, 1)
        run.method.plan(trainer.steps)
    return trainer


def _shape(trainer: JointTrainer, rows: Mapping[str, Any]) -> Shape:
    sources = {name: _content(part) for name, part in rows.items() if part is not None}
    sources["tokenizer"] = models.tokenizer_fingerprint(trainer.tokenizer)
    if trainer.experiment is None or not trainer.experiment.model.config_only:
        sources["model"] = str(trainer.identity["model"])
    size = setup.space_needed(trainer.model, trainer.config, trainer.steps)
    model_size = sum(p.numel() * p.element_size() for p in trainer.model.parameters())
    return Shape(sources, size, model_size)


def _content(rows: Any) -> str:
    """SHA-256 of all that rows hold but where they were read, in their order."""
    found = hashlib.sha256()
    for row in rows:
        held = asdict(row) | {"origin": None}
        found.update(repr(held).encode("utf-8", "backslashreplace"))
    return found.hexdigest()


def _announce(
    planned: Sequence[Planned],
    missing: Sequence[Planned],
    folder: Path,
    shape: Shape,
    jobs: int,
    keep_models: bool,
    say: Say,
) -> None:
    """Report the number of runs and the disk they need, before any work."""
    kept = shape.model_size * len(missing) if keep_models else 0
    needed = shape.size * min(jobs, len(missing)) + kept
    check_writable(folder, needed=needed)
    done = len(planned) - len(missing)
    there = f", {done} of them done" if done else ""
    steps = missing[0].experiment.train.steps
    each = f" of {steps:,} updates" if steps else ""
    runs = f"{len(planned)} run{'' if len(planned) == 1 else 's'}{there}"
    say(f"{runs}; {len(missing)} to train{each}, {jobs} at a time")
    say(f"disk: up to {needed / 2**20:,.0f} MiB in {folder}")


def _estimate(trainer: JointTrainer, missing: Sequence[Planned], jobs: int, progress: bool) -> str:
    """How long the runs will take, by an update of the first; its reference stays cached."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.begin(progress=progress)
        trainer.update()  # this one also warms up
        started = time.perf_counter()
        if trainer.steps > 1:
            sum(float(loss) for loss in trainer.update().values())
        updated = time.perf_counter()
        trainer.evaluate()
        evaluated = time.perf_counter()
    trainer.accelerator.end_training()
    each = float(trainer.plan.cost(1.0, 1.0)[trainer.step - 1])
    costs = [float(run.method.plan(trainer.steps).cost(1.0, 1.0).sum()) for run in missing]
    every = trainer.config.evaluate_every or max(1, trainer.steps // 10)
    looks = len(missing) * (1 + trainer.steps // every)
    whole = (updated - started) / each * sum(costs) + (evaluated - updated) * looks
    return f"time: about {_duration(whole / jobs)}, by one update and one evaluation"


def _duration(seconds: float) -> str:
    for size, name in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"


def _train(
    calls: Sequence[tuple[Any, ...]],
    rows: Mapping[str, Any],
    planned: int,
    jobs: int,
    keep_models: bool,
    progress: bool,
    say: Say,
) -> None:
    """Make the calls of `train_one`, some at a time, and report each run that has ended."""
    before, done = planned - len(calls), 0
    outcomes: Generator[tuple[str, int], None, None]
    if jobs == 1:
        here = partial(train_one, rows=rows, keep_model=keep_models, progress=progress)
        outcomes = ((call[0].name, here(*call)) for call in calls)
    else:
        outcomes = _in_workers(calls, jobs, keep_models)
    try:
        with closing(outcomes):
            for name, number in outcomes:
                if number:
                    raise Interrupted(number, before + done, planned)
                done += 1
                say(f"{before + done}/{planned} {name}")
    except KeyboardInterrupt as error:
        raise Interrupted(2, before + done, planned) from error


def _in_workers(
    calls: Sequence[tuple[Any, ...]], jobs: int, keep_models: bool
) -> Generator[tuple[str, int], None, None]:
    """Make calls in worker processes, each with its share of the cores."""
    from tradeoff.study import processes

    threads = max(1, (os.cpu_count() or 1) // jobs)
    arguments = [(*call, keep_models) for call in calls]
    for outcome in processes.stream(_one, arguments, jobs, threads):
        if isinstance(outcome, processes.Died):
            raise InputError(
                f"the process of the run {outcome.arguments[0].name} died: {outcome.how}",
                field="--jobs",
                value=jobs,
                remedy="Train fewer at a time, if memory did not suffice; the rest is kept.",
            )
        yield outcome


def _one(run: Planned, folder: Path, sources: dict[str, str], keep: bool) -> tuple[str, int]:
    return run.name, train_one(run, folder, sources, keep_model=keep)
