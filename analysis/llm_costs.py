"""One measurement of :mod:`analysis.llm_resources`, in a process of its own.

``python -m analysis.llm_costs '{"shape": "llama-tiny", "method": "Mix"}'`` prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch

from analysis.live_tensors import LiveTensors
from tradeoff.data.rows import PreferenceRow, SftRow
from tradeoff.schedules import Alright, Maxright, Mix, Schedule, Sequential

if TYPE_CHECKING:
    from tradeoff.llm import JointTrainer, TrainResult

REFRESH, WATCHED = 10, 8
"""Updates from probe to probe; updates in which tensors are counted, both stages among them."""
SHAPES: dict[str, dict[str, Any]] = {
    "pythia-1b": {
        "family": "GPTNeoX",
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 8,
        "intermediate_size": 8192,
        "vocab_size": 50304,
        "lora": (32, ("query_key_value",)),
    },
    "llama-3-8b": {
        "family": "Llama",
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 128256,
        "rope_theta": 500_000.0,
        "lora": (16, ("q_proj", "v_proj")),
    },
    "pythia-tiny": {
        "family": "GPTNeoX",
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "vocab_size": 8192,
        "lora": (32, ("query_key_value",)),
    },
    "llama-tiny": {
        "family": "Llama",
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 448,
        "vocab_size": 8192,
        "lora": (16, ("q_proj", "v_proj")),
    },
}
"""Shapes of the published models, from their model cards, and small ones of the same families."""


@dataclass(frozen=True)
class Setting:
    """What is measured: a method at a shape, on rows of about `length` tokens."""

    shape: str = "llama-tiny"
    method: str = "Sequential"
    device: str = "cpu"
    precision: str = "fp32"
    batch_size: int = 16
    rows_per_forward: int = 8
    length: int = 384
    updates: int = 40
    layout: Literal["padded", "packed", "shared"] = "packed"


@dataclass(frozen=True)
class Measured:
    """What it cost.

    Attributes
    ----------
    seconds
        Per gradient of one objective.
    seconds_per_update
        As the paper counts.
    tokens_per_second
        Of training, both responses of a pair counted.
    utilisation
        Model FLOPs over the device's bf16 peak; None where that is unknown.
    memory
        Bytes of tensors at the peak, the model's included: as a GPU's allocator tells, and on the
        CPU as counted in a few updates of their own.
    """

    seconds: float
    seconds_per_update: float
    tokens_per_second: float
    utilisation: float | None
    memory: float


def schedule(method: str) -> Schedule:
    """The schedule behind a method's name, at lambda = 1/2."""
    return {
        "SFT only": Alright(lam=0.0),
        "DPO only": Alright(lam=1.0),
        "Sequential": Sequential(),
        "Mix": Mix(),
        "ALRIGHT": Alright(),
        "MAXRIGHT": Maxright(refresh=REFRESH, samples=16),
    }[method]


def rows(setting: Setting) -> tuple[list[SftRow], list[PreferenceRow]]:
    """Rows of letters, one token each; lengths vary by a factor of about two, a third is prompt."""
    rng = np.random.default_rng(0)

    def text(share: float) -> str:
        count = max(2, int(setting.length * share * rng.uniform(0.6, 1.4)))
        return "".join(rng.choice(list("abcdefghij "), count))

    count = 2 * setting.batch_size * max(4, setting.updates // 4)
    sft = [SftRow(f"q{text(1 / 3)}", text(2 / 3)) for _ in range(count)]
    pairs = [PreferenceRow(f"q{text(1 / 3)}", text(2 / 3), text(2 / 3)) for _ in range(count)]
    return sft, pairs


def build(setting: Setting) -> tuple[Any, Any]:
    """A model with random weights on the device, and a tokenizer of bytes."""
    import transformers

    from tradeoff import tiny

    shape = dict(SHAPES[setting.shape])
    family = shape.pop("family")
    del shape["lora"]
    config = getattr(transformers, f"{family}Config")(
        **shape, max_position_embeddings=2048, bos_token_id=None, eos_token_id=None
    )
    kind = torch.bfloat16 if setting.precision == "bf16" else torch.float32
    torch.manual_seed(0)
    with torch.device(setting.device):
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=kind, attn_implementation="sdpa"
        )
    return model, tiny.random_model()[1]


def measure(setting: Setting) -> Measured:
    """Measure one method, ours or TRL's."""
    theirs = setting.method.startswith("TRL")
    found = yardstick(setting) if theirs else ours(setting)
    if setting.device != "cpu":
        return found
    with LiveTensors() as seen:
        few = replace(setting, updates=WATCHED)
        by_trl(few) if theirs else by_us(few)
    return replace(found, memory=float(seen.peak))


def ours(setting: Setting) -> Measured:
    """Train with the joint trainer, timing every update."""
    trainer, done = by_us(setting)
    steps = per_update(done.table)
    probes = steps["probed"].mean() / setting.batch_size / 3
    seconds = seconds_per_update(steps)
    return Measured(
        seconds=seconds / (float(steps["gradients"].mean()) + probes),
        seconds_per_update=seconds,
        tokens_per_second=float(steps.groupby("kind")["tokens"].mean().mean()) / seconds,
        utilisation=trainer.meter.utilisation(),
        memory=done.summary["peak_memory_bytes"],
    )


def by_us(setting: Setting) -> tuple[JointTrainer, TrainResult]:
    """One training with the joint trainer."""
    from tradeoff.llm import JointTrainer, Lora, TrainConfig

    model, tokenizer = build(setting)
    sft, pairs = rows(setting)
    rank, targets = SHAPES[setting.shape]["lora"]
    config = TrainConfig(
        steps=setting.updates,
        batch_size=setting.batch_size,
        rows_per_forward=setting.rows_per_forward,
        lora=Lora(rank=rank, alpha=rank, targets=targets),
        precision=setting.precision,
        layout=setting.layout,
        holdout=0.0,
        # With nothing held out, an evaluation only waits for the device and reads the clock.
        evaluate_every=1,
        log_every=setting.updates,
    )
    rule = schedule(setting.method)
    if isinstance(rule, Maxright):
        # Random weights are further from one optimum than from the other, and only one objective
        # would ever be followed: measure gaps from where both begin alike.
        first = JointTrainer(
            model,
            tokenizer,
            sft=sft,
            preference=pairs,
            schedule=rule,
            config=replace(config, steps=1),
        )
        first.train(progress=False)
        sft_loss, preference_loss = (float(value) - 1 for value in first.known.values)
        model = first.model
        config = replace(config, lora=None, optima=(sft_loss, preference_loss))
    trainer = JointTrainer(
        model, tokenizer, sft=sft, preference=pairs, schedule=rule, config=config
    )
    return trainer, trainer.train(progress=False)


def per_update(table: pd.DataFrame) -> pd.DataFrame:
    """Time, tokens and kind of every update after the first two of its kind, which warm up."""
    counted = ["seconds", "tokens", "probe_rows", "sft_updates", "preference_updates"]
    steps = table[counted].diff().iloc[1:].rename(columns={"probe_rows": "probed"})
    steps["kind"] = steps["sft_updates"] + 2 * steps["preference_updates"]
    steps["gradients"] = steps["sft_updates"] + steps["preference_updates"]
    return steps[steps.groupby("kind").cumcount() >= 2]


def seconds_per_update(steps: pd.DataFrame) -> float:
    """Typical time of an update: kinds weigh alike, so that the luck of a draw does not count.

    What probes add is told apart and spread over all updates.
    """
    plain = steps[steps["probed"] == 0]
    typical = plain.groupby("kind")["seconds"].median()
    extra = steps["seconds"] - steps["kind"].map(typical)
    probed = steps["probed"] > 0
    added = float(extra[probed].median() * probed.mean()) if probed.any() else 0.0
    return float(typical.mean()) + added


def yardstick(setting: Setting) -> Measured:
    """Train with TRL on the same rows, adapters and batch: its defaults otherwise.

    The reference is evaluated before training, as ours is; neither is timed.
    """
    from tradeoff.llm.meter import Meter

    meter = Meter(torch.device(setting.device))
    given, times = by_trl(setting)
    seconds = float(np.median(times[2:]))
    tokens = float(np.mean([_tokens(row) for row in given])) * setting.batch_size
    return Measured(
        seconds=seconds,
        seconds_per_update=seconds,
        tokens_per_second=tokens / seconds,
        utilisation=None,
        memory=meter.peak_memory(),
    )


def by_trl(setting: Setting) -> tuple[list[Any], list[float]]:
    """One training with TRL: its rows, and the seconds of its steps."""
    import datasets
    import trl
    from peft import LoraConfig
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        times: list[float]

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.times = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            _wait(setting.device)
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            _wait(setting.device)
            self.times.append(time.perf_counter() - self.began)

    model, tokenizer = build(setting)
    sft, pairs = rows(setting)
    rank, targets = SHAPES[setting.shape]["lora"]
    given = sft if setting.method == "TRL SFT" else pairs
    kind = "SFT" if setting.method == "TRL SFT" else "DPO"
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = getattr(trl, f"{kind}Config")(
            output_dir=folder,
            max_steps=setting.updates // 2,
            per_device_train_batch_size=setting.rows_per_forward,
            gradient_accumulation_steps=setting.batch_size // setting.rows_per_forward,
            use_cpu=setting.device == "cpu",
            bf16=setting.precision == "bf16",
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            logging_steps=setting.updates,
            max_length=2048,
            **({} if kind == "SFT" else {"precompute_ref_log_probs": True}),
        )
        trainer = getattr(trl, f"{kind}Trainer")(
            model=model,
            args=arguments,
            train_dataset=datasets.Dataset.from_list([asdict(row) for row in given]),
            processing_class=tokenizer,
            peft_config=LoraConfig(
                r=rank, lora_alpha=rank, target_modules=list(targets), task_type="CAUSAL_LM"
            ),
            callbacks=[clock],
        )
        trainer.train()
    return given, clock.times


def _tokens(row: Any) -> int:
    """Tokens of a row, the end of each response counted."""
    if isinstance(row, SftRow):
        return len(row.prompt) + len(row.completion) + 1
    return 2 * len(row.prompt) + len(row.chosen) + len(row.rejected) + 2


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    print(json.dumps(asdict(measure(Setting(**json.loads(sys.argv[1]))))))
