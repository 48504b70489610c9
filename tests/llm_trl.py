"""TRL's trainers on the rows and weights of a test: an independent implementation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import datasets
import numpy as np
import pytest
from torch.utils.data import SequentialSampler
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from tradeoff.data.rows import PreferenceRow, SftRow
from tradeoff.llm._streams import Stream

# TRL names the setting that turns recomputation off by a name that transformers had before v6.
IGNORED = r"ignore:`\w*gradient_checkpointing\w*` is deprecated"
RATE, LENGTH = 5e-4, 64


class Dpo(DPOTrainer):
    """Reads rows in their order."""

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


class Sft(SFTTrainer):
    """Reads rows in their order."""

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def in_order(patch: pytest.MonkeyPatch) -> None:
    """Make our streams read rows in their order, too."""

    def rows(self: Stream, position: int, count: int) -> np.ndarray:
        return np.arange(position, position + count) % self.size

    patch.setattr(Stream, "rows", rows)


def settings(folder: Any, steps: int, at_once: int, accumulation: int) -> dict[str, Any]:
    """The same optimiser as ours: constant rate, AdamW without decay, clipping at 1."""
    return {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "max_grad_norm": 1.0,
        "weight_decay": 0.0,
        "max_length": LENGTH,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_strategy": "no",
        "dataloader_pin_memory": False,
    }


def dpo(
    model: Any,
    reference: Any,
    tokenizer: Any,
    rows: Sequence[PreferenceRow],
    folder: Any,
    *,
    steps: int = 8,
    at_once: int = 2,
    accumulation: int = 2,
    **more: Any,
) -> Dpo:
    """A trainer of a copy of the model."""
    return Dpo(
        copy.deepcopy(model),
        ref_model=copy.deepcopy(reference),
        args=DPOConfig(**(settings(folder, steps, at_once, accumulation) | more)),
        processing_class=copy.deepcopy(tokenizer),
        train_dataset=datasets.Dataset.from_list([asdict(row) for row in rows]),
    )


def sft(
    model: Any,
    tokenizer: Any,
    rows: Sequence[SftRow],
    folder: Any,
    *,
    steps: int = 8,
    at_once: int = 2,
    accumulation: int = 2,
    peft_config: Any = None,
    **more: Any,
) -> Sft:
    """A trainer of a copy of the model."""
    return Sft(
        copy.deepcopy(model),
        peft_config=peft_config,
        args=SFTConfig(**settings(folder, steps, at_once, accumulation), **more),
        processing_class=copy.deepcopy(tokenizer),
        train_dataset=datasets.Dataset.from_list([asdict(row) for row in rows]),
    )
