"""One post-training of SmolLM2 in the study, and the results that are stored of it.

The model is SmolLM2-135M-Instruct, dequantised from 4 bits. Its scores are never compared with
published ones. The fast form uses a small random model.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch

from analysis.fernando2024.real import smol_rows
from tradeoff import tiny
from tradeoff.checkout import WORK
from tradeoff.data import chosen_as_sft
from tradeoff.llm import JointTrainer, Lora, TrainConfig, models
from tradeoff.llm.callbacks import Callback
from tradeoff.llm.config import ModelConfig
from tradeoff.methods import Method
from tradeoff.schedules import Alright

FOLDER = WORK / "smol"
"""Folder of runs and of cached log-probabilities of references."""
MODEL = "TRADEOFF_SMOLLM2"
"""Environment variable with the model's folder or GGUF file, if its package is not installed."""
RANDOM = "random"
"""Name in place of the model: a small byte model with random weights."""
BETA, RANK = 0.1, 8
SHARED = 4
"""Most rows of a pass with shared prompts: attention over one row of all costs their square."""
REFERENCE, AGAIN = 30_000, 40_000
"""Seed of references; added to the seed where demonstrations are met again."""
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The model's chat template without its system prompt, which would be half of a short row."""


def post_train(c: Mapping[str, Any]) -> pd.DataFrame:
    """Trajectory of one run: held-out losses at each evaluation, and log-probabilities at its end.

    Parameters
    ----------
    c
        A configuration of :mod:`analysis.fernando2024.real.smol_plan`.

    Returns
    -------
    DataFrame
        One row for each evaluation. ``optimum_sft`` and ``optimum_preference`` are mean training
        losses of the last third. The last row also has lists of log-probabilities of
        both responses of the held-out pairs, before and after training, and ``exact``, the share
        of demonstrations that greedy decoding would repeat.

    Raises
    ------
    KeyboardInterrupt
        If a signal ended the run early. Its partial result is not stored.
    """
    began = time.process_time()
    ends = Ends()
    changes: dict[str, Any] = {"reference": reference(c)} if c.get("reference") else {}
    trainer = make(c, ends, **changes)
    with warnings.catch_warnings():
        # The study measures optima itself, and the table counts the updates of each objective.
        warnings.filterwarnings("ignore", message="none of .* updates followed")
        done = trainer.train(progress=False)
    if done.interrupted:
        raise KeyboardInterrupt
    if c.get("relearn"):
        return relearned(c, trainer).assign(cpu_seconds=time.process_time() - began)
    table = done.table.reset_index(drop=True)
    last = len(table) - 1
    for name, values in ends.found.items():
        table[name] = [[] if i < last else list(values) for i in range(len(table))]
    optima = {f"optimum_{name}": late(done.log, f"{name}/loss") for name in ("sft", "preference")}
    return table.assign(
        **optima,
        exact=[np.nan] * last + [ends.exact],
        diverged_at=np.nan if done.diverged_at is None else done.diverged_at,
        cpu_seconds=time.process_time() - began,
    )


def relearned(c: Mapping[str, Any], trained: JointTrainer) -> pd.DataFrame:
    """SFT losses while a trained model is trained on demonstrations again.

    Parameters
    ----------
    c
        The configuration; ``relearn`` is the number of updates, ``sft_rate`` their step size.
    trained
        The trainer of the run that has ended.
    """
    again = {**c, "method": Method(Alright(lam=0.0)).to_dict(), "updates": c["relearn"],
             "rate": c["sft_rate"], "marks": 4, "optima": None,
             "seed": c["seed"] + AGAIN}  # fmt: skip
    loaded = trained.model, trained.tokenizer
    done = make(again, loaded=loaded, lora=None).train(progress=False)
    if done.interrupted:
        raise KeyboardInterrupt
    return done.table.reset_index(drop=True).assign(relearned=done.table["step"].to_numpy())


def reference(c: Mapping[str, Any]) -> str:
    """Folder of the model after SFT on demonstrations ("sft") or chosen responses ("chosen")."""
    of_sft = {**c, "method": Method(Alright(lam=0.0)).to_dict(), "seed": REFERENCE,
              "rate": c["sft_rate"], "preference_rate": None, "optima": None,
              "marks": 1}  # fmt: skip
    about = [of_sft[k] for k in ("model", "precision", "pair", "rate", "updates", "batch")]
    name = sha256(json.dumps(about).encode()).hexdigest()[:16]
    folder = FOLDER / "references" / f"{c['reference']}-{name}"
    if not (folder / "model").is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as place:
            run = Path(place) / "run"
            done = make(of_sft, output=run, chosen=c["reference"] == "chosen").train(progress=False)
            if done.interrupted:
                raise KeyboardInterrupt
            try:
                run.rename(folder)
            except OSError:  # Another process was first.
                if not (folder / "model").is_dir():
                    raise
    return str(folder / "model")


def make(
    c: Mapping[str, Any],
    *hooks: Callback,
    loaded: tuple[Any, Any] | None = None,
    output: Path | None = None,
    chosen: bool = False,
    **changes: Any,
) -> JointTrainer:
    """The trainer of a configuration.

    Parameters
    ----------
    c, *hooks
        Configuration and callbacks.
    loaded
        Model and tokenizer, in place of the base model and its own.
    output
        Folder of the run, where its model is needed.
    chosen
        Train on chosen responses in place of demonstrations.
    **changes
        Of the settings of the training.
    """
    model, tokenizer = loaded or load(c["model"], c["precision"])
    given = smol_rows.rows(c["pair"])
    demonstrations = chosen_as_sft(given.training[1]) if chosen else given.training[0]
    scored = given.validation if c["rows"] == "validation" else given.test
    config = TrainConfig(
        steps=c["updates"],
        batch_size=c["batch"],
        rows_per_forward=min(c["batch"], SHARED) if c["layout"] == "shared" else c["batch"],
        learning_rate=c["rate"],
        preference_learning_rate=c["preference_rate"],
        beta=BETA,
        lora=Lora(rank=RANK),
        reference_cache=str(FOLDER / "references"),
        row_cache=None if c["model"] == RANDOM else str(FOLDER / "rows"),
        optima=None if c["optima"] is None else tuple(c["optima"]),
        chat=c["model"] != RANDOM,
        max_length=c["longest"],
        precision=c["precision"],
        layout=c["layout"],
        evaluate_every=max(1, -(-c["updates"] // c["marks"])),
        log_every=max(1, c["updates"] // 12),
        seed=c["seed"],
    )
    config = replace(config, **changes)
    few = [part[: c["evaluated"]] for part in scored]
    return JointTrainer(
        model, tokenizer, sft=demonstrations, preference=given.training[1],
        schedule=Method.from_dict(c["method"]), config=config, output=output,
        sft_test=few[0], preference_test=few[1], callbacks=hooks,
    )  # fmt: skip


def load(name: str, precision: str = "fp32") -> tuple[Any, Any]:
    """Model and tokenizer of a name in a configuration."""
    if name == RANDOM:
        return tiny.random_model()
    model, tokenizer = _loaded(os.environ.get(MODEL) or name, precision)
    return deepcopy(model), tokenizer  # A run adds its adapters to the model.


@cache
def _loaded(path: str, precision: str) -> tuple[Any, Any]:
    model, tokenizer = models.load(ModelConfig(path=path), frozen_bf16=precision == "bf16")
    tokenizer.chat_template = TEMPLATE
    return model, tokenizer


def late(log: pd.DataFrame, column: str) -> float:
    """Mean training loss over the last third of the log; NaN without updates of the objective."""
    if column not in log:
        return float("nan")
    values = log[column].to_numpy(dtype=float)[-max(1, len(log) // 3) :]
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")


class Ends(Callback):
    """Callback that scores single rows when a run ends."""

    def __init__(self) -> None:
        self.found: dict[str, np.ndarray] = {}
        self.exact = float("nan")

    def evaluated(self, trainer: Any, record: dict[str, Any]) -> None:
        if trainer.step < trainer.steps:
            return
        pairs = trainer.data.preference_test
        after = trainer.scorer.log_probs(pairs).double().cpu().numpy()
        before = trainer.references.test.table.double().cpu().numpy()
        for name, values in (("base", before), ("end", after)):
            self.found |= {f"{name}_chosen": values[:, 0], f"{name}_rejected": values[:, 1]}
        self.exact = exact(trainer)


@torch.no_grad()
def exact(trainer: Any) -> float:
    """Share of held-out demonstrations in which every token is the most probable one.

    Greedy decoding would repeat exactly these. One forward pass of each finds them.
    """
    items, scorer, right = trainer.data.sft_test, trainer.scorer, 0
    rows = trainer.config.rows_per_forward
    trainer.policy.eval()
    with scorer.autocast():
        for start in range(0, len(items), rows):
            batch = scorer.collator(items[start : start + rows], scorer.layout, scorer.pad)
            batch = batch.to(trainer.accelerator.device)
            wrong = trainer.policy(batch, greedy=True) != batch.labels
            right += int((batch.per_response(wrong.float()) == 0).sum())
    return right / max(1, len(items))
