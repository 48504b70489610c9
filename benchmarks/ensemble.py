"""Training of runs as ensembles, compared with the same runs one by one in plain torch.

The rival is an ordinary loop: a dictionary of leaves, padded rows, autograd and torch.optim.AdamW,
on one thread or on all, whichever is faster. All of them draw the same rows. An update of a
small policy is mostly overhead, and a batched call saves most of it. An update of a language model
is arithmetic. There an ensemble saves padding and unused logits, and uses a thread for each run. A
study trains one ensemble in each process. Its time includes the start of the processes, data, the
model, evaluations, and tables on disk. Our own training of one run after the other is measured too,
to show what batching itself gains.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
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
from tradeoff.networks.followed import Choices
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
    language = _compare(_nano(), 4, max(1, repetitions // 2), steps=6, batch_size=16)
    studied = _compare_study(max(1, repetitions // 2), seeds=16, steps=120)
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
    """Train runs that differ in schedule and seed, and return their trajectories."""
    runs = [Run(from_dict(c["schedule"]), c["seed"]) for c in configurations]
    steps = configurations[0]["steps"]
    settings = {"learning_rate": RATE, "evaluate_every": steps, "progress": False}
    done = train(_nano(), runs, steps=steps, batch_size=16, **settings)
    about = ["run", "schedule", "lam", "seed"]
    return [table.drop(columns=about) for _, table in done.table.groupby("run")]


def _compare_study(repetitions: int, *, seeds: int, steps: int) -> dict[str, Any]:
    # Every process gets runs of all schedules, since an update of Mix costs two gradients.
    runs = sorted(grid(SCHEDULES, range(seeds)), key=lambda run: run.seed)
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
                batch=4 * len(SCHEDULES),
                alike=("steps",),
                progress=False,
            )

    # The rivals have no start-up, so their rate does not depend on the length of the run.
    few = runs[: 2 * len(SCHEDULES)]
    rivals = _rivals(_nano(), few, steps=steps // 2, batch_size=16)
    seconds = interleave({"study": studied, **rivals}, repetitions)
    rates = _rates(seconds, len(few) * (steps // 2))
    rates["study"] = len(runs) * steps / np.array(seconds["study"])
    return {
        "runs": len(runs),
        "steps": steps,
        "batch_size": 16,
        "updates_per_second": {name: summary(rate) for name, rate in rates.items()},
        "study_over_plain": summary(rates["study"] / _fastest(rates)),
    }


def _compare(task: Any, seeds: int, repetitions: int, **settings: int) -> dict[str, Any]:
    runs = grid(SCHEDULES, range(seeds))
    settings_ours = {"learning_rate": RATE, "evaluate_every": settings["steps"]}
    # The rival's loop has no evaluations, so ours are not counted either.
    training: dict[str, list[float]] = {"ensemble": [], "ours_alone": []}

    def ensemble() -> None:
        done = train(task, runs, **settings, **settings_ours)
        training["ensemble"].append(float(done.table["seconds"].max()))

    def alone() -> None:
        done = [train(task, [run], **settings, **settings_ours) for run in runs]
        training["ours_alone"].append(sum(float(each.table["seconds"].max()) for each in done))

    ensemble()
    training["ensemble"].clear()
    ours = {"ensemble": ensemble, "ours_alone": alone}
    seconds = interleave({**ours, **_rivals(task, runs, **settings)}, repetitions) | training
    rates = _rates(seconds, settings["steps"] * len(runs))
    return {
        "runs": len(runs),
        **settings,
        "updates_per_second": {name: summary(rate) for name, rate in rates.items()},
        "ensemble_over_plain": summary(rates["ensemble"] / _fastest(rates)),
        "ensemble_over_ours_alone": summary(rates["ensemble"] / rates["ours_alone"]),
    }


def _rates(seconds: dict[str, list[float]], updates: int) -> dict[str, Any]:
    return {name: updates / np.array(each) for name, each in seconds.items()}


def _rivals(task: Any, runs: list[Run], **settings: int) -> dict[str, Callable[[], None]]:
    """The same runs one after the other, on all threads and on one, after a warm-up."""
    reference = task.reference(task.initial([run.seed for run in runs])).expand(len(runs))
    padded = replace(task, ragged=False) if isinstance(task, LanguageTask) else task

    def one_by_one(count: int = len(runs)) -> None:
        for place, run in enumerate(runs[:count]):
            _plain(padded, run, reference.train[place], **settings)

    def on_one_thread() -> None:
        with one_thread():
            one_by_one()

    one_by_one(1)
    return {"plain": one_by_one, "plain_one_thread": on_one_thread}


def _fastest(rates: dict[str, Any]) -> Any:
    return np.maximum(rates["plain"], rates["plain_one_thread"])


def _plain(task: Any, run: Run, shift: torch.Tensor, *, steps: int, batch_size: int) -> None:
    """Train one run by a plain loop: no batching over runs, no checks."""
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
