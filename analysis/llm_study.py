"""The shared experiment of the figures on real text: one base model, many joint post-trainings.

A small Llama is pretrained once on public-domain books and kept under ``out/``. From it every
configuration is post-trained by :class:`tradeoff.llm.JointTrainer` with the same number of
gradients; the reference is the SFT optimum, as where the paper compares with SFT followed by DPO.
Results are stored run by run through :mod:`tradeoff.study`. Without the text, what was stored is
shown.
"""

from __future__ import annotations

import gzip
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import typer
from joblib import cpu_count

from analysis import methods
from analysis.methods import METHODS
from analysis.runner import PAPER
from tradeoff import study, tiny
from tradeoff.checkout import DATA, ROOT
from tradeoff.data.files import read_preferences, read_sft
from tradeoff.data.rows import PreferenceRow, SftRow
from tradeoff.data.synthetic import Language, generate
from tradeoff.data.tokenizer import train_tokenizer
from tradeoff.errors import InputError
from tradeoff.records import plain, read_json, replacing_folder, write_json
from tradeoff.schedules import OBJECTIVES, Alright, Mix, Schedule, from_dict
from tradeoff.study import addresses
from tradeoff.study.addresses import Task
from tradeoff.study.engines import few_threads

FOLDER = ROOT / "out" / "llm"
SPECIALIST_SEED = 10_000
"""A seed that no run has."""
BETA = 0.1
STORED = PAPER / "results"


@dataclass(frozen=True)
class Scale:
    """Sizes of the experiment; `gradients` is what every post-training may spend."""

    text: str = "rasbt"
    width: int = 128
    layers: int = 4
    heads: int = 4
    vocabulary: int = 2048
    context: int = 192
    pretraining: int = 2000
    pretraining_batch: int = 16
    gradients: int = 200
    batch: int = 8
    rate: float = 5e-4
    marks: int = 10
    evaluated: int = 100
    lams: tuple[float, ...] = (0.25, 0.5, 0.75)
    seeds: int = 5
    device: str = "cpu"


SCALES = {
    "full": Scale(),
    "fast": Scale(
        text="generated",
        width=16,
        layers=1,
        heads=2,
        vocabulary=280,
        context=128,
        pretraining=10,
        pretraining_batch=4,
        gradients=8,
        batch=4,
        rate=4e-3,
        marks=2,
        lams=(0.5,),
        seeds=2,
    ),
    # As large as ten minutes of one H100 allow: see `command`.
    "gpu": Scale(
        text="dolly",
        width=768,
        layers=12,
        heads=12,
        vocabulary=8192,
        context=512,
        pretraining=2000,
        pretraining_batch=64,
        gradients=200,
        batch=32,
        rate=2e-4,
        seeds=3,
        device="cuda",
    ),
}
FILES = {
    "rasbt": ("sft_rasbt", "pref_rasbt"),
    "dolly": ("sft_dolly15k", "pref_hh_helpful_base"),
}
CORPUS = "corpus_gutenberg_children_train.txt.gz"


@dataclass(frozen=True)
class Rows:
    """Training and held-out rows of both objectives."""

    sft: Sequence[SftRow]
    preference: Sequence[PreferenceRow]
    sft_test: Sequence[SftRow]
    preference_test: Sequence[PreferenceRow]


def files(scale: str) -> list[Path]:
    """The files that a scale reads."""
    text = SCALES[scale].text
    if text == "generated":
        return []
    parts = [f"{name}_{part}.jsonl.gz" for name in FILES[text] for part in ("train", "test")]
    return [DATA / name for name in (*parts, CORPUS)]


def available(scale: str) -> bool:
    """Whether the text that a scale reads is here."""
    return all(path.exists() for path in files(scale))


@cache
def rows(scale: str) -> Rows:
    """The rows of a scale."""
    if SCALES[scale].text == "generated":
        found = generate(_language())
        return Rows(found.sft_train, found.preference_train, found.sft_test, found.preference_test)
    sft, preference = FILES[SCALES[scale].text]
    return Rows(
        read_sft(DATA / f"{sft}_train.jsonl.gz"),
        read_preferences(DATA / f"{preference}_train.jsonl.gz"),
        read_sft(DATA / f"{sft}_test.jsonl.gz"),
        read_preferences(DATA / f"{preference}_test.jsonl.gz"),
    )


def corpus(scale: str) -> list[str]:
    """Documents to pretrain on, books in pieces of 20,000 characters."""
    if SCALES[scale].text == "generated":
        return list(generate(_language()).corpus)
    with gzip.open(DATA / CORPUS, "rt", encoding="utf-8") as file:
        books = file.read().split("<|endoftext|>")
    return [book[i : i + 20_000] for book in books for i in range(0, len(book), 20_000)]


def _language() -> Language:
    return Language(sft_rows=40, preference_rows=40, test_rows=8, documents=200)


# ---------------------------------------------------------------------- models kept on disk


def kept(scale: str, made_by: str, settings: dict[str, Any]) -> Path:
    """Folder of a model, addressed by its settings, the sources that make it and its data."""
    return FOLDER / "models" / f"{made_by}-{_maker(scale, made_by).address(settings)[:16]}"


@cache
def _maker(scale: str, made_by: str) -> Task:
    return addresses.task(f"analysis.llm_study:{made_by}", files(scale))


def base(scale: str) -> Path:
    """Folder of the pretrained model, as transformers loads it; made on the first call."""
    size = SCALES[scale]
    place = kept(scale, "base", {k: v for k, v in asdict(size).items() if k in _SHAPE})
    if not place.exists():
        documents = corpus(scale)
        few = documents[:: max(1, len(documents) // 200)]
        tiny.pretrained(
            place,
            documents,
            train_tokenizer(few, size.vocabulary),
            width=size.width,
            layers=size.layers,
            heads=size.heads,
            context=size.context,
            steps=size.pretraining,
            batch_size=size.pretraining_batch,
            length=128,
            device=size.device,
            progress=scale != "fast",
        )
    return place


_SHAPE = {
    "text",
    "width",
    "layers",
    "heads",
    "vocabulary",
    "context",
    "pretraining",
    "pretraining_batch",
}


def specialist(scale: str, objective: str) -> Path:
    """Folder of a run that spends all gradients on one objective.

    ``model/`` is what it became; ``optimum.json`` its training loss then, and its held-out losses
    at the start and where its own was least. That of SFT is the reference of every run.
    """
    settings = asdict(SCALES[scale]) | {"objective": objective}
    place = kept(scale, "specialist", settings)
    if place.exists():
        return place
    lam = 0.0 if objective == "sft" else 1.0
    reference = "initial" if objective == "sft" else str(specialist(scale, "sft") / "model")

    with replacing_folder(place) as partial:
        steps = SCALES[scale].gradients
        trainer = make(scale, Alright(lam=lam), SPECIALIST_SEED, steps, reference, output=partial)
        done = trainer.train(progress=scale != "fast")
        scorer, data = trainer.scorer, trainer.data
        own = (
            scorer.mean_sft(data.sft)["sft_loss"]
            if objective == "sft"
            else scorer.mean_pairs(data.preference, trainer.references.train)["preference_loss"]
        )
        losses = done.table[["sft_loss", "preference_loss"]].to_numpy()
        best = losses[losses[:, OBJECTIVES.index(objective)].argmin()]
        found = {"training_loss": own, "start": losses[0].tolist(), "best": best.tolist()}
        write_json(partial / "optimum.json", found)
        shutil.rmtree(partial / "checkpoints")
    return place


def optima(scale: str) -> tuple[float, float]:
    """Least training losses (SFT, preference) that the specialists found."""
    sft, preference = (
        read_json(specialist(scale, name) / "optimum.json")["training_loss"]
        for name in ("sft", "preference")
    )
    return float(sft), float(preference)


def make(
    scale: str,
    schedule: Schedule,
    seed: int,
    steps: int,
    reference: str,
    *,
    output: Path | None = None,
    least: tuple[float, float] = (0.0, 0.0),
) -> Any:
    """A trainer with the settings that the whole study shares."""
    from tradeoff.llm import JointTrainer, TrainConfig, models
    from tradeoff.llm.config import ModelConfig

    size, given = SCALES[scale], rows(scale)
    model, tokenizer = models.load(ModelConfig(path=str(base(scale))))
    config = TrainConfig(
        steps=steps,
        batch_size=size.batch,
        rows_per_forward=size.batch,
        learning_rate=size.rate,
        beta=BETA,
        reference=reference,
        reference_cache=None if reference == "initial" else str(FOLDER / "references"),
        optima=least,
        max_length=size.context,
        layout="padded",
        precision="fp32" if size.device == "cpu" else "bf16",
        evaluate_every=max(1, steps // size.marks),
        evaluate_rows=size.evaluated,
        log_every=max(1, steps // size.marks),
        seed=seed,
    )
    return JointTrainer(
        model,
        tokenizer,
        sft=given.sft,
        preference=given.preference,
        schedule=schedule,
        config=config,
        sft_test=given.sft_test,
        preference_test=given.preference_test,
        output=output,
    )


# ---------------------------------------------------------------------- runs


def post_train(configuration: dict[str, Any]) -> pd.DataFrame:
    """Trajectory of one run: held-out losses, counts and costs at each evaluation."""
    began, scale = time.process_time(), configuration["scale"]
    schedule = from_dict(configuration["schedule"])
    reference = str(specialist(scale, "sft") / "model")
    trainer = make(
        scale,
        schedule,
        configuration["seed"],
        configuration["updates"],
        reference,
        least=optima(scale),
    )
    done = trainer.train(progress=False)
    spent = time.process_time() - began
    return done.table.assign(
        diverged_at=np.nan if done.diverged_at is None else done.diverged_at, cpu_seconds=spent
    )


schedule = partial(methods.schedule, samples=16)


def configuration(scale: str, rule: Schedule, seed: int) -> dict[str, Any]:
    """One run at the study's budget; a method that follows both objectives has half the updates."""
    gradients = SCALES[scale].gradients
    updates = gradients // 2 if isinstance(rule, Mix) else gradients
    return {
        "scale": scale,
        "size": asdict(SCALES[scale]),
        "schedule": rule.to_dict(),
        "seed": seed,
        "updates": updates,
    }


def comparison(scale: str) -> list[dict[str, Any]]:
    """Every method at every weight and seed."""
    size = SCALES[scale]
    return [
        configuration(scale, schedule(label, lam), seed)
        for label in METHODS
        for lam in size.lams
        for seed in range(size.seeds)
    ]


def run(scale: str, configurations: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Trajectories of all runs with columns ``method`` and ``lam``; computes what is missing."""
    with few_threads(1):
        optima(scale)
    fast, cuda = scale == "fast", SCALES[scale].device == "cuda"
    alone = fast or cuda
    table = study.run(
        post_train,
        configurations,
        FOLDER / scale,
        backend="sequential" if alone else "loky",
        jobs=1 if alone else min(4, cpu_count()),
        progress=not fast,
        depends=files(scale),
    )
    table = table.rename(columns={"schedule.lam": "lam"})
    return methods.with_methods(table, configurations)


def numbers(name: str, fast: bool, measure: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """What a figure shows: measured here, or where the text is absent the stored run's numbers."""
    scale = "fast" if fast else "full"
    if available(scale):
        # As the stored file has it, so that both are drawn alike.
        return plain(measure(scale)) | {"source": "this run"}
    path = STORED / f"{name}.json"
    if not path.exists():
        remedy = f"Put the files that its README names into {DATA} and run again."
        raise InputError("no real text and no stored run", field=name, remedy=remedy)
    return read_json(path)["numbers"] | {"source": "stored run"}


def about(scale: str) -> str:
    """What every caption says of the experiment."""
    size = SCALES[scale]
    return (
        f"A Llama of {size.layers} layers and width {size.width}, pretrained here for "
        f"{size.pretraining} updates on public-domain books, then trained on real rows "
        f"({' and '.join(FILES[size.text])}): {size.gradients} gradients of {size.batch} rows each "
        f"(Mix: half as many updates of two), AdamW at {size.rate:g} constant, beta = {BETA}, "
        "reference = the SFT optimum, as where the paper compares with SFT→DPO; start = the base "
        "model; rows that MAXRIGHT evaluates, and the runs that it has its optima from, are not "
        "counted. What varies is the seed, that is the order of rows and draws: "
        f"n = {size.seeds} seeds, the same for all methods; all losses are held out."
    )


def start(scale: str) -> tuple[float, float]:
    """Held-out losses of the base model, with the SFT optimum as reference."""
    begin = read_json(specialist(scale, "preference") / "optimum.json")["start"]
    return float(begin[0]), float(begin[1])


def ideal(scale: str) -> tuple[float, float]:
    """The ideal point: the least held-out loss of each specialist in its own objective."""
    sft = read_json(specialist(scale, "sft") / "optimum.json")["best"][0]
    taste = read_json(specialist(scale, "preference") / "optimum.json")["best"][1]
    return float(sft), float(taste)


def command(
    scale: Annotated[Literal["gpu", "full", "fast"], typer.Argument()] = "gpu",
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = PAPER,
) -> None:
    """Measure the figures of this study at a scale and write ``results/NAME-SCALE.json``."""
    names = ("llm_loss_space", "llm_forgetting", "max_eval_interval", "llm_table", "llm_bars")
    for name in names:
        found = import_module(f"analysis.{name}").measure(scale)
        typer.echo(write_json(out / "results" / f"{name}-{scale}.json", found))


if __name__ == "__main__":
    typer.run(command)
