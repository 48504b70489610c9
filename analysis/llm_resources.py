"""What does a step of each schedule cost on real shapes: time, tokens per second, memory?

``python -m analysis.llm_resources --device cuda`` measures Pythia-1B and Llama-3-8B with random
weights, whose cost is that of the trained ones, and adapters as published, and writes one small
file per device beside the other results; the figure shows every such file there is.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

from analysis import llm_costs, style
from analysis.llm_costs import Measured, Setting
from analysis.runner import PAPER
from analysis.tables import reported
from tradeoff.progress import tqdm
from tradeoff.records import read_json, write_json

METHODS = ("SFT only", "DPO only", "Sequential", "Mix", "ALRIGHT", "MAXRIGHT", "TRL SFT", "TRL DPO")
OURS = METHODS[:6]
NAMES = {"Sequential": "SFT→DPO"}
PANELS = {"seconds_per_update": "time of an update", "memory": "peak memory"}
PAPER_KEYS = {"seconds_per_update": "runtime_percent", "memory": "memory_percent"}


@dataclass(frozen=True)
class Form:
    """Shapes and methods that are measured, and how often."""

    shapes: tuple[str, ...]
    repetitions: int
    setting: Setting
    methods: tuple[str, ...] = METHODS


FORMS = {
    # SDPA is fastest without a mask, which rows padded to neighbours of like length do not need.
    "cuda": Form(
        ("pythia-1b", "llama-3-8b"),
        1,
        Setting(device="cuda", precision="bf16", layout="padded"),
    ),
    "cpu": Form(
        ("pythia-tiny", "llama-tiny"),
        3,
        Setting(batch_size=8, rows_per_forward=4, length=96, updates=24),
    ),
    "fast": Form(
        ("llama-tiny",),
        1,
        Setting(batch_size=2, rows_per_forward=2, length=32, updates=12),
        methods=OURS[2:],
    ),
}
CAPTION = (
    "Cost of training with random weights, each method in a process of its own, on the same rows; "
    "adapters and batch as published, scaled down in the CPU form (shapes in the results). Top: "
    "time of an update, the paper's unit. A Mix update is two gradients, one of each objective, "
    "and any other is one, so the time of a gradient, in the results, is half of what is drawn for "
    "Mix. MAXRIGHT (k = 10) measures its gaps from where both losses begin alike, as with "
    "random weights it would follow one objective only; its probes have no backward pass and count "
    "as a third of a gradient in the results. TRL runs on its defaults, with padded batches; ours "
    "packs rows on the CPU and pads them on a GPU; neither is timed while it evaluates the "
    "reference, before training. Bottom: the most bytes of tensors at once, the model's included; "
    "on the CPU every operator's results are watched in a few further updates. What varies is the "
    f"repetition, n = {FORMS['cpu'].repetitions} on the CPU and {FORMS['cuda'].repetitions} on a "
    "GPU, too few for an interval: dots are single runs, each divided by SFT→DPO of its round, and "
    "markers their medians. Open squares, on Pythia's shapes only: the paper's figure for "
    "Pythia-1B. Command: python -m analysis llm_resources; for a GPU: python -m "
    "analysis.llm_resources --device cuda"
)


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    """Measure on this machine's CPU, and draw what is known of every device."""
    found = {"cpu": measure("fast" if fast else "cpu")}
    for path in sorted((PAPER / "results").glob("llm_resources-*.json")):
        found[path.stem.removeprefix("llm_resources-")] = read_json(path)
    names = [(device, shape) for device, one in found.items() for shape in one["shapes"]]
    with style.figure(2, len(names), height=4.4, squeeze=False) as (fig, axes):
        for column, (device, shape) in enumerate(names):
            for ax, name in zip(axes[:, column], PANELS, strict=True):
                draw(ax, found[device]["shapes"][shape], name, published(shape, name))
            axes[0][column].set_title(f"{shape}, {device}")
        style.save(fig, out, "llm_resources")
    return {"devices": found, "gpu_measured": any(name != "cpu" for name in found)}


def measure(form: str) -> dict[str, Any]:
    """Every method at every shape of a form, repetitions interleaved, each in its own process."""
    given = FORMS[form]
    runs: dict[str, dict[str, list[Any]]] = {
        shape: {method: [] for method in given.methods} for shape in given.shapes
    }
    rounds = product(range(given.repetitions), given.shapes, given.methods)
    for _, shape, method in tqdm(list(rounds), disable=form == "fast", leave=False):
        found = _apart(replace(given.setting, shape=shape, method=method))
        runs[shape][method].append(asdict(found))
    return {
        "setting": asdict(given.setting),
        "shapes": {shape: summary(found) for shape, found in runs.items()},
    }


def summary(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Single values, and ratios to sequential training in the same round."""
    table: dict[str, Any] = {}
    for method, runs in found.items():
        table[method] = {
            name: [run[name] for run in runs] for name in Measured.__dataclass_fields__
        }
    for name in ("seconds", "seconds_per_update", "memory"):
        base = np.array(table["Sequential"][name])
        for method in found:
            table[method][f"{name}_ratio"] = (np.array(table[method][name]) / base).tolist()
    return table


def _apart(setting: Setting) -> Measured:
    """Measure in a new process, whose memory holds nothing else."""
    # By its name alone, what it measures would not count as a source of the figure.
    module = llm_costs.measure.__module__
    command = [sys.executable, "-m", module, json.dumps(asdict(setting))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{setting.method} at {setting.shape} failed:\n{done.stderr[-2000:]}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def published(shape: str, name: str) -> dict[str, float]:
    """The paper's ratios to sequential training, by method; those of Pythia's family only."""
    if not shape.startswith("pythia"):
        return {}
    methods = reported()["pythia"]["methods"]
    return {m: 1 + methods[m][PAPER_KEYS[name]] / 100 for m in methods if m in OURS}


def draw(ax: Any, found: dict[str, Any], name: str, paper: dict[str, float]) -> None:
    """Ratios of one quantity to sequential training, one method a row."""
    for row, method in enumerate(found):
        look = style.look(NAMES.get(method, method))
        ratios = np.array(found[method][f"{name}_ratio"])
        ax.plot(ratios, np.full(len(ratios), row), **look.dots(markersize=3, alpha=0.5))
        ax.plot(np.median(ratios), row, **look.dots(markersize=6))
        if method in paper:
            ax.plot(paper[method], row, "s", color="0.2", fillstyle="none")
    ax.axvline(1.0, **style.BOUND)
    ax.set_xlabel(f"{PANELS[name]}, over that of SFT→DPO", fontsize=8)
    ax.set_yticks(range(len(found)), [NAMES.get(m, m) for m in found], fontsize=7)
    ax.set_ylim(len(found) - 0.5, -0.5)


def command(
    device: Annotated[Literal["cuda"], typer.Option(help="Kind of device.")] = "cuda",
    shape: Annotated[
        Literal["all", "pythia-1b", "llama-3-8b"], typer.Option(help="All, or one.")
    ] = "all",
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = PAPER,
) -> None:
    """Measure on a GPU and write ``results/llm_resources-DEVICE.json``."""
    import torch

    if not torch.cuda.is_available():
        raise typer.BadParameter(
            "no CUDA device is here; `python -m analysis llm_resources` measures on the CPU",
            param_hint="--device",
        )
    if shape != "all":
        FORMS[device] = replace(FORMS[device], shapes=(shape,))
    name = torch.cuda.get_device_name()
    found = measure(device) | {"device": name, "torch": torch.__version__}
    slug = "-".join(name.lower().replace("nvidia", "").split())
    typer.echo(write_json(out / "results" / f"llm_resources-{slug}.json", found))


if __name__ == "__main__":
    typer.run(command)
