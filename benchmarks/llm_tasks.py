"""The model, rows and trainers of benchmarks.llm, for our package and for TRL.

The model is a Llama with few, narrow blocks and a vocabulary of 32,000, so that logits have the
share of the cost that they have in real models. Weights are random, as cost does not depend on
them. Texts have random words, and lengths that vary as in natural texts.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from tradeoff import tiny
from tradeoff.data.rows import PreferenceRow, SftRow
from tradeoff.llm.config import Lora, TrainConfig
from tradeoff.llm.trainer import JointTrainer
from tradeoff.schedules import Schedule

SHAPE = {
    "vocab_size": 32_000,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": None,
}
BATCH, LENGTH, RATE = 4, 512, 1e-4
LORA = Lora(rank=8, targets=("q_proj", "v_proj"))


def model(seed: int = 0) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**SHAPE))


def tokenizer() -> Any:
    """A byte tokenizer: it has fewer tokens than the model, which does not change the cost."""
    found = tiny.random_model(width=8, layers=1)[1]
    found.pad_token = found.pad_token or found.eos_token
    return found


def text(draw: np.random.Generator, median: float, spread: float = 0.6) -> str:
    """Random words of a length that is log-normal in bytes."""
    length = int(np.clip(median * np.exp(spread * draw.normal()), 8, LENGTH // 2 - 8))
    letters = draw.integers(97, 123, length)
    letters[draw.random(length) < 0.18] = 32
    return "".join(map(chr, letters)).strip() or "word"


def rows(count: int, seed: int = 0) -> tuple[list[SftRow], list[PreferenceRow]]:
    draw = np.random.default_rng(seed)
    sft = [SftRow(text(draw, 40) + ": ", text(draw, 60)) for _ in range(count)]
    pairs = [
        PreferenceRow(text(draw, 40) + ": ", text(draw, 60), text(draw, 60) + "!")
        for _ in range(count)
    ]
    return sft, pairs


def even_rows(count: int, seed: int = 0) -> tuple[list[SftRow], list[PreferenceRow]]:
    """Rows of one length, so that every sequence has the same work."""
    draw = np.random.default_rng(seed)

    def exactly(length: int) -> str:
        return "".join(map(chr, draw.integers(97, 123, length)))

    sft = [SftRow(exactly(24), exactly(24)) for _ in range(count)]
    pairs = [PreferenceRow(exactly(24), exactly(24), exactly(24)) for _ in range(count)]
    return sft, pairs


def ours(
    schedule: Schedule,
    data: tuple[list[SftRow], list[PreferenceRow]],
    base: Any,
    **settings: Any,
) -> JointTrainer:
    given: dict[str, Any] = {
        "batch_size": BATCH,
        "rows_per_forward": BATCH,
        "learning_rate": RATE,
        "max_length": LENGTH,
        "holdout": 0.0,
        "evaluate_every": 10**9,
        "log_every": 10**9,
    }
    return JointTrainer(
        copy.deepcopy(base),
        tokenizer(),
        sft=data[0],
        preference=data[1],
        schedule=schedule,
        config=TrainConfig(**{**given, **settings}),
    )


def theirs(kind: str, data: Any, base: Any, lora: Lora | None = None, **settings: Any) -> Any:
    """TRL's SFTTrainer or DPOTrainer with the same optimiser and rows."""
    import datasets
    import trl
    from peft import LoraConfig

    datasets.disable_progress_bars()
    given = {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": BATCH,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "adam_beta2": 0.95,
        "weight_decay": 0.0,
        "max_length": LENGTH,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    adapters, more = None, {}
    if lora is not None:
        adapters = LoraConfig(
            r=lora.rank,
            lora_alpha=2 * lora.rank,
            target_modules=list(lora.targets),
            task_type="CAUSAL_LM",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer, config = {
            "sft": (trl.SFTTrainer, trl.SFTConfig),
            "dpo": (trl.DPOTrainer, trl.DPOConfig),
        }[kind]
        if kind == "dpo" and lora is None:
            # By default it loads the model a second time by its name, but this model has no name.
            more["ref_model"] = copy.deepcopy(base)
        return trainer(
            copy.deepcopy(base),
            args=config(**{**given, **settings}),
            processing_class=tokenizer(),
            train_dataset=datasets.Dataset.from_list(
                [asdict(row) for row in data[0 if kind == "sft" else 1]]
            ),
            peft_config=adapters,
            **more,
        )


def tokens(run: JointTrainer, objective: int) -> int:
    """Number of tokens of one epoch, without padding."""
    return sum(sum(item.lengths) for item in run.data.training(objective))
