"""Models and costs of the tiny language model: data, base model, SFT specialists, cost of a pair.

The base model is trained on a corpus in which skills are stated, evaded or answered in any style.
It is pretrained once and stored under ``out/``, addressed by its settings and the sources that make
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from tradeoff.checkout import WORK
from tradeoff.data.synthetic import InstructionData, Language, generate
from tradeoff.data.tokenizer import Tokenizer, train_tokenizer
from tradeoff.networks import checkpoints
from tradeoff.networks.batches import Batch, pair_batch, sft_batch
from tradeoff.networks.language_model import LanguageModelConfig
from tradeoff.networks.language_task import LanguageTask, pretrain
from tradeoff.networks.tasks import Params, one_run
from tradeoff.networks.train import Ensemble, Run, train
from tradeoff.schedules import Alright
from tradeoff.study import addresses
from tradeoff.study.engines import few_threads

FOLDER = WORK / "language"
SPECIALIST_SEED = 10_000
"""First seed of the SFT specialists; no other run has it."""
CONTEXT = 64
"""Longest sequence of the models, in tokens."""
Part = Literal["test", "validation"]


@dataclass(frozen=True)
class LanguageSizes:
    """Sizes of the whole study.

    Attributes
    ----------
    gradients
        Number of updates whose cost is the budget of every post-training. Each takes one gradient,
        and half of them follow either objective.
    rows, validation
        Numbers of held-out rows of each set: for scores of runs, and for the choice of step sizes.
    specialists
        Number of models that spend the whole budget on SFT.
    rate
        Step size where none is tuned, and the middle of the searched grid.
    """

    width: int = 64
    layers: int = 3
    documents: int = 20_000
    sft_rows: int = 4000
    preference_rows: int = 2000
    pretraining: int = 1500
    pretraining_rate: float = 4e-3
    gradients: int = 120
    batch: int = 8
    rate: float = 5e-4
    rows: int = 200
    validation: int = 128
    vocabulary: int = 512
    specialists: int = 5
    seeds: int = 10

    def language(self, conflict: float) -> Language:
        return Language(
            conflict=conflict,
            skills=("reverse", "uppercase", "sort", "count"),
            preferences=("polite", "short"),
            sft_rows=self.sft_rows,
            preference_rows=self.preference_rows,
            test_rows=self.rows + self.validation,
            documents=self.documents,
        )


SCALES = {
    "full": LanguageSizes(),
    "fast": LanguageSizes(
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
        validation=12,
        vocabulary=280,
        specialists=2,
        seeds=2,
    ),
}


def kept(maker: str, name: str, **settings: Any) -> Path:
    """Folder of a model, addressed by its settings and the sources of its maker."""
    return FOLDER / "models" / f"{name}-{_task(maker).address(settings)[:16]}"


@cache
def _task(maker: str) -> addresses.Task:
    return addresses.task(f"analysis.fernando2024.language.lm_models:{maker}")


@cache
def language(scale: str, conflict: float) -> tuple[InstructionData, Tokenizer]:
    """Data of a level of conflict. All levels share one corpus, and so one tokenizer."""
    data = generate(SCALES[scale].language(conflict))
    return data, train_tokenizer(data.corpus, SCALES[scale].vocabulary)


def pretrained(scale: str, place: Path) -> None:
    """Pretrain the base model on the corpus of all levels of conflict, and store it."""
    size, (data, tokenizer) = SCALES[scale], language(scale, 0.5)
    config = LanguageModelConfig(
        vocabulary=len(tokenizer),
        width=size.width,
        layers=size.layers,
        hidden=size.width * 11 // 4,
        context=CONTEXT,
    )
    model = pretrain(
        config,
        data.corpus,
        tokenizer,
        steps=size.pretraining,
        learning_rate=size.pretraining_rate,
        length=CONTEXT,
    )
    checkpoints.save(model, place)


def base(scale: str) -> Path:
    """Folder of the base model, which the first call pretrains."""
    size = asdict(SCALES[scale])
    later = ("gradients", "batch", "rate", "specialists", "seeds")
    place = kept("pretrained", "base", **{k: v for k, v in size.items() if k not in later})
    if not place.exists():
        pretrained(scale, place)
    return place


@cache
def task(
    scale: str,
    conflict: float = 0.5,
    beta: float = 0.1,
    generated: int = 0,
    part: Part = "test",
) -> LanguageTask:
    """The base model and the data for its post-training, with the held-out rows of one part."""
    size, (data, tokenizer) = SCALES[scale], language(scale, conflict)
    known = LanguageTask.of(
        checkpoints.load(base(scale)),
        data,
        tokenizer,
        beta=beta,
        evaluation_rows=128,
        generated_rows=generated,
    )

    def own(rows: Batch) -> Batch:
        split = np.arange(size.rows, len(rows)) if part == "validation" else np.arange(size.rows)
        return rows.take(split)

    return replace(known, test_sft=own(known.test_sft), test_pairs=own(known.test_pairs))


@cache
def pair_cost(scale: str, conflict: float) -> float:
    """Cost of a pair in units of a demonstration: tokens that the policy reads for each.

    A pair counts its prompt once, and both responses. The prompts of demonstrations count too. The
    reference's log-probabilities are computed once for all runs and are not counted.
    """
    data, tokenizer = language(scale, conflict)
    sets = (
        sft_batch(data.sft_train, tokenizer, CONTEXT),
        pair_batch(data.preference_train, tokenizer, CONTEXT),
    )
    demonstration, pair = (
        rows.ragged(torch.arange(len(rows))).tokens.numel() / len(rows) for rows in sets
    )
    return pair / demonstration


def budget(scale: str, conflict: float) -> float:
    """Budget of every post-training, in gradients of one batch of demonstrations."""
    return SCALES[scale].gradients * (1 + pair_cost(scale, conflict)) / 2


def fit(
    known: LanguageTask, scale: str, runs: Sequence[Run], updates: int, **settings: Any
) -> Ensemble:
    """Train an ensemble with the settings that the whole study shares."""
    size = SCALES[scale]
    defaults = {"evaluate_every": max(1, updates // 4), "clip": 1.0}
    return train(known, runs, steps=updates, batch_size=size.batch, **{**defaults, **settings})


def train_specialists(scale: str, conflict: float, rate: float, places: Sequence[Path]) -> None:
    """Train specialists, which spend the whole budget on SFT, and store one at each place."""
    known = task(scale, conflict)
    runs = [Run(Alright(lam=0.0), SPECIALIST_SEED + k) for k in range(len(places))]
    done = fit(known, scale, runs, round(budget(scale, conflict)), learning_rate=rate)
    model = checkpoints.load(base(scale))
    for k, place in enumerate(places):
        model.load_state_dict(one_run(done.params, k))
        checkpoints.save(model, place)


def specialists(scale: str, conflict: float, rate: float) -> list[Params]:
    """Parameters of models that spent the whole budget on SFT, each with a first axis of 1."""
    settings = {"size": asdict(SCALES[scale]), "conflict": conflict, "rate": rate}
    places = [
        kept("train_specialists", "sft", number=k, **settings)
        for k in range(SCALES[scale].specialists)
    ]
    if not all(place.exists() for place in places):
        train_specialists(scale, conflict, rate, places)
    return [
        {name: value.detach()[None] for name, value in checkpoints.load(place).named_parameters()}
        for place in places
    ]


def specialist(scale: str, conflict: float, rate: float) -> Params:
    """The first specialist, which the runs use as SFT optimum."""
    return specialists(scale, conflict, rate)[0]


@cache
def least_sft_loss(scale: str, conflict: float, rate: float) -> float:
    """Training loss of the SFT optimum, which MAXRIGHT needs to compute its gap."""
    known = task(scale, conflict)
    shift = known.reference(known.initial([0]))
    best = specialist(scale, conflict, rate)
    return float(known.evaluate(best, shift)["sft_loss_train"][0])


def prepare(scale: str, conflicts: Iterable[float], rates: Iterable[tuple[float, float]]) -> None:
    """Make the models of (conflict, SFT rate) pairs before worker processes need them."""
    with few_threads(1):  # On busy cores models this small are slower with more threads.
        for conflict in conflicts:
            task(scale, conflict)
        for conflict, rate in rates:
            specialist(scale, conflict, rate)
