"""Runs trained as one ensemble against the same runs one after the other, in plain torch.

The rival is a loop as one would write it: a dictionary of leaves, autograd and torch.optim.AdamW.
Both draw the same rows. The bar is for the small policy, whose single step is all overhead; a
language model's step is arithmetic, so an ensemble on a CPU can gain little.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.measure import interleave, summary
from tradeoff.data.synthetic import Language, generate
from tradeoff.data.tokenizer import train_tokenizer
from tradeoff.networks.choices import Choices
from tradeoff.networks.language_model import LanguageModel, LanguageModelConfig
from tradeoff.networks.language_task import LanguageTask
from tradeoff.networks.policies import PolicyConfig, policy_data
from tradeoff.networks.tasks import PolicyTask
from tradeoff.networks.train import Run, grid, train
from tradeoff.schedules import Alright, Mix, Sequential

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
    reached = policy["ensemble_over_plain"]["median"]
    return {
        "threads": torch.get_num_threads(),
        "policy": policy,
        "language_model": language,
        "bar": BAR,
        "bar_met": reached >= BAR,
    }


def _nano() -> LanguageTask:
    data = generate(Language(sft_rows=900, preference_rows=900, test_rows=90, documents=2000))
    tokenizer = train_tokenizer(data.corpus, 512)
    config = LanguageModelConfig.preset("nano", vocabulary=len(tokenizer))
    return LanguageTask.of(LanguageModel(config), data, tokenizer, evaluation_rows=1)


def _compare(task: Any, seeds: int, repetitions: int, **settings: int) -> dict[str, Any]:
    runs = grid(SCHEDULES, range(seeds))
    reference = task.reference(task.initial([run.seed for run in runs])).expand(len(runs))
    settings_ours = {"learning_rate": RATE, "evaluate_every": settings["steps"]}
    measured: list[float] = []

    def ensemble() -> None:
        done = train(task, runs, **settings, **settings_ours)
        measured.append(float(done.table["seconds"].max()))

    def one_by_one() -> None:
        for place, run in enumerate(runs):
            _plain(task, run, reference.train[place], **settings)

    ensemble()
    _plain(task, runs[0], reference.train[0], **settings)
    measured.clear()
    seconds = interleave({"ensemble": ensemble, "plain": one_by_one}, repetitions)
    updates = settings["steps"] * len(runs)
    # Evaluations are no part of the rival's loop, so ours are not counted either.
    ratio = np.divide(seconds["plain"], measured)
    return {
        "runs": len(runs),
        **settings,
        "updates_per_second": {
            "ensemble": summary(updates / np.array(measured)),
            "plain": summary(updates / np.array(seconds["plain"])),
        },
        "ensemble_over_plain": summary(ratio),
    }


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
