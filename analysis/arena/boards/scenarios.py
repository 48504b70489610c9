"""What does a policy keep of skills that it had before, by method?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.arena.boards.board import cost
from analysis.arena.stored import array, texts
from analysis.dossier import style
from tradeoff.arena.board import Board, board
from tradeoff.arena.scenarios import SCENARIOS
from tradeoff.checkout import WORK
from tradeoff.methods import find
from tradeoff.scores import interval

CAPTION = (
    "Probability of the answers that show a skill, before training (line) and after it, by method, "
    "at weight {lam}: means with 95 % t-intervals over {seeds} instances of each scenario, each "
    "with {replicas} runs of {budget} gradients. SFT alone is SFT→DPO at weight 0. What varies is "
    "the instance. Command: python -m analysis scenarios --paper arena."
)
FOLDER = WORK / "arena" / "scenarios"
LAM = 0.5
ALONE = "sft alone"
METHODS = (
    "sft-dpo", "dpo-sft", "replay", "rounds", "mix", "alright", "maxright", "sft-dpo+fait", "soup",
    "wise_ft", "kl_base", "l2_sp", "hft", "ema",
)  # fmt: skip
FULL: dict[str, Any] = {"budget": 500.0, "replicas": 8, "progress": True}
FAST: dict[str, Any] = {"budget": 40.0, "replicas": 2, "backend": "sequential", "jobs": 1}
FAST_METHODS, FAST_SCENARIOS = ("sft-dpo", "mix"), ("third-skill", "facts")
SEEDS = 20


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    settings, seeds = (FAST, 2) if fast else (FULL, SEEDS)
    kinds, names = (FAST_SCENARIOS, FAST_METHODS) if fast else (tuple(SCENARIOS), METHODS)
    folder = FOLDER / ("fast" if fast else "full")
    run = partial(board, **settings)
    numbers = ran(run, folder, kinds, names, seeds) | {
        key: settings[key] for key in ("budget", "replicas")
    }
    draw(numbers, out, "scenarios")
    return numbers


def ran(
    run: Callable[..., Board], folder: Path, kinds: Sequence[str], names: Sequence[str], seeds: int
) -> dict[str, Any]:
    """Numbers of the boards of some kinds of scenarios, at weight 1/2, and of SFT alone.

    Parameters
    ----------
    run
        Makes a board of methods and problems, with ``folder`` and ``lams``.
    folder
        Of the runs.
    kinds, names, seeds
        Scenarios, methods, and instances of each scenario.
    """
    places = [f"{kind}:{seed}" for kind in kinds for seed in range(seeds)]
    both = run(names, places, folder=folder / "both", lams=(LAM,))
    alone = run(("sft-dpo",), places, folder=folder / "alone", lams=(0.0,))
    sft = alone.runs[alone.runs["name"] == "sft-dpo"].assign(name=ALONE)
    runs = pd.concat([sft, both.runs[both.runs["name"].isin(names)]], ignore_index=True)
    found = type(both)(runs)
    return {
        "methods": [ALONE, *names],
        "labels": [ALONE, *(find(name).label for name in names)],
        "scenarios": {kind: SCENARIOS[kind] for kind in kinds},
        "seeds": seeds,
        "lam": LAM,
        **kept(found, kinds, [ALONE, *names], seeds),
        "training": cost(found.runs),
    }


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """What the caption says of the numbers."""
    return {key: f"{numbers[key]:g}" for key in ("lam", "seeds", "replicas", "budget")}


# ---------------------------------------------------------------------- what is stored


def kept(found: Board, kinds: Sequence[str], names: list[str], seeds: int) -> dict[str, Any]:
    """By scenario and skill: what was there before, and after, by method and instance."""
    skills, regret = {}, {}
    for kind in kinds:
        places = [f"{kind}:{seed}" for seed in range(seeds)]
        before = [found.before(place) for place in places]
        skills[kind] = {
            skill: {
                "before": texts([each[skill] for each in before]),
                "after": texts(found.third(skill).loc[names, places]),
            }
            for skill in before[0]
        }
        regret[kind] = texts(found.regret.loc[names, places])
    return {"skills": skills, "regret": regret}


def skill(numbers: Mapping[str, Any], kind: str, name: str) -> tuple[np.ndarray, pd.DataFrame]:
    """A skill before training (instances,), and after it by method (rows) and instance."""
    found = numbers["skills"][kind][name]
    return array(found["before"]), pd.DataFrame(array(found["after"]), index=numbers["methods"])


# ---------------------------------------------------------------------- the picture


def draw(numbers: Mapping[str, Any], out: Path, figure: str) -> None:
    panels = [(kind, name) for kind, skills in numbers["skills"].items() for name in skills]
    columns = 5 if len(panels) > 5 else len(panels)
    lines = -(-len(panels) // columns)
    with style.figure(lines, columns, height=lines * (0.8 + 0.16 * len(numbers["methods"]))) as (
        fig,
        axes,
    ):
        every = np.ravel(axes)
        for place, (ax, (kind, name)) in enumerate(zip(every, panels, strict=False)):
            before, after = skill(numbers, kind, name)
            found = interval(after.to_numpy(), axis=1)
            rows = np.arange(len(after))
            ax.errorbar(found.mean, rows, xerr=found.high - found.mean, fmt=".", color="C0")
            ax.axvline(before.mean(), color="0.4", linewidth=0.8)
            ax.set_yticks(rows, numbers["methods"] if place % columns == 0 else [""] * len(rows))
            ax.tick_params(labelsize=6)
            ax.set_title(f"{kind}\n{name}", fontsize=7)
            ax.set(ylim=(len(rows) - 0.5, -0.5), xlim=(0, 1))
            if place >= len(panels) - columns:
                ax.set_xlabel("probability", fontsize=7)
        for ax in every[len(panels) :]:
            ax.set_axis_off()
        style.save(fig, out, figure)
