"""One measurement: a training with ours or with TRL, on the same rows, timed as a whole.

Time and operations count from an update after the first few, which warm up, to the last one, with
one wait for the device at each end. Tokens are those of both responses of a pair, prompts
included; filling is never counted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch

from analysis.fernando2024.costs import llm_costs
from analysis.fernando2024.costs.llm_costs import SHAPES, Workload
from analysis.fernando2024.real import smol_rows
from tradeoff.data.rows import PreferenceRow, SftRow
from tradeoff.llm import JointTrainer, Lora, TrainConfig, models
from tradeoff.llm.callbacks import Callback
from tradeoff.llm.meter import peak_flops
from tradeoff.schedules import Maxright

CONVENTION = (
    "MFU counts the model's operations by arXiv 2204.02311, appendix B: two per weight and token "
    "forward and as many backward, as weights below adapters are frozen; attention is causal; the "
    "output layer counts for scored tokens; filling, adapters and embeddings do not count. The "
    "peak is the data sheet's for dense bf16."
)
Rows = tuple[list[SftRow], list[PreferenceRow]]


@dataclass(frozen=True)
class Job:
    """What is measured.

    Attributes
    ----------
    setting
        Shape, method, device, precision, batch, updates, layout and compilation.
    text
        "made" rows of letters, or real ones: a name of ``smol_rows.PAIRS``.
    tokenizer
        Folder or GGUF file of the tokenizer; empty: bytes.
    tokens_per_pass
        Most tokens of a forward pass of ours, in place of ``rows_per_forward``.
    longest
        Most tokens of a sequence.
    """

    setting: Workload
    text: str = "made"
    tokenizer: str = ""
    tokens_per_pass: int | None = None
    longest: int = 1024

    @property
    def warm(self) -> int:
        """Updates that are not timed."""
        return max(1, self.setting.updates // 3)


def measure(job: Job) -> dict[str, Any]:
    """Train once; what it took.

    Returns
    -------
    dict
        ``out_of_memory``, or ``updates`` that were timed, their ``seconds``, ``tokens_per_second``,
        ``model_flops_utilisation`` (None for TRL and where the peak is unknown),
        ``peak_memory_bytes`` of the whole training (of tensors on a GPU) and ``followed``, the
        updates of each objective. Ours has ``setup_seconds`` before the first update, too.
    """
    return _trained(job) or {"out_of_memory": True}


@llm_costs.within_memory
def _trained(job: Job) -> dict[str, Any]:
    if job.setting.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    return theirs(job) if job.setting.method.startswith(llm_costs.TRL) else ours(job)


def rows(job: Job) -> Rows:
    """One batch of either set; every update reads all of it."""
    if job.text == "made":
        return llm_costs.rows(job.setting)
    found, count = smol_rows.rows(job.text), job.setting.batch_size
    # Spread over the file, so that lengths are as they come.
    sft, pairs = ([*part[:: max(1, len(part) // count)]][:count] for part in found.training)
    return [as_text(row) for row in sft], [as_text(row) for row in pairs]


def as_text(row: Any) -> Any:
    """A row as plain text, so that ours and TRL's tokens differ by no template."""

    def text(given: Any) -> str:
        return given if isinstance(given, str) else "\n\n".join(turn.content for turn in given)

    if isinstance(row, SftRow):
        return SftRow(f"{text(row.prompt)}\n\n", text(row.completion))
    return PreferenceRow(f"{text(row.prompt)}\n\n", text(row.chosen), text(row.rejected))


def tokenizer(job: Job) -> Any:
    """The tokenizer of a job."""
    if not job.tokenizer:
        return deepcopy(llm_costs.tokenizer())
    folder = models.model_folder(job.tokenizer)
    return models.tokenizer_of(folder, folder)


class Window(Callback):
    """Reads the meter after the updates that warm up."""

    def __init__(self, warm: int) -> None:
        self.warm = warm
        self.before: dict[str, float] = {}

    def updated(self, trainer: Any, losses: Any) -> None:
        if trainer.step == self.warm:
            trainer.meter.stop()
            self.before = trainer.meter.state()


def ours(job: Job, hooks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Train with the joint trainer."""
    setting, window, began = job.setting, Window(job.warm), time.perf_counter()
    model = llm_costs.build(setting)
    rank, targets = SHAPES[setting.shape]["lora"]
    rule = llm_costs.schedule(setting.method, setting.batch_size)
    optima = None
    if isinstance(rule, Maxright):
        # Random weights: losses are those of a uniform policy, from which both gaps are alike.
        optima = (math.log(SHAPES[setting.shape]["vocab_size"]) - 1, math.log(2) - 1)
    config = TrainConfig(
        steps=setting.updates,
        batch_size=setting.batch_size,
        rows_per_forward=setting.rows_per_forward,
        tokens_per_pass=job.tokens_per_pass,
        max_length=job.longest,
        lora=Lora(rank=rank, alpha=rank, targets=targets),
        precision=setting.precision,
        layout=setting.layout,
        compile=setting.compile,
        gradient_checkpointing=setting.checkpointing,
        holdout=0.0,
        chat=False,
        optima=optima,
        evaluate_every=setting.updates,
        log_every=setting.updates,
    )
    sft, pairs = rows(job)
    trainer = JointTrainer(
        *(model, tokenizer(job)), sft=sft, preference=pairs,
        schedule=rule, config=config, callbacks=(window, *hooks),
    )  # fmt: skip
    setup = time.perf_counter() - began
    done = trainer.train(progress=False)
    after = trainer.meter.state()
    seconds, tokens, flops = (after[k] - window.before[k] for k in ("seconds", "tokens", "flops"))
    peak = peak_flops(trainer.accelerator.device)
    counts = done.summary["updates"]
    return {
        "updates": setting.updates - job.warm,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "model_flops_utilisation": None if peak is None else flops / seconds / peak,
        "peak_memory_bytes": trainer.meter.peak_memory(),
        "followed": [counts["sft"], counts["preference"]],
        "setup_seconds": setup,
    }


def theirs(job: Job) -> dict[str, Any]:
    """Train with TRL: the same rows, adapters, batch and precision, its defaults otherwise."""
    import datasets
    from transformers import TrainerCallback

    setting, warm = job.setting, job.warm

    class Clock(TrainerCallback):
        began = ended = 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step in (warm, setting.updates):
                llm_costs._wait(setting.device)
                self.began, self.ended = self.ended, time.perf_counter()

    words, clock = tokenizer(job), Clock()
    words.pad_token = words.pad_token or words.eos_token
    of_sft = setting.method == "trl-sft"
    given = rows(job)[0] if of_sft else rows(job)[1]
    datasets.disable_progress_bars()
    llm_costs.train_with_trl(
        setting, given, words, clock, max_steps=setting.updates, max_length=job.longest,
        logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=setting.device == "cuda",
    )  # fmt: skip
    seconds, timed = clock.ended - clock.began, setting.updates - warm
    each = sum(tokens(row, words, job.longest) for row in given)
    return {
        "updates": timed,
        "seconds": seconds,
        "tokens_per_second": each * timed / seconds,
        "model_flops_utilisation": None,
        "peak_memory_bytes": memory(setting.device),
        "followed": [setting.updates, 0] if of_sft else [0, setting.updates],
    }


def tokens(row: SftRow | PreferenceRow, words: Any, longest: int) -> int:
    """Tokens of a row, the end of each response counted."""
    ends = (row.completion,) if isinstance(row, SftRow) else (row.chosen, row.rejected)
    whole = [f"{row.prompt}{end}" for end in ends]
    return sum(min(longest, len(words(text)["input_ids"]) + 1) for text in whole)


def memory(device: str) -> int:
    """The most bytes so far: of tensors on a GPU, else of the process."""
    from tradeoff.llm.meter import resident_peak

    return int(torch.cuda.max_memory_allocated()) if device == "cuda" else resident_peak()


class Trace(Callback):
    """Profiles one update and keeps where its time went."""

    MOST = 15

    def __init__(self, step: int, device: str) -> None:
        kinds = [torch.profiler.ProfilerActivity.CPU]
        kinds += [torch.profiler.ProfilerActivity.CUDA] if device == "cuda" else []
        self.step, self.device = step, device
        self.profiler = torch.profiler.profile(activities=kinds)
        self.table: list[dict[str, Any]] = []

    def updated(self, trainer: Any, losses: Any) -> None:
        if trainer.step == self.step:
            self.profiler.start()
        elif trainer.step == self.step + 1:
            llm_costs._wait(self.device)
            self.profiler.stop()
            name = f"self_{'device' if self.device == 'cuda' else 'cpu'}_time_total"
            spent = [(e.key, getattr(e, name) / 1e3, e.count) for e in self.profiler.key_averages()]
            spent.sort(key=lambda one: -one[1])
            self.table = [
                {"operator": key[:80], "ms": ms, "calls": calls}
                for key, ms, calls in spent[: self.MOST]
            ]


def profile(job: Job) -> dict[str, Any]:
    """Train once, and where the time of one update went, by operator; or ``out_of_memory``."""
    return _profiled(job) or {"out_of_memory": True}


@llm_costs.within_memory
def _profiled(job: Job) -> dict[str, Any]:
    trace = Trace(job.warm, job.setting.device)
    return ours(job, [trace]) | {"operators": trace.table}
