"""How many rounds reach the loss of joint training? SFT then DPO, K times, in a language model.

The same budget is cut into K rounds of SFT, then DPO. One round is sequential training; many are a
strict alternation. From one stage to the next the optimiser's state is kept, or begins anew as with
two separate trainers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.dossier import style
from analysis.dossier.mutations import mutate
from analysis.fernando2024.language import lm_study
from analysis.fernando2024.language.lm_models import SCALES
from analysis.fernando2024.language.lm_study import Array, seeds
from analysis.fernando2024.language.lm_tuning import ROUNDS
from analysis.fernando2024.methods import bounds, cell, cost, label, paired_ratio
from analysis.fernando2024.stored import shown
from tradeoff.schedules import Rounds, Schedule, Sequential
from tradeoff.scores import interval, paired_difference
from tradeoff.theory.checked import Checked

CONFLICTS = (0.25, 0.5)
JOINT = ("mix", "alright")
ENOUGH = 0.9
"""Share of the gain of joint training that counts as enough, set before the runs."""
MEASURES = ("weighted_loss", "sft_loss", "preference_loss", "exact_match", "preference_match")


@dataclass(frozen=True)
class Variant:
    """Rounds of one kind.

    Attributes
    ----------
    rounds
        Numbers of rounds K that are run.
    first
        Objective at the start of each round.
    restart
        Whether the optimiser begins anew at each stage.
    tuned
        Whether step sizes are tuned: both for one round, and one, at K = 4, for more rounds.
        Otherwise all updates have the study's common step size.
    look
        Line style and colour.
    """

    rounds: tuple[int, ...]
    look: style.Look
    first: Literal["sft", "preference"] = "sft"
    restart: bool = False
    tuned: bool = False

    def schedule(self, rounds: int) -> Schedule:
        """The schedule of ``rounds`` rounds. One tuned round is sequential training."""
        if rounds == 1 and (self.restart or self.tuned):
            return Sequential(first=self.first)
        return Rounds(rounds=rounds, first=self.first, restart=self.restart)


KEPT, RESTARTED, REVERSE, TUNED = "kept", "restarted", "DPO first", "tuned"
VARIANTS = {
    KEPT: Variant((1, 2, 4, 8, 30), style.Look("#0072B2", "o", "-")),
    RESTARTED: Variant((1, 4), style.Look("#56B4E9", "s", (0, (4, 1.5))), restart=True),
    REVERSE: Variant((4,), style.Look("#E69F00", "^", "none"), first="preference"),
    TUNED: Variant((1, 4), style.Look("#CC79A7", "D", "-."), tuned=True),
}
STARTS = {"one step size": RESTARTED, "tuned": TUNED}
"""Variants whose K = 1 is the sequential training that gains are counted from."""
CAPTION = (
    "How many rounds reach the loss of joint training? Tiny language model, λ = 1/2, equal cost, K "
    "rounds of SFT, then DPO. One step size, with the optimiser kept or restarted at each stage; "
    "or tuned (K = 1: each stage; K = {most}: one). Lines: joint training, tuned. Above: held-out "
    "(SFT + preference)/2. Below: exact match (filled), preferred style (open). What varies is the "
    "seed, n = {seeds}; 95 % t-intervals. Command: python -m analysis lm_rounds"
)


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the caption's fields, from the stored numbers."""
    return {
        "most": str(max(next(iter(numbers["measures"].values()))[TUNED]["rounds"])),
        "seeds": str(numbers["seeds"]),
    }


def main(out: Path, fast: bool = False) -> dict[str, Any]:
    scale = "fast" if fast else "full"
    table = ends(scale)
    levels = sorted(table["conflict"].unique())
    with style.figure(2, len(levels), height=5.0, squeeze=False) as (fig, axes):
        for (above, below), level in zip(axes.T, levels, strict=True):
            draw_losses(above, table, level)
            draw_behaviour(below, table, level)
        axes[0, 0].legend(fontsize=7)
        style.save(fig, out, "lm_rounds")
    return {
        "seeds": int(table["seed"].nunique()),
        "training": cost(table),
        "gradients": SCALES[scale].gradients,
        "common_rate": SCALES[scale].rate,
        "spent": lm_study.cost_spent(table.assign(method=table["variant"])),
        "conflicts": levels,
        "measures": {
            f"{level:g}": {key: summary(table, level, key) for key in (*VARIANTS, *JOINT)}
            for level in levels
        },
        "answers": {f"{level:g}": answers(table, level) for level in levels},
    }


def summary(table: pd.DataFrame, level: float, variant: str) -> dict[str, Any]:
    """Intervals of every measure by number of rounds. Joint methods have no rounds."""
    return {
        "rounds": rounds_of(table, level, variant),
        **{name: cell(interval(curve(table, level, variant, name))) for name in MEASURES},
    }


# ---------------------------------------------------------------------- runs


def ends(scale: str) -> pd.DataFrame:
    """Final scores, one row per variant, number of rounds, level of conflict and seed."""
    runs, about = [], []
    for level, seed in product(CONFLICTS[-1:] if scale == "fast" else CONFLICTS, seeds(scale)):
        for key, rounds in cells(scale):
            runs.append(one(scale, key, rounds, seed, level))
            about.append((key, rounds))
    table = lm_study.finals(lm_study.run(scale, runs))
    return table.assign(variant=[key for key, _ in about], rounds=[k for _, k in about])


def cells(scale: str) -> list[tuple[str, int]]:
    """Variants with each of their numbers of rounds, and joint methods with 0 rounds."""
    most = SCALES[scale].gradients // 2
    pairs = [(key, k) for key, v in VARIANTS.items() for k in v.rounds if k <= most]
    return pairs + [(key, 0) for key in JOINT]


def one(scale: str, key: str, rounds: int, seed: int, level: float) -> dict[str, Any]:
    """The run of a variant, or of a joint method."""
    if key in JOINT:
        rule = lm_study.schedule(key)
        return lm_study.configuration(scale, rule, seed, conflict=level)
    variant = VARIANTS[key]
    rule = variant.schedule(rounds)
    like = "sft-dpo" if rounds == 1 else ROUNDS
    rates = None if variant.tuned else [SCALES[scale].rate] * 2
    return lm_study.configuration(scale, rule, seed, conflict=level, like=like, rates=rates)


def rounds_of(table: pd.DataFrame, level: float, variant: str) -> list[int]:
    """Numbers of rounds of a variant, in the order of :func:`curve`."""
    rows = table[(table["conflict"] == level) & (table["variant"] == variant)]
    return sorted(int(k) for k in rows["rounds"].unique())


def curve(table: pd.DataFrame, level: float, variant: str, name: str) -> Array:
    """(seed, number of rounds) values of one measure."""
    rows = table[(table["conflict"] == level) & (table["variant"] == variant)]
    return lm_study.values(rows, name, "rounds")


# ---------------------------------------------------------------------- the answer


def answers(table: pd.DataFrame, level: float) -> dict[str, Any]:
    """Share of the joint gain by number of rounds, from either kind of sequential training."""
    found: dict[str, Any] = {}
    for joint, (start, kind) in product(JOINT, STARTS.items()):
        goal = curve(table, level, joint, "weighted_loss")[:, 0]
        base = curve(table, level, kind, "weighted_loss")[:, 0]
        found[f"{joint} over one round, {start}"] = {
            "to_buy": cell(paired_difference(base, goal)),
            **{
                key: bought(
                    base,
                    curve(table, level, key, "weighted_loss"),
                    goal,
                    rounds_of(table, level, key),
                )
                for key in VARIANTS
            },
        }
    return found


def bought(base: Array, reached: Array, goal: Array, rounds: Sequence[int]) -> dict[str, Any]:
    """Share of the joint gain by number of rounds, and the number of rounds that is enough.

    Parameters
    ----------
    base, goal
        (seeds,) losses of sequential and of joint training.
    reached
        (seeds, K) losses by number of rounds.
    rounds
        (K,) numbers of rounds.

    Returns
    -------
    dict
        ``share``: share of the gain with Fieller's interval; it may be negative. ``enough``: the
        least number of rounds whose share is at least nine tenths. ``surely``: the least number for
        which the lower end of the interval is at least nine tenths. These two are None if the gain
        of joint training is not significantly above zero.
    """
    share = paired_ratio(base[:, None] - reached, np.tile((base - goal)[:, None], len(rounds)))
    enough = [k for k, mean in zip(rounds, share.mean, strict=True) if mean >= ENOUGH]
    surely = [k for k, low in zip(rounds, share.low, strict=True) if low >= ENOUGH]
    known = float(paired_difference(base, goal).low) > 0
    return {
        "rounds": list(rounds),
        "share": bounds(share),
        "enough": min(enough, default=None) if known else None,
        "surely": min(surely, default=None) if known else None,
    }


# ---------------------------------------------------------------------- drawing


def draw_losses(ax: Axes, table: pd.DataFrame, level: float) -> None:
    """Draw the weighted loss against the number of rounds; horizontal: joint methods."""
    for key in VARIANTS:
        _errorbar(ax, table, level, key, "weighted_loss", label=key)
    for key in JOINT:
        mean = float(curve(table, level, key, "weighted_loss").mean())
        look = style.look(key)
        ax.axhline(mean, color=look.color, linewidth=1, linestyle=look.line, label=label(key))
    ax.set(yscale="log", title=f"Conflict {level:g}", ylabel="(SFT + preference loss)/2")
    ax.yaxis.set_major_formatter("{x:.2g}")
    ax.yaxis.set_minor_formatter("{x:.2g}")
    ax.tick_params(axis="y", which="minor", labelsize=7)
    _rounds(ax, table)


def draw_behaviour(ax: Axes, table: pd.DataFrame, level: float) -> None:
    """Draw exact match (filled) and preferred style (open): optimiser kept, and tuned."""
    for key in (KEPT, TUNED):
        for name, fill in (("exact_match", VARIANTS[key].look.color), ("preference_match", "w")):
            _errorbar(ax, table, level, key, name, markerfacecolor=fill)
    for key in JOINT:
        look = style.look(key)
        for name in ("exact_match", "preference_match"):
            mean = float(curve(table, level, key, name).mean())
            ax.axhline(mean, color=look.color, linewidth=1, linestyle=look.line)
    ax.set(xlabel="rounds K", ylabel="share of responses", ylim=(-0.03, 1.05))
    _rounds(ax, table)


def _errorbar(
    ax: Axes, table: pd.DataFrame, level: float, variant: str, name: str, **extra: Any
) -> None:
    found, look = interval(curve(table, level, variant, name)), VARIANTS[variant].look
    half = found.high - found.mean
    shape = look.line_style(elinewidth=0.8, capsize=2, **extra)
    ax.errorbar(rounds_of(table, level, variant), found.mean, yerr=half, **shape)


def _rounds(ax: Axes, table: pd.DataFrame) -> None:
    ticks = sorted(set(table["rounds"]) - {0})
    ax.set_xscale("log")
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.set_xticks([], minor=True)


# ---------------------------------------------------------------------- claims


FEW = 8
"""Claimed number of rounds, set before the runs after a first look at other runs."""


def claim_few_rounds_are_enough(fast: bool = False, mutation: str | None = None) -> Checked:
    """With one step size, eight rounds obtain nine tenths of the gain of joint training (lower).

    ``measured`` holds lower ends of Fieller's 95 % intervals of the share, by joint method and
    level of conflict.
    """
    del fast
    found = _stored()
    rounds = mutate(mutation, FEW, {"one-round": 1})
    low = [
        about[f"{joint} over one round, one step size"][KEPT]["share"]["low"][
            about[f"{joint} over one round, one step size"][KEPT]["rounds"].index(rounds)
        ]
        for about in found["answers"].values()
        for joint in JOINT
    ]
    measured = np.array(low, dtype=float)
    bound = np.full_like(measured, ENOUGH)
    return Checked(measured, bound, "lower", {"n": float(found["seeds"])}, 0.0)


def _stored() -> dict[str, Any]:
    return shown("lm_rounds")


if __name__ == "__main__":
    main(Path("out"))
