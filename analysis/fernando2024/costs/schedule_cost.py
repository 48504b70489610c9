"""What does a step of each schedule cost in time and memory? Measured on both small models.

In one process, every schedule trains the same model for a few updates in turn, many times. If the
machine is busy for a moment, all schedules are affected alike.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis.dossier import style
from analysis.dossier.mutations import SWAPPED, mutate
from analysis.fernando2024.costs.live_tensors import LiveTensors
from analysis.fernando2024.methods import labels
from tradeoff.data.synthetic import Language, generate
from tradeoff.data.tokenizer import train_tokenizer
from tradeoff.networks import optimizers
from tradeoff.networks.followed import Choices, Run
from tradeoff.networks.language_model import LanguageModel, LanguageModelConfig
from tradeoff.networks.language_task import LanguageTask
from tradeoff.networks.loop import Loop
from tradeoff.networks.policies import PolicyConfig, policy_data
from tradeoff.networks.tasks import Params, PolicyTask, Task
from tradeoff.networks.threads import one_thread
from tradeoff.schedules import Alright, Maxright, Mix, Schedule, Sequential
from tradeoff.theory.checked import Checked

BATCH = 32
ASIDE = 4
"""Updates before the timed ones, to warm up, and updates after them, to measure memory."""
SCHEDULES: dict[str, Schedule] = {
    "sft-only": Alright(lam=0.0),
    "preference-only": Alright(lam=1.0),
    "sft-dpo": Sequential(),
    "mix": Mix(),
    "alright": Alright(),
    "maxright-1": Maxright(refresh=1, samples=BATCH),
    "maxright-10": Maxright(refresh=10, samples=BATCH),
    "maxright-100": Maxright(refresh=100, samples=BATCH),
}
LOOKS = {
    "sft-only": style.Look("0.45", "s", "-"),
    "preference-only": style.Look("0.45", "o", "-"),
    "sft-dpo": style.look("sft-dpo"),
    "mix": style.look("mix"),
    "alright": style.look("alright"),
    **{name: style.look("maxright") for name in SCHEDULES if name.startswith("maxright")},
}
CAPTION = (
    "What does a step cost? Batches of 32 rows, AdamW, λ = 1/2, float32, one thread of "
    "{processor}. Above: milliseconds per gradient, n = {n} blocks; what varies is the repetition; "
    "markers: medians; bars: least to largest value, no interval. Below: ratios of medians, and of "
    "peak memory (live tensors). An update of Mix is two gradients; MAXRIGHT's time includes its "
    "evaluations. Command: python -m analysis schedule_cost"
)


@dataclass(frozen=True)
class Ready:
    """State at the start of the runs, which all schedules share.

    Attributes
    ----------
    base, shift
        Stacked parameters of one run; margins of the reference policy on the training pairs.
    optima
        (1, 2) losses at the start less one nat. MAXRIGHT's gaps then begin equal, so it follows
        both objectives.
    """

    base: Params
    shift: torch.Tensor
    optima: NDArray[np.float64]

    @classmethod
    def of(cls, task: Task) -> Ready:
        base = task.initial([0])
        reference = task.reference(base)
        found = task.evaluate(base, reference)
        losses = [found["sft_loss_train"], found["preference_loss_train"]]
        return cls(base, reference.train, np.stack(losses, axis=1) - 1)


@dataclass
class Bench:
    """One model and one schedule in training, timed in blocks.

    Attributes
    ----------
    loop, optimizer
        Training loop and optimiser of the updates.
    step
        Number of updates done.
    blocks
        Seconds and gradients of every timed block.
    """

    loop: Loop
    optimizer: optimizers.RowOptimizer
    step: int = 0
    blocks: list[tuple[float, float]] = field(default_factory=list)

    @classmethod
    def of(cls, task: Task, schedule: Schedule, steps: int, ready: Ready) -> Bench:
        choices = Choices((Run(schedule, 0),), steps, BATCH, task.sizes, ready.optima, 1.0)
        loop = Loop(task, choices, dict(ready.base), {}, ready.shift, None, 1, map)
        return cls(loop, optimizers.make("adamw", loop.theta, (0.9, 0.95), 0.0))

    def advance(self, updates: int) -> None:
        for _ in range(updates):
            self.loop.update(self.step, self.optimizer, np.array([[1e-3]]), 0.0)
            self.step += 1

    def block(self, updates: int) -> None:
        """Time some updates."""
        before, began = float(self.loop.counts.sum()), time.perf_counter()
        self.advance(updates)
        seconds = time.perf_counter() - began
        self.blocks.append((seconds, float(self.loop.counts.sum()) - before))

    def numbers(self, updates: int) -> dict[str, Any]:
        seconds, gradients = np.array(self.blocks).T
        per_gradient, per_update = seconds / gradients, seconds / updates
        return {
            "seconds_per_gradient": _spread(per_gradient),
            "seconds_per_update": _spread(per_update),
            "gradients": float(gradients.sum()),
            "peak_bytes": peak_bytes(self),
        }


@one_thread()
def main(out: Path, fast: bool = False) -> dict[str, Any]:
    small = "language model, nano" if not fast else "language model, a stand-in"
    models: dict[str, Task] = {"policy, width 64": policy_task(), small: language_task(fast)}
    updates, blocks = ((8, 1), 4) if fast else ((50, 3), 8)
    found = {
        name: measure(task, block, blocks)
        for (name, task), block in zip(models.items(), updates, strict=True)
    }
    numbers = {
        "device": device(),
        "batch": BATCH,
        "updates_per_block": list(updates),
        "n": blocks,
        "models": found,
        "ratio_to_sft": {name: ratios(one) for name, one in found.items()},
    }
    picture(out, numbers)
    return numbers


def picture(out: Path, numbers: Mapping[str, Any]) -> None:
    """Draw times of a gradient, and a table of costs of an update relative to SFT alone."""
    with style.figure(2, 2, height=5.2, sharey="row", height_ratios=(1, 0.95)) as (fig, axes):
        for column, (name, found) in enumerate(numbers["models"].items()):
            draw_times(axes[0, column], found, name)
            draw_ratios(axes[1, column], found, numbers["ratio_to_sft"][name])
        style.save(fig, out, "schedule_cost")


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the caption's fields, from the stored numbers."""
    return {"processor": numbers["device"]["processor"], "n": str(numbers["n"])}


def policy_task() -> PolicyTask:
    return PolicyTask(policy_data(0), PolicyConfig(width=64, depth=2))


def language_task(fast: bool = False) -> LanguageTask:
    """The untrained nano model. The cost of a step does not depend on the weights.

    The fast form uses a much smaller model.
    """
    rows = 64 if fast else 512
    language = Language(sft_rows=rows, preference_rows=rows, test_rows=8, documents=2000)
    data = generate(language)
    tokenizer = train_tokenizer(data.corpus, vocabulary=384)
    shrunk = {"width": 16, "layers": 1, "heads": 2, "hidden": 32} if fast else {}
    config = LanguageModelConfig.preset("nano", vocabulary=384, **shrunk)
    return LanguageTask.of(LanguageModel(config), data, tokenizer)


def measure(task: Task, updates: int, repetitions: int) -> dict[str, Any]:
    """Time all schedules in turn, in a new random order in every round."""
    ready, steps = Ready.of(task), updates * repetitions + 2 * ASIDE
    benches = {name: Bench.of(task, s, steps, ready) for name, s in SCHEDULES.items()}
    rng = np.random.default_rng(0)
    for bench in benches.values():
        bench.advance(ASIDE)
    for _ in range(repetitions):
        for name in rng.permutation(list(benches)).tolist():
            benches[name].block(updates)
    return {name: bench.numbers(updates) for name, bench in benches.items()}


def peak_bytes(bench: Bench, updates: int = ASIDE) -> int:
    """Largest number of bytes of tensors that exist at once during a few updates."""
    peaks = []
    for _ in range(updates):
        with LiveTensors() as seen:
            bench.advance(1)
        peaks.append(seen.peak)
    return max(peaks)


def ratios(numbers: dict[str, Any]) -> dict[str, float]:
    """Median time of an update, and of a gradient, relative to SFT alone."""
    base = numbers["sft-only"]["seconds_per_update"]["median"]
    found = {}
    for name, row in numbers.items():
        found[f"{name}: update"] = row["seconds_per_update"]["median"] / base
        found[f"{name}: gradient"] = row["seconds_per_gradient"]["median"] / base
    return found


def device() -> dict[str, Any]:
    """Description of the processor that took the times."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "system": platform.system(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "unknown")


def _spread(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    found = np.asarray(values)
    return {
        "min": float(found.min()),
        "median": float(np.median(found)),
        "max": float(found.max()),
    }


# ---------------------------------------------------------------------- drawing


def draw_times(ax: Axes, numbers: dict[str, Any], title: str) -> None:
    """Draw median, least and largest time of a gradient, one line per schedule."""
    for k, (name, row) in enumerate(numbers.items()):
        look, ms = LOOKS[name], {q: 1e3 * t for q, t in row["seconds_per_gradient"].items()}
        ax.hlines(k, ms["min"], ms["max"], color=look.color, linewidth=1.2)
        ax.plot(ms["median"], k, **look.dots(markersize=6))
        _value(ax, ms["max"], k, f"{ms['median']:.3g} ms")
    _rows(ax, list(numbers), title, "milliseconds per gradient")


def draw_ratios(ax: Axes, numbers: Mapping[str, Any], times: Mapping[str, float]) -> None:
    """Draw a table of gradient time, update time and peak memory, relative to SFT alone."""
    memory = {name: row["peak_bytes"] for name, row in numbers.items()}
    heads = ("gradient", "update", "memory")
    for k, name in enumerate(numbers):
        found = (times[f"{name}: gradient"], times[f"{name}: update"],
                 memory[name] / memory["sft-only"])  # fmt: skip
        for column, value in enumerate(found):
            ax.text(column, k, f"{value:.2f} ×", ha="center", va="center", fontsize=8.5)
    ax.set_yticks(range(len(numbers)), labels(list(numbers)))
    ax.set_ylim(len(numbers) - 0.5, -0.5)
    ax.set_xticks(range(len(heads)), heads)
    ax.set(title="over those of SFT alone", xlim=(-0.6, len(heads) - 0.4))
    ax.tick_params(length=0, top=False, labeltop=False)
    ax.grid(False, axis="x")
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)


def _value(ax: Axes, x: float, y: float, text: str) -> None:
    ax.annotate(text, (x, y), xytext=(7, 0), textcoords="offset points", va="center", fontsize=7.5)


def _rows(ax: Axes, names: list[str], title: str, unit: str) -> None:
    ax.set_yticks(range(len(names)), labels(names))
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set(title=title, xlabel=unit, xlim=(0, 1.25 * ax.get_xlim()[1]))


# ---------------------------------------------------------------------- claims


@one_thread()
def claim_gradients_per_update(fast: bool = False, mutation: str | None = None) -> Checked:
    """Over 30 updates Mix computes two gradients per update, every other schedule one."""
    del fast
    swapped = mutate(mutation, {}, {SWAPPED: {"mix": "alright", "alright": "mix"}})
    task, counted = policy_task(), []
    ready = Ready.of(task)
    for name in SCHEDULES:
        bench = Bench.of(task, SCHEDULES[swapped.get(name, name)], 30, ready)
        bench.advance(30)
        counted.append(float(bench.loop.counts.sum()))
    wanted = [60.0 if name == "mix" else 30.0 for name in SCHEDULES]
    return Checked(np.array(counted), np.array(wanted), "exact", {}, 0.0)


@one_thread()
def claim_one_graph_at_a_time(fast: bool = False, mutation: str | None = None) -> Checked:
    """Mix's peak is below the sum of both objectives' peaks; ALRIGHT and MAXRIGHT have the larger.

    An update of Mix computes its two gradients one after the other, so it never holds both graphs.
    """
    del fast
    swapped = mutate(mutation, {}, {SWAPPED: {"mix": "alright", "alright": "mix"}})
    task, peaks = policy_task(), {}
    ready = Ready.of(task)
    for name in ("sft-only", "preference-only", "mix", "alright", "maxright-1"):
        bench = Bench.of(task, SCHEDULES[swapped.get(name, name)], 20, ready)
        bench.advance(2)
        peaks[name] = float(peak_bytes(bench, 8))
    parts = (peaks.pop("sft-only"), peaks.pop("preference-only"))
    bound = np.array([0.8 * sum(parts), max(parts), max(parts)])
    return Checked(np.array(list(peaks.values())), bound, "upper", {}, 0.0)


if __name__ == "__main__":
    main(Path("out"))
