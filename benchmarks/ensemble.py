"""Runs trained as ensembles against the same runs one after the other, in plain torch.

The rival is a loop as one would write it: a dictionary of leaves, autograd and torch.optim.AdamW,
on one thread or on all, whichever is faster. All draw the same rows. A small policy's step is all
overhead, of which one ensemble saves most. A language model's step is arithmetic, so an ensemble
alone gains little, and misses the bar; a study trains one in each process, and its time holds all
that it does: start of the processes, data, the model, tables on disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.measure import interleave, summary
from tradeoff import study
from tradeoff.data.synthetic import Language, generate
from tradeoff.data.tokenizer import train_tokenizer
from tradeoff.networks.choices import Choices
from tradeoff.networks.language_model import LanguageModel, LanguageModelConfig
from tradeoff.networks.language_task import LanguageTask
from tradeoff.networks.policies import PolicyConfig, policy_data
from tradeoff.networks.tasks import PolicyTask
from tradeoff.networks.threads import one_thread
from tradeoff.networks.train import Run, grid, train
from tradeoff.schedules import Alright, Mix, Sequential, from_dict

BAR, RATE = 5.0, 1e-3
SCHEDULES = (
    Sequential(),
    Sequential(first="preference"),
    Mix(),
    Alright(),
    Alright(lam=0.25),
)


def main(repetitions: int = 5) -> dict[str, Any]:
    policy = _compare(
        PolicyTask(policy_data(0), PolicyConfig()), 8, repetitions, steps=100, batch_size=32
    )
    language = _compare(_nano(), 2, max(1, repetitions // 2), steps=4, batch_size=16)
    studied = _compare_study(max(1, repetitions // 2), seeds=8, steps=30)
    reached = [policy["ensemble_over_plain"]["median"], studied["study_over_plain"]["median"]]
    return {
        "threads": torch.get_num_threads(),
        "policy": policy,
        "language_model": language,
        "language_model_study": studied,
        "bar": BAR,
        "bar_met": min(reached) >= BAR,
    }


@cache
def _nano() -> LanguageTask:
    data = generate(Language(sft_rows=900, preference_rows=900, test_rows=90, documents=2000))
    tokenizer = train_tokenizer(data.corpus, 512)
    config = LanguageModelConfig.preset("nano", vocabulary=len(tokenizer))
    return LanguageTask.of(LanguageModel(config), data, tokenizer, evaluation_rows=1)


def trained(configurations: list[dict[str, Any]]) -> list[pd.DataFrame]:
    """Trajectories of runs that differ in schedule and seed."""
    runs = [Run(from_dict(c["schedule"]), c["seed"]) for c in configurations]
    steps = configurations[0]["steps"]
    settings = {"learning_rate": RATE, "evaluate_every": steps, "progress": False}
    done = train(_nano(), runs, steps=steps, batch_size=16, **settings)
    about = ["run", "schedule", "lam", "seed"]
    return [table.drop(columns=about) for _, table in done.table.groupby("run")]


def _compare_study(repetitions: int, *, seeds: int, steps: int) -> dict[str, Any]:
    runs = grid(SCHEDULES, range(seeds))
    configurations = [
        {"schedule": run.schedule.to_dict(), "seed": run.seed, "steps": steps} for run in runs
    ]

    def studied() -> None:
        with tempfile.TemporaryDirectory() as folder:
            study.run(
                trained,
                configurations,
                Path(folder),
                backend="loky",
                jobs=-1,
                batch=len(SCHEDULES),
                alike=("steps",),
                progress=False,
            )

    rivals = _rivals(_nano(), runs, steps=steps, batch_size=16)
    seconds = interleave({"study": studied, **rivals}, repetitions)
    updates = len(runs) * steps
    return {
        "runs": len(runs),
        "steps": steps,
        "batch_size": 16,
        "updates_per_second": {n: summary(updates / np.array(s)) for n, s in seconds.items()},
        "study_over_plain": summary(_fastest(seconds) / np.array(seconds["study"])),
    }


def _compare(task: Any, seeds: int, repetitions: int, **settings: int) -> dict[str, Any]:
    runs = grid(SCHEDULES, range(seeds))
    settings_ours = {"learning_rate": RATE, "evaluate_every": settings["steps"]}
    measured: list[float] = []

    def ensemble() -> None:
        done = train(task, runs, **settings, **settings_ours)
        measured.append(float(done.table["seconds"].max()))

    ensemble()
    measured.clear()
    seconds = interleave({"ensemble": ensemble, **_rivals(task, runs, **settings)}, repetitions)
    # Evaluations are no part of the rival's loop, so ours are not counted either.
    seconds["ensemble"] = measured
    updates = settings["steps"] * len(runs)
    return {
        "runs": len(runs),
        **settings,
        "updates_per_second": {n: summary(updates / np.array(s)) for n, s in seconds.items()},
        "ensemble_over_plain": summary(_fastest(seconds) / np.array(measured)),
    }


def _rivals(task: Any, runs: list[Run], **settings: int) -> dict[str, Callable[[], None]]:
    """The same runs one after the other, on all threads and on one; both warmed up."""
    reference = task.reference(task.initial([run.seed for run in runs])).expand(len(runs))

    def one_by_one(count: int = len(runs)) -> None:
        for place, run in enumerate(runs[:count]):
            _plain(task, run, reference.train[place], **settings)

    def on_one_thread() -> None:
        with one_thread():
            one_by_one()

    one_by_one(1)
    return {"plain": one_by_one, "plain_one_thread": on_one_thread}


def _fastest(seconds: dict[str, list[float]]) -> Any:
    return np.minimum(seconds["plain"], seconds["plain_one_thread"])


def _plain(task: Any, run: Run, shift: torch.Tensor, *, steps: int, batch_size: int) -> None:
    """One run by hand: no batching over runs, no checks."""
    leaves = {n: p[0].clone().requires_grad_() for n, p in task.initial([run.seed]).items()}
    descent = torch.optim.AdamW(leaves.values(), RATE, betas=(0.9, 0.95), weight_decay=0.0)
    choices = Choices([run], steps, batch_size, task.sizes, np.zeros((1, 2)), 0.1)
    here = np.array([0])
    for step in range(steps):
        descent.zero_grad()
        for objective, weight in enumerate(choices.weights(step)[0].tolist()):
            if weight:
                index = torch.from_numpy(choices.batch(objective, step, here)[0])
                margins = shift[index] if objective else None
                (weight * task.losses(leaves, objective, index, margins)).backward()
        descent.step()
