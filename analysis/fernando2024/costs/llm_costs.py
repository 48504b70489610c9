"""Measurements of the figure `llm_resources`: the time of one training, and its memory.

One batch is the whole of either data set. Every update that follows the same objective is then the
same work under every schedule, so times can be compared one to one.
"""

from __future__ import annotations

import gc
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import pandas as pd
import torch

from analysis.fernando2024.costs.live_tensors import LiveTensors
from tradeoff.data.rows import PreferenceRow, SftRow
from tradeoff.errors import InputError
from tradeoff.networks.threads import one_thread
from tradeoff.schedules import (
    PREFERENCE,
    SFT,
    Alright,
    Maxright,
    Mix,
    Schedule,
    Sequential,
)

if TYPE_CHECKING:
    from tradeoff.llm import JointTrainer, TrainResult

S = TypeVar("S")
T = TypeVar("T")
TRL = "trl-"
"""Prefix of the names of TRL's methods."""

REFRESH, WATCHED = 10, 8
"""Updates from one probe (a batch of each objective) to the next; updates whose memory is measured.
"""
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
class Workload:
    """One measurement: a method at a shape, on rows of about `length` tokens.

    With `joint_graph` the forward passes of an update share one backward pass, as in the official
    code. With `checkpointing` activations are computed again in the backward pass.
    """

    shape: str = "llama-tiny"
    method: str = "sft-dpo"
    device: str = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    batch_size: int = 16
    rows_per_forward: int = 8
    length: int = 384
    updates: int = 24
    layout: Literal["padded", "packed", "shared"] = "packed"
    joint_graph: bool = False
    compile: bool = False
    attention: str = "sdpa"
    checkpointing: bool = False


@dataclass(frozen=True)
class Measured:
    """Measured times of one method.

    Attributes
    ----------
    seconds
        Seconds per gradient of one objective. A probe of MAXRIGHT counts as a part of a gradient.
    seconds_per_update
        Seconds per update as the paper counts updates.
    tokens_per_second
        Tokens trained per second; both responses of a pair count.
    utilisation
        Model FLOPs over the device's bf16 peak; None where that is unknown.
    """

    seconds: float
    seconds_per_update: float
    tokens_per_second: float
    utilisation: float | None


def schedule(method: str, batch_size: int) -> Schedule:
    """The schedule of a method's name, at lambda = 1/2."""
    return {
        "sft-only": Alright(lam=0.0),
        "preference-only": Alright(lam=1.0),
        "sft-dpo": Sequential(),
        "mix": Mix(),
        "alright": Alright(),
        "maxright": Maxright(refresh=REFRESH, samples=batch_size),
    }[method]


def rows(setting: Workload) -> tuple[list[SftRow], list[PreferenceRow]]:
    """One batch of either set, with letters of one token each, a third of them in the prompt.

    Lengths vary by a factor of about two.
    """
    rng = np.random.default_rng(0)

    def text(share: float) -> str:
        count = max(2, int(setting.length * share * rng.uniform(0.6, 1.4)))
        return "".join(rng.choice(list("abcdefghij "), count))

    count = setting.batch_size
    sft = [SftRow(f"q{text(1 / 3)}", text(2 / 3)) for _ in range(count)]
    pairs = [PreferenceRow(f"q{text(1 / 3)}", text(2 / 3), text(2 / 3)) for _ in range(count)]
    return sft, pairs


def build(setting: Workload) -> Any:
    """A model with random weights on the device."""
    import transformers

    from tradeoff.llm import varlen

    shape = dict(SHAPES[setting.shape])
    family = shape.pop("family")
    del shape["lora"]
    config = getattr(transformers, f"{family}Config")(
        **shape, max_position_embeddings=2048, bos_token_id=None, eos_token_id=None
    )
    kind = torch.bfloat16 if setting.precision == "bf16" else torch.float32
    if setting.attention == varlen.NAME:
        varlen.register()
    torch.manual_seed(0)
    with torch.device(setting.device):
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=kind, attn_implementation=setting.attention
        )
    return model


@cache
def tokenizer() -> Any:
    """A tokenizer of bytes, the same for all trainings."""
    from tradeoff import tiny

    return tiny.random_model()[1]


def within_memory(found: Callable[[S], T]) -> Callable[[S], T | None]:
    """Wrap a function: its result, or ``None`` if memory is too small. Free memory first."""

    @wraps(found)
    def attempt(setting: S) -> T | None:
        gc.collect()
        torch.cuda.empty_cache()
        try:
            return found(setting)
        except (torch.OutOfMemoryError, InputError) as error:
            if isinstance(error, InputError) and error.field != "rows_per_forward":
                raise
            return None

    return attempt


@within_memory
def measure(setting: Workload) -> Measured:
    """Time one method, ours or TRL's; on the CPU with one thread, to be disturbed least."""
    with one_thread(when=setting.device == "cpu"):
        return yardstick(setting) if setting.method.startswith(TRL) else ours(setting)


@within_memory
def memory(setting: Workload) -> int:
    """Largest number of bytes of tensors at once in a few updates of one method, with the model.

    On a GPU the allocator reports it; on the CPU the results of every operator are counted.
    """
    few = replace(setting, updates=WATCHED)
    train = by_trl if setting.method.startswith(TRL) else by_us
    if setting.device == "cpu":
        with LiveTensors() as seen:
            train(few)
        return seen.peak
    torch.cuda.reset_peak_memory_stats()
    train(few)
    return int(torch.cuda.max_memory_allocated())


def ours(setting: Workload) -> Measured:
    """Train with the joint trainer, timing every update."""
    from tradeoff.llm.meter import peak_flops

    trainer, done = by_us(setting)
    steps = per_update(done.table)
    seconds = seconds_per_update(steps)
    gradients, operations = work(trainer, steps)
    peak = peak_flops(trainer.accelerator.device)
    return Measured(
        seconds=seconds / gradients,
        seconds_per_update=seconds,
        tokens_per_second=float(steps.groupby("kind")["tokens"].mean().mean()) / seconds,
        utilisation=None if peak is None else operations / seconds / peak,
    )


def work(trainer: JointTrainer, steps: pd.DataFrame) -> tuple[float, float]:
    """Gradients and floating-point operations of an update, with equal weight for each kind."""
    sets = (np.arange(len(trainer.data.training(objective))) for objective in (SFT, PREFERENCE))
    each = np.array([trainer.costs.update(*trainer.data.extent(o, r)) for o, r in enumerate(sets)])
    followed = steps.groupby("kind")[["sft_updates", "preference_updates"]].first().mean()
    gradients, operations = float(followed.sum()), float(followed.to_numpy() @ each)
    if steps["probed"].any():
        # Cost of a batch of each objective, without its backward pass.
        share = 1 / trainer.costs.passes / REFRESH
        gradients, operations = gradients + 2 * share, operations + float(each.sum()) * share
    return gradients, operations


def by_us(setting: Workload) -> tuple[JointTrainer, TrainResult]:
    """One training with the joint trainer."""
    from tradeoff.llm import Defects, JointTrainer, Lora, TrainConfig

    model, words = build(setting), tokenizer()
    sft, pairs = rows(setting)
    rank, targets = SHAPES[setting.shape]["lora"]
    config = TrainConfig(
        steps=setting.updates,
        batch_size=setting.batch_size,
        rows_per_forward=setting.rows_per_forward,
        lora=Lora(rank=rank, alpha=rank, targets=targets),
        precision=setting.precision,
        layout=setting.layout,
        defects=Defects(joint_graph=setting.joint_graph),
        compile=setting.compile,
        gradient_checkpointing=setting.checkpointing,
        holdout=0.0,
        # No rows are held out, so an evaluation only waits for the device and reads the clock.
        evaluate_every=1,
        log_every=setting.updates,
    )
    rule = schedule(setting.method, setting.batch_size)
    if isinstance(rule, Maxright):
        # With random weights the two gaps differ, and only one objective would ever be followed.
        # Gaps are therefore measured from values at which both begin equal.
        look = replace(config, steps=1, optima=(0.0, 0.0))
        first = JointTrainer(model, words, sft=sft, preference=pairs, schedule=rule, config=look)
        first.train(progress=False)
        sft_loss, preference_loss = (float(value) - 1 for value in first.known.values)
        model = first.model
        del first
        config = replace(config, lora=None, optima=(sft_loss, preference_loss))
    trainer = JointTrainer(model, words, sft=sft, preference=pairs, schedule=rule, config=config)
    return trainer, trainer.train(progress=False)


def per_update(table: pd.DataFrame) -> pd.DataFrame:
    """Time, tokens and kind of every update but the first two of each kind, which warm up."""
    counted = ["seconds", "tokens", "probe_rows", "sft_updates", "preference_updates"]
    steps = table[counted].diff().iloc[1:].rename(columns={"probe_rows": "probed"})
    steps["kind"] = steps["sft_updates"] + 2 * steps["preference_updates"]
    return steps[steps.groupby("kind").cumcount() >= 2]


def seconds_per_update(steps: pd.DataFrame) -> float:
    """Typical time of an update, with equal weight for each kind, whatever was drawn.

    The time of probes is computed separately, and spread over all updates.
    """
    plain = steps[steps["probed"] == 0]
    typical = plain.groupby("kind")["seconds"].median()
    probed = steps[steps["probed"] > 0]
    extra = probed["seconds"] - probed["kind"].map(typical)
    return float(typical.mean()) + (float(extra.median()) / REFRESH if len(extra) else 0.0)


def yardstick(setting: Workload) -> Measured:
    """Train with TRL on the same rows, adapters and batch, otherwise with TRL's defaults.

    The reference is evaluated before training, as in our trainer. Neither evaluation is timed.
    """
    given, times = by_trl(setting)
    seconds = float(np.median(times[2:]))
    return Measured(
        seconds=seconds,
        seconds_per_update=seconds,
        tokens_per_second=sum(map(_tokens, given)) / seconds,
        utilisation=None,
    )


def by_trl(setting: Workload) -> tuple[list[Any], list[float]]:
    """One training with TRL: the rows, and the seconds of its steps."""
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

    sft, pairs = rows(setting)
    given, clock = sft if setting.method == "trl-sft" else pairs, Clock()
    train_with_trl(
        setting, given, deepcopy(tokenizer()), clock,  # TRL adds to the tokenizer.
        max_steps=setting.updates // 2, max_length=2048, logging_steps=setting.updates,
    )  # fmt: skip
    return given, clock.times


def train_with_trl(
    setting: Workload, given: Sequence[Any], words: Any, callback: Any, **arguments: Any
) -> None:
    """Train with TRL on rows: the same adapters, batch and precision, its defaults otherwise.

    Parameters
    ----------
    setting
        Shape, method ("trl-sft" or "trl-dpo"), batch, device and precision.
    given
        Demonstrations or pairs, as plain text.
    words
        The tokenizer, to which TRL may add.
    callback
        A callback of transformers, such as a clock.
    **arguments
        Fields of TRL's configuration, such as ``max_steps`` and ``max_length``.
    """
    import datasets
    import trl
    from accelerate.state import AcceleratorState
    from peft import LoraConfig
    from transformers import PrinterCallback

    rank, targets = SHAPES[setting.shape]["lora"]
    kind = "SFT" if setting.method == "trl-sft" else "DPO"
    own = {} if kind == "SFT" else {"precompute_ref_log_probs": True}
    with tempfile.TemporaryDirectory() as folder, quiet():
        settings = getattr(trl, f"{kind}Config")(
            output_dir=folder,
            per_device_train_batch_size=setting.rows_per_forward,
            gradient_accumulation_steps=setting.batch_size // setting.rows_per_forward,
            use_cpu=setting.device == "cpu",
            bf16=setting.precision == "bf16",
            gradient_checkpointing=setting.checkpointing,
            report_to="none",
            save_strategy="no",
            **own,
            **arguments,
        )
        trainer = getattr(trl, f"{kind}Trainer")(
            model=build(setting),
            args=settings,
            train_dataset=datasets.Dataset.from_list([asdict(row) for row in given]),
            processing_class=words,
            peft_config=LoraConfig(
                r=rank, lora_alpha=rank, target_modules=list(targets), task_type="CAUSAL_LM"
            ),
            callbacks=[callback],
        )
        trainer.remove_callback(PrinterCallback)
        try:
            trainer.train()
        finally:
            # Otherwise TRL's precision would apply to all later trainings in this process.
            AcceleratorState._reset_state(reset_partial_state=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Context manager that hides notes of TRL and transformers which say nothing of the result."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*is deprecated", FutureWarning)
            yield
    finally:
        logging.set_verbosity(level)


def _tokens(row: Any) -> int:
    """Tokens of a row, with the end token of each response."""
    if isinstance(row, SftRow):
        return len(row.prompt) + len(row.completion) + 1
    return 2 * len(row.prompt) + len(row.chosen) + len(row.rejected) + 2


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
