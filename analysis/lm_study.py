"""The shared experiment of the language-model figures: one base model, many short post-trainings.

A base model reads a corpus in which skills are stated, evaded or answered in any style. It is
pretrained once and kept under ``out/``. From it every configuration trains for the same number of
gradients; results are stored run by run through :mod:`tradeoff.study`, so that figures share runs
and an interrupted study goes on where it stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from joblib import cpu_count
from numpy.typing import NDArray

from analysis import methods
from tradeoff import study
from tradeoff.checkout import ROOT
from tradeoff.data.synthetic import InstructionData, Language, generate
from tradeoff.data.tokenizer import Tokenizer, train_tokenizer
from tradeoff.networks import checkpoints
from tradeoff.networks.language_model import LanguageModelConfig
from tradeoff.networks.language_task import LanguageTask, pretrain
from tradeoff.networks.tasks import Params, one_run
from tradeoff.networks.train import Ensemble, Run, train
from tradeoff.schedules import Alright, Mix, Schedule, from_dict
from tradeoff.study import addresses
from tradeoff.study.addresses import Task
from tradeoff.study.engines import few_threads

Array = NDArray[np.float64]
FOLDER = ROOT / "out" / "language"
SPECIALIST_SEED, AGAIN = 10_000, 20_000
"""Seeds that no run has: of the SFT optimum, and added where an objective is met again."""
TOGETHER, JOBS = 5, 4
"""Runs that one call trains as one ensemble, and calls at a time."""


@dataclass(frozen=True)
class Scale:
    """Sizes of the whole study; `gradients` is what every post-training may spend."""

    width: int = 64
    layers: int = 3
    documents: int = 20_000
    sft_rows: int = 4000
    preference_rows: int = 2000
    pretraining: int = 1500
    pretraining_rate: float = 4e-3
    gradients: int = 120
    batch: int = 16
    rate: float = 5e-4
    rows: int = 200
    vocabulary: int = 512
    marks: int = 4

    def language(self, conflict: float) -> Language:
        return Language(
            conflict=conflict,
            skills=("reverse", "uppercase", "sort", "count"),
            preferences=("polite", "short"),
            sft_rows=self.sft_rows,
            preference_rows=self.preference_rows,
            test_rows=self.rows,
            documents=self.documents,
        )


SCALES = {
    "full": Scale(),
    "fast": Scale(
        width=16,
        layers=1,
        documents=1000,
        sft_rows=80,
        preference_rows=40,
        pretraining=40,
        gradients=24,
        batch=4,
        rate=4e-3,
        rows=12,
        vocabulary=280,
        marks=1,
    ),
}


# ---------------------------------------------------------------------- models kept on disk


def kept(scale: str, name: str, **settings: Any) -> Path:
    """Folder of a model, addressed by its settings and the sources that make it."""
    about = {"size": asdict(SCALES[scale]), "name": name, **settings}
    return FOLDER / "models" / f"{name}-{_maker().address(about)[:16]}"


@cache
def _maker() -> Task:
    return addresses.task("analysis.lm_study:specialist")


@cache
def language(scale: str, conflict: float) -> tuple[InstructionData, Tokenizer]:
    """Data of a level of conflict; the corpus, and so the tokenizer, is that of all of them."""
    data = generate(SCALES[scale].language(conflict))
    return data, train_tokenizer(data.corpus, SCALES[scale].vocabulary)


@cache
def task(scale: str, conflict: float = 0.5, beta: float = 0.1, generated: int = 0) -> LanguageTask:
    """The base model and the data that it is to learn from; pretrains on the first call."""
    size = SCALES[scale]
    data, tokenizer = language(scale, conflict)
    place = kept(scale, "base")
    if not place.exists():
        config = LanguageModelConfig(
            vocabulary=len(tokenizer),
            width=size.width,
            layers=size.layers,
            hidden=size.width * 11 // 4,
            context=64,
        )
        model = pretrain(
            config,
            data.corpus,
            tokenizer,
            steps=size.pretraining,
            learning_rate=size.pretraining_rate,
            length=64,
        )
        checkpoints.save(model, place)
    return LanguageTask.of(
        checkpoints.load(place),
        data,
        tokenizer,
        beta=beta,
        evaluation_rows=128,
        generated_rows=generated,
    )


def specialist(scale: str, conflict: float = 0.5) -> Params:
    """The SFT optimum, stacked: all gradients spent on SFT, with a seed that no run has."""
    known, place = task(scale, conflict), kept(scale, "sft", conflict=conflict)
    if not place.exists():
        run = Run(Alright(lam=0.0), SPECIALIST_SEED)
        trained = fit(known, scale, [run], SCALES[scale].gradients).params
        model = checkpoints.load(kept(scale, "base"))
        model.load_state_dict(one_run(trained, 0))
        checkpoints.save(model, place)
    return {
        name: value.detach()[None] for name, value in checkpoints.load(place).named_parameters()
    }


@cache
def least_sft_loss(scale: str, conflict: float) -> float:
    """Training loss of the SFT optimum, from which MAXRIGHT measures its gap."""
    known = task(scale, conflict)
    shift = known.reference(known.initial([0]))
    return float(known.evaluate(specialist(scale, conflict), shift)["sft_loss_train"][0])


def prepare(scale: str, conflicts: Iterable[float]) -> None:
    """Make the models that runs start from or are compared with, before workers want them."""
    with few_threads(1):  # Models this small lose by more threads wherever cores are busy.
        for conflict in conflicts:
            specialist(scale, conflict)


# ---------------------------------------------------------------------- training


def fit(
    known: LanguageTask, scale: str, runs: Sequence[Run], updates: int, **settings: Any
) -> Ensemble:
    """`train` with the settings that the whole study shares."""
    size = SCALES[scale]
    defaults = {"learning_rate": size.rate, "evaluate_every": max(1, updates // 4), "clip": 1.0}
    return train(known, runs, steps=updates, batch_size=size.batch, **{**defaults, **settings})


def train_batch(configurations: list[dict[str, Any]]) -> list[pd.DataFrame]:
    """Trajectories of runs that agree in all but schedule and seed; scores at their ends.

    ``marks`` evaluations are spaced evenly; ``generated`` prompts are answered at each of them,
    and all held-out prompts at the last, in columns whose names begin with ``final_``.
    ``cpu_seconds`` is a run's share of the processor time of this call, evaluation included.
    """
    began, c = time.process_time(), configurations[0]
    scale, conflict, updates = c["scale"], c["conflict"], c["updates"]
    known = task(scale, conflict, c["beta"], c["generated"])
    done = fit(
        known,
        scale,
        [Run(from_dict(c["schedule"]), c["seed"]) for c in configurations],
        updates,
        learning_rate=c["rate"],
        evaluate_every=max(1, updates // c["marks"]),
        reference="base" if c["reference"] == "base" else specialist(scale, conflict),
        optima=np.array([least_sft_loss(scale, conflict), 0.0]),
    )
    scores = known.skills(done.params, SCALES[scale].rows)
    tables = []
    for place, (_, rows) in enumerate(done.table.groupby("run")):
        final = {f"final_{name}": value[place] for name, value in scores.items()}
        text = json.dumps(samples(known, one_run(done.params, place)), ensure_ascii=False)
        about = ["run", "schedule", "lam", "seed"]
        tables.append(rows.drop(columns=about).assign(**final, samples=text))
    return _with_cost(tables, began)


def _with_cost(tables: list[pd.DataFrame], began: float) -> list[pd.DataFrame]:
    cost = (time.process_time() - began) / len(tables)
    return [table.assign(cpu_seconds=cost) for table in tables]


def relearn_batch(configurations: list[dict[str, Any]]) -> list[pd.DataFrame]:
    """SFT, then DPO with the SFT model as reference, then SFT again, with probes after each.

    Two comparisons: SFT from the base model ("learn"), and SFT after the same DPO of a base model
    that never saw a demonstration ("control"). ``updates`` of SFT each time, ``forget`` of DPO.
    Configurations differ in their seeds only; ``cpu_seconds`` as in :func:`train_batch`.
    """
    began, c = time.process_time(), configurations[0]
    scale, updates = c["scale"], c["updates"]
    known = task(scale, c["conflict"])
    first, second = (
        [Run(Alright(lam=float(lam)), c["seed"]) for c in configurations] for lam in (0, 1)
    )
    anew = [Run(run.schedule, run.seed + AGAIN) for run in first]
    base = {name: value.detach()[None] for name, value in known.base.named_parameters()}

    def stage(runs: list[Run], start: Params, steps: int = updates) -> Ensemble:
        every = max(1, updates // c["marks"])
        return fit(known, scale, runs, steps, start=start, reference=start, evaluate_every=every)

    learn = stage(first, base)
    forget = stage(second, learn.params, c["forget"])
    relearn = stage(anew, forget.params)
    never = stage(second, base, c["forget"])
    control = stage(anew, never.params)
    stages = {"learn": learn, "forget": forget, "relearn": relearn, "never": never}
    stages |= {"control": control}
    tables = [
        pd.concat(
            [_stage(known, scale, name, done, place) for name, done in stages.items()]
            + [_stage(known, scale, "base", learn, None)],
            ignore_index=True,
        )
        for place in range(len(configurations))
    ]
    return _with_cost(tables, began)


def _stage(
    known: LanguageTask, scale: str, name: str, done: Ensemble, place: int | None
) -> pd.DataFrame:
    """Losses along one stage of one run, or of the base model, and the probes at its end."""
    rows = done.table[done.table["run"] == (place or 0)]
    columns = ["step", "sft_loss", "preference_loss", "preference_accuracy"]
    rows = rows[columns] if place is not None else rows[columns].head(1)
    params: Params = (
        dict(known.base.named_parameters()) if place is None else one_run(done.params, place)
    )
    return rows.assign(stage=name, **probes(known, params, SCALES[scale].rows))


def probes(known: LanguageTask, params: Params, rows: int) -> dict[str, float]:
    """Three ways to ask for the same skill, from the strictest to the furthest from training.

    exact (answer and style as demonstrated), answer (in any style), and statement: the question
    rewritten as the beginning of the sentence that states its answer, as the corpus has it.
    """
    shown = known.data.sft_test[:rows]
    stack = {name: value.detach()[None] for name, value in params.items()}
    scores = known.skills(stack, rows)
    written = known.answer(params, [as_statement(str(row.prompt)) for row in shown])
    hits = [
        text.strip().startswith(f"{row.answer}.") for text, row in zip(written, shown, strict=True)
    ]
    named = {"exact": "exact_match", "answer": "answer_match", "style": "preference_match"}
    return {key: float(scores[name][0]) for key, name in named.items()} | {
        "statement": float(np.mean(hits))
    }


STATED = {
    "Reverse": "reversed is",
    "Uppercase": "uppercased is",
    "Sort": "sorted is",
    "Count": "has",
}


def as_statement(prompt: str) -> str:
    """An invertible rewrite of a question.

    >>> as_statement("Eve: Sort e n k e.\\n")
    'e n k e sorted is'
    """
    verb, letters = prompt.split(": ", 1)[1].strip().rstrip(".").split(" ", 1)
    return f"{letters} {STATED[verb]}"


def samples(known: LanguageTask, params: Params) -> list[list[str]]:
    """Prompt, demonstration and response: the first held-out prompts of each kind of asker."""
    rows = sorted(known.data.sft_test[:40], key=lambda row: row.contrary)
    chosen = [*rows[:2], *rows[-2:]]
    written = known.answer(params, [row.prompt for row in chosen])
    return [
        [str(row.prompt), str(row.completion), response]
        for row, response in zip(chosen, written, strict=True)
    ]


schedule = partial(methods.schedule, samples=32)


def configuration(
    scale: str, rule: Schedule, seed: int, *, conflict: float = 0.5, **changes: Any
) -> dict[str, Any]:
    """One run at the study's budget: methods that follow both objectives get half the updates."""
    size = SCALES[scale]
    both = isinstance(rule, Mix)
    return {
        "scale": scale,
        "schedule": rule.to_dict(),
        "seed": seed,
        "conflict": conflict,
        "updates": size.gradients // 2 if both else size.gradients,
        "beta": 0.1,
        "reference": "base",
        "rate": size.rate,
        "marks": size.marks,
        "generated": 0,
        **changes,
    }


ALIKE = ("scale", "conflict", "updates", "beta", "reference", "rate", "marks", "generated")


def run(scale: str, configurations: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Trajectories of all runs, with a column ``method``; computes what is not stored."""
    table = _run(scale, configurations, train_batch, ALIKE)
    return methods.with_methods(table, configurations)


def relearning(scale: str, configurations: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Stages of forgetting and relearning, see :func:`relearn_batch`."""
    return _run(scale, configurations, relearn_batch, ("scale", "forget", "updates"))


def _run(
    scale: str,
    configurations: Sequence[Mapping[str, Any]],
    function: Callable[[list[dict[str, Any]]], list[pd.DataFrame]],
    alike: Sequence[str],
) -> pd.DataFrame:
    """In processes of one thread each; the fast form in this process."""
    prepare(scale, sorted({c["conflict"] for c in configurations}))
    fast = scale == "fast"
    return study.run(
        function,
        configurations,
        FOLDER / scale / function.__name__,
        backend="sequential" if fast else "loky",
        jobs=1 if fast else min(JOBS, cpu_count()),
        batch=TOGETHER,
        alike=alike,
        progress=not fast,
    )


def seeds(scale: str) -> range:
    """Seeds of a figure."""
    return range(2 if scale == "fast" else 10)


def finals(table: pd.DataFrame) -> pd.DataFrame:
    """The last row of every run; scores of generated responses lose their prefix."""
    last = methods.finals(table)
    own = [name for name in last.columns if f"final_{name}" in last.columns]
    return last.drop(columns=own).rename(columns=lambda name: name.removeprefix("final_"))


def values(table: pd.DataFrame, column: str, by: str) -> Array:
    """(seed, value of `by`) entries of one column, so that differences are paired."""
    return table.pivot(index="seed", columns=by, values=column).to_numpy(dtype=float)
