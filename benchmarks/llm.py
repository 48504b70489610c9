"""Joint training of language models: speed and memory compared with TRL, and costs of schedules.

Speed: one epoch over the same rows, in tokens per second without padding. Our preference run
includes the pass that computes the reference; TRL runs its reference at every step, which is its
default. Memory: peak of a process above its size with the loaded model (VmHWM, which a process on
Linux can reset), with each contender in its own process. Schedules: processor time of single
updates in units of one update of Sequential, where a forward pass of the same rows counts a third.
All rows have one length, so that only the schedule differs. Their memory is measured by tracking
every tensor that an operator makes.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import interleave, summary

ROOT = Path(__file__).parents[1]
SPEED, MEMORY, TIME_EXCESS, MEMORY_EXCESS, MIX_MEMORY_EXCESS = 1.3, 0.7, 0.01, 0.01, 0.05
ROWS, REPETITIONS = 16, 3
ROUNDS, EVERY, PROBE = 100, 10, 4
# Usually an update has several passes. With one pass, only Mix holds a gradient while it goes
# forward.
MEMORY_KINDS = ("adapters", "all_weights", "all_weights_one_pass")


def main() -> dict[str, Any]:
    import torch

    from benchmarks import llm_tasks as tasks

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    speed, memory = measure_speed(), measure_memory()
    schedules = measure_schedules()
    bars = {
        "sft_speed": speed["sft_over_trl"]["median"] >= SPEED,
        "preference_speed": speed["preference_over_trl"]["median"] >= SPEED,
        "preference_memory": memory["all_weights"]["ours_over_trl"]["median"] <= MEMORY,
        "preference_memory_adapters": memory["adapters"]["ours_over_trl"]["median"] <= MEMORY,
        **schedules.pop("bars"),
    }
    return {
        "threads": 1,
        "shape": tasks.SHAPE,
        "batch_size": tasks.BATCH,
        "rows": ROWS,
        "speed": speed,
        "memory": memory,
        "schedules": schedules,
        "bar": {
            "speed": SPEED,
            "memory": MEMORY,
            "schedule_time_excess": TIME_EXCESS,
            "schedule_memory_excess": MEMORY_EXCESS,
            "mix_memory_excess": MIX_MEMORY_EXCESS,
        },
        "bars_met": bars,
        "bar_met": all(bars.values()),
    }


# ---------------------------------------------------------------------- speed


def measure_speed() -> dict[str, Any]:
    from benchmarks import llm_tasks as tasks
    from tradeoff.schedules import Alright

    base, data = tasks.model(), tasks.rows(ROWS)
    steps = ROWS // tasks.BATCH
    seconds: dict[str, list[float]] = {}

    def contender(name: str, make: Callable[[], Any], train: Callable[[Any], Any]) -> Any:
        def call() -> None:
            trainer = make()
            gc.collect()
            start = time.perf_counter()
            train(trainer)
            seconds.setdefault(name, []).append(time.perf_counter() - start)

        return call

    def our(lam: float, prepared: bool) -> Callable[[], Any]:
        def make() -> Any:
            run = tasks.ours(Alright(lam=lam), data, base, steps=steps)
            if prepared or lam == 0:
                run._begin(False, False)
            return run

        return make

    def quietly(run: Any) -> Any:
        return run.train(progress=False)

    calls = {
        "sft": contender("sft", our(0.0, True), quietly),
        "trl_sft": contender("trl_sft", lambda: _theirs("sft", data, base), lambda t: t.train()),
        "preference": contender("preference", our(1.0, False), quietly),
        "trl_preference": contender(
            "trl_preference", lambda: _theirs("dpo", data, base), lambda t: t.train()
        ),
        "preference_steps": contender("preference_steps", our(1.0, True), quietly),
        "trl_preference_precomputed_steps": contender(
            "trl_preference_precomputed_steps",
            lambda: _theirs("dpo", data, base, precompute_ref_log_probs=True),
            lambda t: t.train(),
        ),
    }
    interleave(calls, 1)  # warm up
    seconds.clear()
    interleave(calls, REPETITIONS)
    run = our(1.0, False)()
    size = {name: tasks.tokens(run, 0 if "sft" in name else 1) for name in calls}
    ratio = {
        "sft_over_trl": ("trl_sft", "sft"),
        "preference_over_trl": ("trl_preference", "preference"),
        "preference_over_trl_steps_alone_reference_precomputed_by_both": (
            "trl_preference_precomputed_steps",
            "preference_steps",
        ),
    }
    return {
        "updates": steps,
        "tokens": {"sft": size["sft"], "preference": size["preference"]},
        "tokens_per_second": {
            name: summary(size[name] / np.array(found)) for name, found in seconds.items()
        },
        **{
            name: summary(np.divide(seconds[rival], seconds[own]))
            for name, (rival, own) in ratio.items()
        },
    }


def _theirs(kind: str, data: Any, base: Any, **settings: Any) -> Any:
    from benchmarks import llm_tasks as tasks

    return tasks.theirs(kind, data, base, max_steps=ROWS // tasks.BATCH, **settings)


# ---------------------------------------------------------------------- memory


def measure_memory(repetitions: int = 2) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for weights in ("all_weights", "adapters"):
        taken: dict[str, list[float]] = {name: [] for name in ("ours", "trl", "trl_precomputed")}
        for _ in range(repetitions):
            for name in taken:
                command = [sys.executable, "-m", "benchmarks.llm", name, weights]
                done = subprocess.run(
                    command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
                )
                taken[name].append(json.loads(done.stdout.splitlines()[-1]))
        found[weights] = {
            "mib": {name: summary(values) for name, values in taken.items()},
            "ours_over_trl": summary(np.divide(taken["ours"], taken["trl"])),
            "ours_over_trl_precomputed": summary(
                np.divide(taken["ours"], taken["trl_precomputed"])
            ),
        }
    return found


def peak_of_preference_steps(name: str, weights: str) -> float:
    """Peak memory in MiB, above that of the process with the loaded model."""
    import torch

    from benchmarks import llm_tasks as tasks
    from tradeoff.schedules import Alright

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    base, data = tasks.model(), tasks.rows(ROWS)
    lora = tasks.LORA if weights == "adapters" else None
    import peft  # noqa: F401  # both need it, and TRL imports it anyway
    import trl  # noqa: F401

    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    steps = ROWS // tasks.BATCH
    if name == "ours":
        run = tasks.ours(Alright(lam=1.0), data, base, steps=steps, lora=lora)
        del base
        run.train(progress=False)
    else:
        options = {"precompute_ref_log_probs": True} if name == "trl_precomputed" else {}
        trainer = tasks.theirs("dpo", data, base, lora, max_steps=steps, **options)
        del base
        trainer.train()
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    """Memory value of this process in KiB, by its field in /proc."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field)))


# ---------------------------------------------------------------------- schedules


def measure_schedules() -> dict[str, Any]:
    runs = {name: _prepared(schedule) for name, schedule in _schedules().items()}
    draw = np.random.default_rng(0)
    rounds: list[dict[str, tuple[float, list[int]]]] = []
    for _ in range(ROUNDS):
        # All runs in turn, in random order, so that a busy time of the machine affects all equally.
        rounds.append({name: _timed(runs[name]) for name in draw.permutation(list(runs)).tolist()})
    time_ratios = {name: _over_sequential(rounds, name) for name in runs}
    memory = {kind: _peaks(kind) for kind in MEMORY_KINDS}
    bars = {}
    for name in ("alright", "maxright_10"):
        bars[f"{name}_time"] = time_ratios[name]["step_equivalent"] <= 1 + TIME_EXCESS
        bars[f"{name}_memory"] = all(
            memory[kind]["over_sequential"][name] <= 1 + MEMORY_EXCESS for kind in memory
        )
    bars["mix_memory"] = all(
        memory[kind]["over_sequential"]["mix"] <= 1 + MIX_MEMORY_EXCESS
        for kind in ("adapters", "all_weights")
    )
    return {
        "rounds": ROUNDS,
        "probe_rows": PROBE,
        "processor_seconds_per_update": {
            name: summary([found[name][0] for found in rounds]) for name in runs
        },
        "time_over_sequential": time_ratios,
        "memory": memory,
        "bars": bars,
    }


def _schedules() -> dict[str, Any]:
    from tradeoff.schedules import Alright, Maxright, Mix, Sequential

    return {
        "sequential": Sequential(),
        "mix": Mix(),
        "alright": Alright(),
        "maxright_10": Maxright(refresh=EVERY, samples=PROBE),
    }


def _prepared(schedule: Any, **settings: Any) -> Any:
    """Prepare a run: make its reference and do two updates.

    A demonstration is one sequence and a pair is two; updates of both have the same work. Gaps are
    made equal, so that MAXRIGHT follows both objectives.
    """
    from benchmarks import llm_tasks as tasks

    given = {
        "batch_size": 2 * tasks.BATCH,
        "preference_batch_size": tasks.BATCH,
        "rows_per_forward": tasks.BATCH // 2,
        "learning_rate": 1e-6,
        "layout": "padded",
        "steps": ROUNDS + 2 * EVERY,
    }
    run = tasks.ours(schedule, tasks.even_rows(32), tasks.model(), **{**given, **settings})
    run._begin(False, False)
    for _ in range(2):
        run._update()
    run.known.optima = run.known.values - 1.0
    return run


def _timed(run: Any) -> tuple[float, list[int]]:
    """Processor seconds of one update, with its updates of (SFT, preference) and probes."""
    before, probed = list(run.tally.updates), run.known.probed
    start = time.process_time()
    run._update()
    seconds = time.process_time() - start
    followed = [after - b for after, b in zip(run.tally.updates, before, strict=True)]
    return seconds, [*followed, run.known.probed - probed]


def _over_sequential(rounds: list[dict[str, tuple[float, list[int]]]], name: str) -> dict[str, Any]:
    """Ratio of times to Sequential's update of the same objective in the same round.

    Mix is compared with the objective that Sequential follows at that time. A preference update is
    a little more expensive, so the number of Mix is rough, and it has no bar. Each median is
    uncertain by about 1 %.
    """
    plain, probing = [], []
    for found in rounds:
        base, (seconds, did) = found["sequential"], found[name]
        if name == "mix" or did[:2] == base[1][:2]:
            (probing if did[2] else plain).append(seconds / base[0])
    cost = float(np.median(plain))
    numbers: dict[str, Any] = {"update": summary(plain), "rounds_compared": len(plain)}
    units = 2.0 if name == "mix" else 1.0
    if name == "maxright_10":
        # A pair is two sequences and a demonstration is one; an update has 2 BATCH sequences.
        from benchmarks import llm_tasks as tasks

        extra = 3 * PROBE / (2 * tasks.BATCH) / 3
        numbers["update_with_probe"] = summary(probing)
        cost = ((EVERY - 1) * cost + float(np.median(probing))) / EVERY
        units += extra / EVERY
    return {**numbers, "step_equivalent": cost / units}


def _peaks(kind: str) -> dict[str, Any]:
    """Peak bytes of tensors within an update, with weights and the optimiser's state."""
    from benchmarks import llm_tasks as tasks

    settings: dict[str, Any] = {}
    if kind == "adapters":
        settings["lora"] = tasks.LORA
    if kind == "all_weights_one_pass":
        settings["rows_per_forward"] = 2 * tasks.BATCH
    peaks = {}
    for name, schedule in _schedules().items():
        # Few updates, so that Sequential reaches both of its stages.
        run = _prepared(schedule, **settings, steps=EVERY + 2)
        peaks[name] = max(_peak(run) for _ in range(EVERY))
    base = peaks["sequential"]
    return {"bytes": peaks, "over_sequential": {name: peak / base for name, peak in peaks.items()}}


def _peak(run: Any) -> int:
    """Peak bytes of one update, which has no moments at the start of a stage."""
    from analysis.fernando2024.costs.schedule_cost import LiveTensors

    kept = sum(p.nbytes for p in run.policy.parameters())
    if run.plan.clock[run.step] > 1:
        moments = run.optimizer.optimizer.state.values()
        kept += sum(value.nbytes for state in moments for value in state.values())
    gc.collect()
    with LiveTensors() as seen:
        run._update()
    return kept + seen.peak


if __name__ == "__main__":
    print(json.dumps(peak_of_preference_steps(*sys.argv[1:])))
