"""What does a step of each schedule cost on real shapes: time, tokens per second, memory?

``python -m analysis.fernando2024.costs.llm_resources --device cuda`` measures Pythia-1B and
Llama-3-8B with adapters as published. Their weights are random, which does not change the cost. It
writes one small file per device to the folder of results, and the figure shows all files that
exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from matplotlib.lines import Line2D

from analysis.dossier import lookup, style
from analysis.dossier.stored_results import fields_of
from analysis.fernando2024.costs import llm_costs
from analysis.fernando2024.costs.llm_costs import Measured, Workload
from analysis.fernando2024.methods import label, labels
from analysis.fernando2024.paper_numbers import reported
from analysis.fernando2024.stored import PAPER
from tradeoff import scores
from tradeoff.errors import InputError
from tradeoff.progress import tqdm
from tradeoff.records import write_json

METHODS = (
    "sft-only",
    "preference-only",
    "sft-dpo",
    "mix",
    "alright",
    "maxright",
    "trl-sft",
    "trl-dpo",
)
OURS, BASE = METHODS[:6], "sft-dpo"
PANELS = {
    "seconds": "time of a gradient",
    "seconds_per_update": "time of an update",
    "memory": "peak memory",
}
SHOWN = ("seconds_per_update", "memory")
"""The two quantities that are drawn. The time of a gradient is in the table of costs."""
MARKS: dict[str, dict[str, Any]] = {
    "median of the rounds, 95 % interval": {"marker": "o", "markersize": 6},
    "one round": {"marker": "o", "markersize": 3, "alpha": 0.5},
    "the paper, Pythia-1B on a GPU": {"marker": "s", "fillstyle": "none"},
}
PAPER_KEYS = {"seconds_per_update": "runtime_percent", "memory": "memory_percent"}


@dataclass(frozen=True)
class Form:
    """Measured shapes and methods, and number of rounds."""

    shapes: tuple[str, ...]
    rounds: int
    setting: Workload
    methods: tuple[str, ...] = METHODS


FORMS = {
    # SDPA is fastest without a mask. Rows padded to neighbours of similar length need none.
    "cuda": Form(
        ("pythia-1b", "llama-3-8b"),
        2,
        Workload(device="cuda", precision="bf16", layout="padded"),
    ),
    "cpu": Form(
        ("pythia-tiny", "llama-tiny"),
        8,
        Workload(batch_size=8, rows_per_forward=4, length=64),
    ),
    "fast": Form(
        ("llama-tiny",),
        2,
        Workload(batch_size=2, rows_per_forward=2, length=32),
        methods=OURS[2:],
    ),
}
CAPTION = (
    "What does an update cost? Random weights, adapters as published, shapes scaled down on the "
    "CPU; one batch is a whole data set. Time and peak memory are relative to SFT→DPO in the same "
    "round (line). A Mix update is two gradients; MAXRIGHT evaluates at every tenth update. What "
    f"varies is the round, n = {FORMS['cpu'].rounds} on the CPU and {FORMS['cuda'].rounds} on a "
    "GPU. The paper's values are relative to its DPO→SFT. Command: python -m analysis "
    "llm_resources"
)


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    """Measure on this machine's CPU, and draw the results of every device."""
    found = {"cpu": measure(FORMS["fast" if fast else "cpu"], quiet=fast)}
    for folder in lookup.folders(PAPER):
        for path in sorted((folder / "results").glob("llm_resources-*.json")):
            found[path.stem.removeprefix("llm_resources-")] = fields_of(path)
    numbers = {"devices": found, "gpu_measured": any(name != "cpu" for name in found)}
    picture(out, numbers)
    return numbers


def picture(out: Path, numbers: Mapping[str, Any]) -> None:
    """Draw time and memory of an update for each device and shape, with a legend of the marks."""
    found = numbers["devices"]
    names = [(device, shape) for device, one in found.items() for shape in one["shapes"]]
    with style.figure(len(SHOWN), len(names), height=4.9, squeeze=False) as (fig, axes):
        for column, (device, shape) in enumerate(names):
            for ax, name in zip(axes[:, column], SHOWN, strict=True):
                draw(ax, found[device]["shapes"][shape], name, published(shape, name))
            axes[0][column].set_title(f"{titled(device)}: {shape}")
        marks = [Line2D([], [], linestyle="none", color="0.35", **mark) for mark in MARKS.values()]
        fig.legend(marks, list(MARKS), loc="outside lower center", ncols=3, fontsize=8)
        style.save(fig, out, "llm_resources")


def titled(device: str) -> str:
    """Title of a device's panel; shapes measured on a CPU are scaled down."""
    return "CPU, tiny" if device == "cpu" else device


def measure(form: Form, quiet: bool = False) -> dict[str, Any]:
    """Results of every method at every shape of a form, each shape in a separate process."""
    total = len(form.shapes) * len(form.methods) * (form.rounds + 1)
    with tqdm(total=total, disable=quiet, leave=False) as bar:
        shapes = {shape: measure_shape(form, shape, bar) for shape in form.shapes}
    return {"setting": asdict(form.setting), "rounds": form.rounds, "shapes": shapes}


def measure_shape(form: Form, shape: str, bar: Any) -> dict[str, Any]:
    """Memory of every method, then times. In each round all methods run once, in random order.

    A method that runs out of memory is reported and left out.
    """
    settings = {name: replace(form.setting, shape=shape, method=name) for name in form.methods}
    memory: dict[str, int] = {}
    runs: dict[str, list[Measured]] = {}
    rng = np.random.default_rng(0)
    with apart() as process:
        for name, setting in settings.items():
            bar.set_description(f"{shape}, {name}, memory")
            most = process.submit(llm_costs.memory, setting).result()
            if most is not None:
                memory[name], runs[name] = most, []
            bar.update()
        for _ in range(form.rounds):
            for name in rng.permutation(list(runs)).tolist():
                bar.set_description(f"{shape}, {name}")
                once = process.submit(llm_costs.measure, settings[name]).result()
                if once is None:
                    del runs[name]
                else:
                    runs[name].append(once)
                bar.update()
    if BASE not in runs:
        raise InputError(
            "memory does not suffice for sequential training, which all else is compared with",
            field="shape",
            value=shape,
            remedy="Lower rows_per_forward in analysis/fernando2024/costs/llm_resources.py, or "
            "measure another shape.",
        )
    found = summary(memory, runs)
    return {name: found.get(name) for name in settings}


@contextmanager
def apart() -> Iterator[Executor]:
    """A new, empty process. An error there is raised here."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        yield process


def summary(memory: dict[str, int], runs: dict[str, list[Measured]]) -> dict[str, Any]:
    """Single values, and their ratios to sequential training in the same round."""
    table: dict[str, dict[str, Any]] = {}
    for method, found in runs.items():
        table[method] = {f.name: [getattr(one, f.name) for one in found] for f in fields(Measured)}
        table[method]["memory"] = [memory[method]]
    for name in PANELS:
        base = np.array(table[BASE][name])
        for values in table.values():
            values[f"{name}_ratio"] = (np.array(values[name]) / base).tolist()
    return table


def published(shape: str, name: str) -> dict[str, float]:
    """The paper's ratios to sequential training, by method; only for Pythia shapes."""
    if not shape.startswith("pythia") or name not in PAPER_KEYS:
        return {}
    methods = reported()["pythia"]["methods"]
    return {m: 1 + methods[m][PAPER_KEYS[name]] / 100 for m in methods if m in OURS}


def draw(ax: Any, found: dict[str, Any], name: str, paper: dict[str, float]) -> None:
    """Draw ratios of one quantity to sequential training, one method per row."""
    for row, (method, values) in enumerate(found.items()):
        if values is None:
            ax.text(1.0, row, " out of memory", fontsize=7, va="center")
            continue
        look = style.look(method)
        ratios = np.array(values[f"{name}_ratio"])
        kept = scores.interval(ratios)
        ax.hlines(row, kept.low, kept.high, color=look.color, linewidth=1.2)
        ax.plot(ratios, np.full(len(ratios), row), **look.dots(markersize=3, alpha=0.5))
        ax.plot(np.median(ratios), row, **look.dots(markersize=6))
        if method in paper:
            ax.plot(paper[method], row, "s", color="0.2", fillstyle="none")
    ax.axvline(1.0, **style.BOUND)
    ax.set_xlabel(f"{PANELS[name]}, over that of {label(BASE)}", fontsize=8)
    ax.set_yticks(range(len(found)), labels(found), fontsize=7)
    ax.set_ylim(len(found) - 0.5, -0.5)


def command(
    device: Annotated[Literal["cuda"], typer.Option(help="Kind of device.")] = "cuda",
    shape: Annotated[
        Literal["all", "pythia-1b", "llama-3-8b"], typer.Option(help="All, or one.")
    ] = "all",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile each block.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = PAPER,
) -> None:
    """Measure on a GPU and write ``results/llm_resources-DEVICE.json``."""
    import torch

    if not torch.cuda.is_available():
        raise typer.BadParameter(
            "no CUDA device is here; `python -m analysis llm_resources` measures on the CPU",
            param_hint="--device",
        )
    name, form = torch.cuda.get_device_name(), FORMS[device]
    slug = "-".join(name.lower().replace("nvidia", "").split())
    slug += "-compiled" if compiled else ""
    path = out / "results" / f"llm_resources-{slug}.json"
    form = replace(form, setting=replace(form.setting, compile=compiled))
    for each in form.shapes if shape == "all" else (shape,):
        # Written after each shape, together with those that were measured in the same way.
        found = measure(replace(form, shapes=(each,)))
        found |= {"device": name, "torch": torch.__version__}
        known = fields_of(path) if path.exists() else found
        same = all(known.get(key) == found[key] for key in found if key != "shapes")
        shapes = (known["shapes"] if same else {}) | found["shapes"]
        write_json(path, found | {"shapes": shapes})
    typer.echo(path)


if __name__ == "__main__":
    typer.run(command)
