"""Short runs of the joint trainer for its tests, also in processes of their own."""

from __future__ import annotations

from typing import Any

import torch
from llm_models import bpe_tokenizer_hf, tiny_llama

from tradeoff.data.rows import PreferenceRow, SftRow
from tradeoff.llm.config import Lora, TrainConfig
from tradeoff.llm.trainer import JointTrainer
from tradeoff.schedules import Alright, Maxright, Mix, Schedule, Sequential

SCHEDULES: dict[str, Schedule] = {
    "sft-dpo": Sequential(first="sft", share=0.5),
    "dpo-sft": Sequential(first="preference", share=0.5),
    "mix": Mix(lam=0.4),
    "alright": Alright(lam=0.5),
    "maxright": Maxright(lam=0.9, refresh=3, samples=4),
}
WORDS = ("fox", "dog", "bread", "Paris", "code", "tea", "a long walk", "rain and wind")
LORA = Lora(rank=2, dropout=0.2, targets=("q_proj", "v_proj"))


def sft_rows(count: int = 20) -> tuple[SftRow, ...]:
    """Demonstrations of different lengths, all prompts different."""
    return tuple(
        SftRow(f"Say {WORDS[i % 8]} {i}: ", f"{WORDS[i % 8]} " * (1 + i % 3)) for i in range(count)
    )


def preference_rows(count: int = 20) -> tuple[PreferenceRow, ...]:
    """Pairs of different lengths."""
    return tuple(
        PreferenceRow(
            f"Ask {i} ", f"kindly {WORDS[i % 8]}", f"{WORDS[(i + 3) % 8]}, no" * (1 + i % 2)
        )
        for i in range(count)
    )


def trainer(
    schedule: Schedule | str = "alright",
    *,
    output: Any = None,
    model: Any = None,
    sft: Any = None,
    preference: Any = None,
    callbacks: Any = (),
    **settings: Any,
) -> JointTrainer:
    """A trainer of a tiny random Llama; `settings` go to its configuration."""
    tokenizer = bpe_tokenizer_hf()
    given = {
        "steps": 6,
        "batch_size": 4,
        "rows_per_forward": 2,
        "learning_rate": 1e-2,
        "max_length": 64,
        "evaluate_every": 2,
        "log_every": 2,
        "holdout": 0.2,
    }
    return JointTrainer(
        tiny_llama(len(tokenizer)) if model is None else model,
        tokenizer,
        sft=sft_rows() if sft is None else sft,
        preference=preference_rows() if preference is None else preference,
        schedule=SCHEDULES[schedule] if isinstance(schedule, str) else schedule,
        config=TrainConfig(**{**given, **settings}),
        output=output,
        callbacks=callbacks,
    )


def weights(run: JointTrainer) -> dict[str, torch.Tensor]:
    """Copies of all weights of a run on one process."""
    return {k: v.detach().clone() for k, v in run.policy.state_dict().items()}


VOLATILE = ("seconds", "tokens_per_second", "peak_memory_bytes")


def steady(table: Any) -> Any:
    """A table without what differs between two equal runs."""
    return table.drop(columns=[c for c in VOLATILE if c in table.columns])
