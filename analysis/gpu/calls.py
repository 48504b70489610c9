"""The steps of the calls, each method measured while there is time for it."""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from analysis.fernando2024.costs.llm_costs import Workload
from analysis.gpu import measure, parts, results, sharing
from analysis.gpu.measure import Job
from tradeoff.errors import InputError
from tradeoff.llm import varlen

PURE = ("preference-only", "sft-only")
JOINT = ("sft-dpo", "alright", "maxright", "mix")
TRL = ("trl-dpo", "trl-sft")
LAST = 40.0
"""Seconds that the last runs of the study may take."""
PACKAGES = ("torch", "transformers", "peft", "accelerate", "trl")
GPU = Workload(device="cuda", precision="bf16", layout="padded", updates=9, batch_size=32)


@dataclass(frozen=True)
class Step:
    """Methods that are measured alike.

    Attributes
    ----------
    name
        For the command line and for results.
    job
        What is measured; its method is that of a result.
    methods
        In order of importance: time may end before the last.
    seconds
        What a measurement may take, before the first is known.
    call
        Measures one job.
    """

    name: str
    job: Job
    methods: tuple[str, ...]
    seconds: float = 30.0
    call: Callable[[Job], dict[str, Any]] = measure.measure


@dataclass
class Clock:
    """Time that is left, and what measurements took.

    Attributes
    ----------
    ends
        Of the monotonic clock.
    took
        Seconds of the last measurement of each step.
    """

    ends: float
    took: dict[str, float] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.ends - time.monotonic()

    def allows(self, step: Step) -> bool:
        """Whether a measurement of a step is expected to end in time."""
        return self.left > self.took.get(step.name, step.seconds)


def steps(call: str, tokenizer: str = "", rehearse: str | None = None) -> list[Step]:
    """The steps of a call; the third has the study alone.

    Parameters
    ----------
    call
        A name of :data:`parts.CALLS`.
    tokenizer
        Folder or file of the real tokenizer, for real rows; empty: made rows and bytes.
    rehearse
        Device of a rehearsal, at tiny shapes.
    """
    text = "helpful" if tokenizer else "made"
    if rehearse:
        small = Workload(
            device=rehearse, precision="bf16" if rehearse == "cuda" else "fp32",
            batch_size=2, rows_per_forward=2, length=24, updates=3, layout="padded",
        )  # fmt: skip
        return [replace(s, job=_tiny(s.job, small), seconds=1.0) for s in steps(call)]
    if call == parts.CALLS[-1]:
        return []
    if call == "first":
        job = Job(replace(GPU, shape="pythia-1b", updates=24))
        return [
            Step("pythia-1b", job, (*PURE, *TRL, *JOINT), 15),
            Step("pythia-1b compiled", compiled(job), PURE, 60),
        ]
    job = Job(
        replace(GPU, shape="llama-3-8b"), text=text, tokenizer=tokenizer, tokens_per_pass=12_288
    )
    long = packed(replace(job, text="made", tokenizer="", tokens_per_pass=8192))
    return [
        Step("llama-3-8b", job, ("preference-only", "trl-dpo"), 40),
        Step("llama-3-8b varlen", packed(job), PURE[:1], 40),
        Step("llama-3-8b long", long, PURE, 40),
        Step("llama-3-8b lean", lean(job), ("preference-only", "trl-dpo"), 60),
        Step("llama-3-8b lean, one pass", lean(job, 4096), PURE[:1], 60),
        Step("llama-3-8b profile", packed(job), PURE[:1], 40, measure.profile),
        Step("llama-3-8b long profile", long, PURE[:1], 40, measure.profile),
        Step("llama-3-8b long compiled", compiled(long), PURE[:1], 80),
        Step("llama-3-8b", job, ("sft-only", *JOINT), 40),
        Step("llama-3-8b varlen", packed(job), PURE[1:], 40),
    ]


def packed(job: Job) -> Job:
    """The same job on packed rows, whose attention goes by their bounds."""
    return replace(job, setting=replace(job.setting, layout="packed", attention=varlen.NAME))


def lean(job: Job, tokens: int = 2048) -> Job:
    """The same job in little memory: packed, in passes whose activations are not kept."""
    made = packed(job)
    return replace(made, setting=replace(made.setting, checkpointing=True), tokens_per_pass=tokens)


def compiled(job: Job) -> Job:
    """The same job, compiled. Passes of padded rows have as many rows each, as each number is
    compiled anew; packed rows are one row, of any length."""
    tokens = job.tokens_per_pass if job.setting.layout == "packed" else None
    return replace(job, setting=replace(job.setting, compile=True), tokens_per_pass=tokens)


def _tiny(job: Job, small: Workload) -> Job:
    shape = "llama-tiny" if job.setting.shape.startswith("llama") else "pythia-tiny"
    return replace(
        job, tokens_per_pass=None, text="made", tokenizer="",
        setting=replace(
            small, shape=shape, layout=job.setting.layout, attention=job.setting.attention,
            checkpointing=job.setting.checkpointing,
        ),
    )  # fmt: skip


# ---------------------------------------------------------------------- running them


def run(given: argparse.Namespace) -> None:
    """One call, as the command line asks.

    Raises
    ------
    InputError
        If there is no GPU, or a step or method is not known.
    """
    import torch

    if not given.rehearse and not torch.cuda.is_available():
        remedy = "Run where one is, or give --rehearse."
        raise InputError("no CUDA device is here", field="device", remedy=remedy)
    where = results.folder(given.out or (parts.PACK / "rehearsal" if given.rehearse else None))
    clock = Clock(time.monotonic() + given.seconds)
    tokenizer = "" if given.rehearse else str(given.pack / "second" / parts.WORDS)
    rehearse = given.device if given.rehearse else None
    wanted = selected(steps(given.verb, tokenizer, rehearse), given)
    machine = about_machine()
    if given.rehearse:
        print("a rehearsal: tiny models of the same families, so speeds mean nothing", flush=True)
    print(f"{machine['device']}, torch {machine['torch']}; results go to {where}", flush=True)
    missing = list(measured(wanted, where, machine, clock, given.rounds, given.bundle))
    try:
        if given.verb == parts.CALLS[-1]:
            model = None if given.rehearse else parts.model(given.pack)
            study(model, given, where, machine, clock)
    finally:
        if given.bundle:
            results.bundle(where, given.bundle)
    for name in missing:
        print(f"left for another call: {name}", flush=True)


def selected(found: list[Step], given: argparse.Namespace) -> list[Step]:
    """Steps and methods that the command line names; all by default."""
    if not found:  # The study checks its own names.
        return []
    names = [step.name for step in found]
    known = [*dict.fromkeys(m for step in found for m in step.methods)]
    for field_, values, allowed in (
        ("steps", given.steps, names),
        ("methods", given.methods, known),
    ):
        for value in values or ():
            if value not in allowed:
                remedy = f"Use some of: {', '.join(allowed)}."
                raise InputError("unknown", field=field_, value=value, remedy=remedy)
    kept = [s for s in found if not given.steps or s.name in given.steps]
    chosen = given.methods or known
    return [replace(s, methods=tuple(m for m in s.methods if m in chosen)) for s in kept]


def measured(
    wanted: list[Step],
    where: Path,
    machine: Mapping[str, Any],
    clock: Clock,
    rounds: int,
    bundle: Path | None = None,
) -> Iterator[str]:
    """Measure every method that is not stored yet; yields what there was no time for."""
    process = _process()  # One for all, as imports take long. Every measurement frees its memory.
    for step in wanted:
        for method in step.methods:
            job = replace(step.job, setting=replace(step.job.setting, method=method))
            about = {
                "step": step.name,
                "method": method,
                "setting": asdict(job) | {"tokenizer": Path(job.tokenizer).name},
                "machine": dict(machine),
                "convention": measure.CONVENTION,
            }
            path = results.place(where, step.name, method)
            done = results.known(path, about)
            while len(done) < rounds and clock.allows(step):
                began = time.monotonic()
                try:
                    found = process.submit(step.call, job).result(timeout=max(1.0, clock.left))
                except Exception as error:  # One method must not cost the others.
                    _kill(process)
                    process = _process()
                    print(f"{step.name}, {method}: {said_of(error)}", flush=True)
                    break
                clock.took[step.name] = time.monotonic() - began
                done = [*done, found]
                results.keep(path, about, done)
                if bundle:
                    results.bundle(where, bundle)
                print(f"{step.name}, {method}: {said(found)}", flush=True)
            if len(done) < rounds:
                yield f"{step.name}, {method}"
    process.shutdown()


def _process() -> Executor:
    """A new process, whose memory holds nothing else."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


def _kill(process: Executor) -> None:
    """End a process, whatever it is doing."""
    for worker in list((getattr(process, "_processes", None) or {}).values()):
        worker.kill()
    process.shutdown(wait=False, cancel_futures=True)


def study(
    model: Path | None,
    given: argparse.Namespace,
    where: Path,
    machine: Mapping[str, Any],
    clock: Clock,
) -> None:
    """Go on with the study of schedules on the real model in the time that is left."""
    from analysis.fernando2024.real import smol_plan, smol_runs, smol_study

    form = "fast" if given.rehearse else "gpu"
    place = results.place(where, results.STUDY, "all")

    def keep(done: dict[str, Any]) -> None:
        about = {"step": results.STUDY, "method": "all", "setting": done["setting"]}
        measured = {key: value for key, value in done.items() if key != "setting"}
        results.keep(place, about | {"machine": dict(machine)}, [measured])
        if given.bundle:  # A call may be killed at any time: what is stored must be outside.
            results.bundle(where, given.bundle)
            stored = (smol_runs.FOLDER / "runs").glob("*.parquet")
            results.archive(stored, given.bundle.with_suffix(".tar.gz"))

    with sharing.shared(given.pack / "mps") if model else nullcontext(False) as shared:
        if model:
            print("processes " + ("share the GPU" if shared else "take turns"), flush=True)
        if earlier := stored_runs(given):
            planned = smol_plan.formed(form, given.pairs, given.methods, given.extras or ())
            taken = smol_study.adopt(planned, earlier)
            print(f"{taken} runs of an earlier call are taken over", flush=True)
        done = smol_study.go(
            form, seconds=max(0.0, clock.left - LAST), pairs=given.pairs, methods=given.methods,
            extras=given.extras or (), model=str(model) if model else None, jobs=given.jobs,
            grace=LAST, progress=True, keep=keep,
        )  # fmt: skip
    print(f"study: {done['done']} of {done['runs']} runs", flush=True)


def stored_runs(given: argparse.Namespace) -> Path | None:
    """Archive of runs to go on with: one that travelled, else the checkout's.

    Runs of a rehearsal are of another model, so the checkout's are none of them.
    """
    there = [results.runs(given.pack / given.verb)]
    there += [] if given.rehearse else [results.runs(results.folder(None))]
    return next((file for file in there if file.is_file()), None)


def said_of(error: Exception) -> str:
    """An error in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[-300:]}"


def said(found: Mapping[str, Any]) -> str:
    """A measurement in a line."""
    if found.get("out_of_memory"):
        return "out of memory"
    share = found["model_flops_utilisation"]
    return (
        f"{found['tokens_per_second']:,.0f} tokens/s"
        + ("" if share is None else f", MFU {100 * share:.1f} %")
        + f", {found['peak_memory_bytes'] / 2**30:.1f} GiB"
    )


def about_machine() -> dict[str, Any]:
    """Device and versions: measurements on different ones are kept apart."""
    import torch

    cuda = torch.cuda.is_available()
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "python": platform.python_version(),
    }
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
