"""How much memory does each schedule need at the true shapes of Pythia-1B and Llama-3-8B?

The bytes of all tensors of the joint trainer are counted from their shapes alone, so no GPU is
needed.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis.dossier import style
from analysis.dossier.mutations import mutate
from analysis.fernando2024.costs import llm_costs
from analysis.fernando2024.costs.llm_costs import Workload
from analysis.fernando2024.costs.llm_resources import OURS, published
from analysis.fernando2024.costs.shapes_only import shapes_only
from analysis.fernando2024.methods import labels
from analysis.fernando2024.stored import shown
from tradeoff.progress import tqdm
from tradeoff.theory.checked import Checked

BOTH = "mix-one-backward"
METHODS = (*OURS, BOTH)
SHAPES = ("pythia-1b", "llama-3-8b")
# The passes of an update run one after another, so one pass is enough.
SETTING = Workload(precision="bf16", batch_size=8, rows_per_forward=8, layout="padded", updates=6)
FAST = Workload(batch_size=2, rows_per_forward=2, length=32, layout="padded", updates=6)
GIB = 2**30
CAPTION = (
    "Peak memory at the true shapes: bf16, adapters as published, eight rows of about "
    f"{SETTING.length} tokens, no checkpointing. The bytes of all tensors of the joint trainer are "
    "counted from their shapes; allocator and libraries need more. Dashed: weights. What varies "
    "is the method; n = 1, since a count has no spread. Numbers: ratios to SFT→DPO. Open squares: "
    "the paper's ratios to its DPO→SFT, times our SFT→DPO. Command: python -m analysis llm_memory"
)


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    """Count all methods at both shapes; the fast form counts them at a small shape."""
    setting, shapes = (FAST, ("llama-tiny",)) if fast else (SETTING, SHAPES)
    found = {shape: measure(replace(setting, shape=shape), quiet=fast) for shape in shapes}
    with style.figure(1, len(shapes), height=2.6, squeeze=False) as (fig, axes):
        for ax, (shape, numbers) in zip(axes[0], found.items(), strict=True):
            draw(ax, numbers, published(shape, "memory"))
            ax.set_title(shape)
        style.save(fig, out, "llm_memory")
    return {"setting": asdict(setting), "shapes": found}


def measure(setting: Workload, quiet: bool = False) -> dict[str, Any]:
    """Peak bytes, their ratio to sequential training, and bytes of the weights."""
    bar = tqdm(METHODS, desc=setting.shape, disable=quiet, leave=False)
    peaks = {method: count(settings(setting, method)) for method in bar}
    ratios = {method: peak / peaks["sft-dpo"] for method, peak in peaks.items()}
    return {"bytes": peaks, "ratio": ratios, "weights": weights(setting)}


def settings(setting: Workload, method: str) -> Workload:
    """The setting of one method."""
    if method == BOTH:
        return replace(setting, method="mix", joint_graph=True)
    # MAXRIGHT compares made-up numbers here, and needs more updates to follow both objectives.
    longer = 2 * setting.updates if method == "maxright" else setting.updates
    return replace(setting, method=method, updates=longer)


def count(setting: Workload) -> int:
    """Largest number of bytes of tensors at once, in a training on shapes alone."""
    llm_costs.tokenizer()
    with shapes_only() as seen:
        trainer, _ = llm_costs.by_us(setting)
        followed = trainer.tally.updates
    if setting.method not in ("sft-only", "preference-only") and min(followed) == 0:
        raise RuntimeError(f"{setting.method} followed one objective only: take more updates")
    return seen.peak


def weights(setting: Workload) -> int:
    """Bytes of the model alone."""
    with shapes_only():
        model = llm_costs.build(setting)
        return sum(value.numel() * value.itemsize for value in model.parameters())


def draw(ax: Axes, found: dict[str, Any], paper: dict[str, float]) -> None:
    """Draw the peak of every method, one per row."""
    for row, (method, peak) in enumerate(found["bytes"].items()):
        look = style.look(method)
        size = peak / GIB
        ax.hlines(row, 0, size, color=look.color, linewidth=1.2)
        ax.plot(size, row, **look.dots(markersize=6))
        ratio = f"{found['ratio'][method]:.3f}"
        ax.text(1.02, row, ratio, transform=ax.get_yaxis_transform(), va="center", fontsize=7)
        if method in paper:
            level = paper[method] * found["bytes"]["sft-dpo"] / GIB
            ax.plot(level, row, "s", color="0.2", fillstyle="none")
    ax.axvline(found["weights"] / GIB, **style.BOUND)
    ax.set_yticks(range(len(found["bytes"])), labels(found["bytes"]), fontsize=7)
    ax.set_ylim(len(found["bytes"]) - 0.5, -0.5)
    ax.set(xlabel="GiB at the peak", xlim=(0, 1.05 * max(found["bytes"].values()) / GIB))


def stored() -> dict[str, Any]:
    """Stored numbers of the figure's full form."""
    return dict(shown("llm_memory")["shapes"])


ONE_BACKWARD, TWO_BACKWARDS = "one-backward-pass", "two-backward-passes"
"""Mutations: Mix as in the official code, and Mix as in this package."""


def claim_joint_training_needs_no_more_memory(
    fast: bool = False, mutation: str | None = None
) -> Checked:
    """At both true shapes: ALRIGHT and MAXRIGHT within 1 % of SFT→DPO, Mix within 5 %."""
    del fast
    mix = mutate(mutation, "mix", {ONE_BACKWARD: BOTH})
    bounds = {"alright": 1.01, "maxright": 1.01, mix: 1.05}
    ratios = [shape["ratio"][method] for shape in stored().values() for method in bounds]
    bound = np.array([*bounds.values()] * len(SHAPES))
    return Checked(np.array(ratios), bound, "upper", {}, 0.0)


def claim_two_graphs_need_more(fast: bool = False, mutation: str | None = None) -> Checked:
    """At both true shapes, without checkpointing, Mix with one backward pass needs more memory."""
    del fast
    both = mutate(mutation, BOTH, {TWO_BACKWARDS: "mix"})
    ratios = [shape["ratio"][both] / shape["ratio"]["mix"] for shape in stored().values()]
    return Checked(np.array(ratios), np.full(len(ratios), 1.25), "lower", {}, 0.0)
