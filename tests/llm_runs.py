"""Short runs of the joint trainer for its tests, some in separate processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from llm_models import bpe_tokenizer_hf, tiny_llama

from tradeoff.data.rows import PreferenceRow, SftRow
from tradeoff.errors import InputError
from tradeoff.llm._owner import Lock
from tradeoff.llm.batches import collate
from tradeoff.llm.config import Lora, TrainConfig
from tradeoff.llm.trainer import JointTrainer
from tradeoff.records import replacing
from tradeoff.schedules import Alright, Constrained, Maxright, Mix, Rounds, Schedule, Sequential

SCHEDULES: dict[str, Schedule] = {
    "sft-dpo": Sequential(first="sft", share=0.5),
    "dpo-sft": Sequential(first="preference", share=0.5),
    "mix": Mix(lam=0.4),
    "alright": Alright(lam=0.5),
    "maxright": Maxright(lam=0.9, refresh=3, samples=4),
    "rounds": Rounds(rounds=2, lam=0.5),
    "rounds-restarted": Rounds(rounds=2, first="preference", restart=True),
    "constrained": Constrained(limit=0.9, relative=True, refresh=2, samples=4),
}
PICKED = ("sft-dpo", "alright", "maxright", "rounds")
"""Schedules of each kind; the others are tested in the same way by the slow tests."""
WORDS = ("fox", "dog", "bread", "Paris", "code", "tea", "a long walk", "rain and wind")
LORA = Lora(rank=2, dropout=0.2, targets=("q_proj", "v_proj"))


def cases(names: Collection[str], few: Collection[str]) -> list[Any]:
    """Parameters of a test: those of `few` in the fast tests, all others in the slow ones."""
    import pytest  # Not in each of the processes below.

    assert set(few) <= set(names)
    return [name if name in few else pytest.param(name, marks=pytest.mark.slow) for name in names]


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
    collator: Any = collate,
    optimizer: Any = None,
    rates: Any = None,
    **settings: Any,
) -> JointTrainer:
    """A trainer of a tiny random Llama; `settings` go to its configuration."""
    tokenizer = bpe_tokenizer_hf()
    given: dict[str, Any] = {
        "steps": 6,
        "batch_size": 4,
        "rows_per_forward": 2,
        "learning_rate": 1e-2,
        "max_length": 64,
        "evaluate_every": 2,
        "log_every": 2,
        "holdout": 0.2,
        "fsync": False,
    }
    schedule = SCHEDULES[schedule] if isinstance(schedule, str) else schedule
    if schedule.name in (Constrained.name, Maxright.name):  # Without this setting they warn.
        given["optima"] = (1.0, 0.0) if schedule.name == Constrained.name else (0.0, 0.0)
    return JointTrainer(
        tiny_llama(len(tokenizer)) if model is None else model,
        tokenizer,
        sft=sft_rows() if sft is None else sft,
        preference=preference_rows() if preference is None else preference,
        schedule=schedule,
        config=TrainConfig(**{**given, **settings}),
        output=output,
        callbacks=callbacks,
        collator=collator,
        optimizer=optimizer,
        rates=rates,
    )


def begin(run: JointTrainer) -> JointTrainer:
    """Prepare a run and its reference, up to the first update."""
    run._prepare_reference(iter)
    return run


def weights(run: JointTrainer) -> dict[str, torch.Tensor]:
    """Copies of all weights of a run on one process."""
    return {k: v.detach().clone() for k, v in run.policy.state_dict().items()}


VOLATILE = ("seconds", "tokens_per_second", "peak_memory_bytes")


def steady(table: Any) -> Any:
    """Remove the columns of a table that differ between two equal runs."""
    return table.drop(columns=[c for c in VOLATILE if c in table.columns])


def stop_at(step: int, number: int) -> Callable[[JointTrainer, dict[str, Any]], None]:
    """A callback that sends this process a signal at the evaluation of an update."""

    def stop(run: JointTrainer, record: dict[str, Any]) -> None:
        if run.step == step:
            signal.raise_signal(number)

    return stop


# ---------------------------------------------------------------------- runs in other processes

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["peft", "tradeoff.llm.trainer", "transformers.models.llama.modeling_llama", "accelerate"]
)
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}


def barrier(count: int) -> Any:
    """A barrier at which as many processes of :func:`start` wait for each other."""
    return _SERVER.Barrier(count)


def start(target: Callable[..., None], *arguments: Any, **settings: Any) -> Any:
    """A started process. The first one takes seconds; later ones fork from its imports."""
    process = _SERVER.Process(target=target, args=arguments, kwargs=settings, daemon=True)
    process.start()
    return process


def on_ranks(
    count: int, folder: Path, environment: dict[str, str] | None = None, **settings: Any
) -> list[Any]:
    """Train on `count` ranks over gloo; the evaluations that each rank saw.

    `environment` is what a launcher sets, such as `FSDP`; the last rank gets SIGTERM at the
    evaluation of update `stop_at`, if that is among the settings.
    """
    environment = environment or {}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        start(
            train_rank,
            {**shared, **environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            folder,
            settings,
        )
        for rank in range(count)
    ]
    for process in ranks:
        process.join(300)
    codes = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()
    assert codes == [0] * count, (folder / "error-0.txt").read_text("utf-8")
    return [json.loads((folder / f"rank-{rank}.json").read_text("utf-8")) for rank in range(count)]


def shard_on_cpu() -> None:
    """Make accelerate use its FSDP path over gloo too. By itself it shards on devices only."""
    from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin
    from accelerate.state import PartialState

    state = Accelerator(mixed_precision="no", cpu=True).state
    # The second patch passes the settings of the first to each new accelerator.
    state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
    state.fsdp_plugin = FullyShardedDataParallelPlugin()


def train_rank(environment: dict[str, str], folder: Path, settings: dict[str, Any]) -> None:
    """One rank of `on_ranks`."""
    os.environ |= environment
    rank, last = environment["RANK"], str(int(environment["WORLD_SIZE"]) - 1)
    stop = stop_at(settings.pop("stop_at", -1), signal.SIGTERM)
    try:
        # With float32, differences in rounding would grow to differences in Adam's steps.
        model = tiny_llama(len(bpe_tokenizer_hf()), **settings.pop("model", {})).double()
        if "FSDP_VERSION" in environment:
            shard_on_cpu()
        run = trainer(
            output=folder, model=model, callbacks=[stop] if rank == last else (), **settings
        )
        table = steady(run.train(progress=False).table)
        table["kind"] = type(run.policy).__name__
        (folder / f"rank-{rank}.json").write_text(
            table.to_json(orient="records", double_precision=15), "utf-8"
        )
        run.accelerator.end_training()
    except BaseException:
        (folder / f"error-{rank}.txt").write_text(traceback.format_exc(), "utf-8")
        raise


def train_here(folder: Path, settings: dict[str, Any], result: Path | None = None) -> None:
    """Do a run in a process, and write its last message to `result`."""
    done = trainer(output=folder, **settings).train(progress=False)
    if result is not None:
        result.write_text(json.dumps({"signal": done.signal, **done.summary}), "utf-8")


def take_folder(folder: Path, result: Path, together: Any) -> None:
    """Lock an output folder after a barrier; write the outcome, and keep the lock."""
    lock = Lock(folder)
    together.wait(60)
    try:
        lock.take()
        found = "mine"
    except InputError as error:
        found = str(error)
    with replacing(result) as partial:
        partial.write_text(found, "utf-8")
    time.sleep(60)
