"""Step sizes of the language-model study: one grid for all methods, seeds that are not reported.

The search starts at a point of the grid, tries the neighbours in each stage's step size, and moves
to the least loss until no neighbour is better. All neighbours of the choice have then been tried,
or it is at an end of the grid, which is recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.fernando2024.language import lm_study
from analysis.fernando2024.language.lm_models import SCALES, pair_cost
from analysis.fernando2024.methods import METHODS
from tradeoff.schedules import Alright, Rounds, Schedule
from tradeoff.scores import weighted_loss

Place = tuple[int, ...]
FACTOR, BELOW, ABOVE = 2.5, 8, 3
"""Ratio of neighbours of the grid, and numbers of step sizes below and above its middle."""
FIRST_SEED = 30_000
"""First seed of the runs that choose step sizes; no reported run has it."""
STARTS = {"sft-dpo": (BELOW, BELOW - 2), "dpo-sft": (BELOW - 2, BELOW)}
"""Positions on the grid where the first search of a method begins; other methods begin at the
middle. A later search begins where the method's last one ended."""


@dataclass(frozen=True)
class Searched:
    """A method, a weight and a level of conflict for which step sizes are tuned."""

    method: str
    lam: float
    conflict: float

    @property
    def name(self) -> str:
        return lm_study.setting(self.method, self.lam, self.conflict)

    @property
    def stages(self) -> int:
        """Number of step sizes to choose: one for each of two stages, or one."""
        return 2 if self.method in STARTS else 1

    def schedule(self) -> Schedule:
        if self.method == lm_study.ONLY_SFT:
            return Alright(lam=0.0)
        if self.method == ROUNDS:
            return Rounds(lam=self.lam, rounds=4)
        return lm_study.schedule(self.method, self.lam)


@dataclass(frozen=True)
class Tried:
    """Measurements of a search by position, and its present position.

    Attributes
    ----------
    losses
        (seeds,) validation losses, by position.
    best
        The present position of the search.
    shares
        Share of the gradients that follow the preference objective, by position.
    """

    losses: Mapping[Place, list[float]]
    best: Place
    shares: Mapping[Place, float]

    def mean(self, place: Place) -> float:
        return float(np.mean(self.losses[place]))

    @property
    def inside(self) -> bool:
        """Whether no chosen step size is at an end of the grid."""
        return all(0 < k < len(GRID) - 1 for k in self.best)


GRID = tuple(FACTOR ** np.arange(-BELOW, ABOVE + 1))
"""Step sizes in units of the middle one."""


def rates(scale: str, place: Place) -> list[float]:
    """Step sizes of both stages at a position."""
    found = [float(SCALES[scale].rate * GRID[k]) for k in place]
    return found if len(found) == 2 else found * 2


SETTINGS = ((0.5, 0.5), (0.25, 0.5), (0.5, 0.25), (0.5, 0.75), (0.75, 0.5))
"""Levels of conflict with weights lambda. Each of the two varies while the other is 1/2."""
ROUNDS = "rounds"
"""The interleaved schedule that is tuned, with four rounds and the optimiser kept. Other
interleaved schedules use its step size."""


def groups(scale: str) -> list[list[Searched]]:
    """All settings for which a figure needs step sizes. A group depends on those before it."""
    settings = SETTINGS[:1] if scale == "fast" else SETTINGS
    levels = dict.fromkeys(level for level, _ in settings)
    alone = [[Searched(lm_study.ONLY_SFT, 0.0, level)] for level in levels]
    return alone + [_compared(level, lam) for level, lam in settings]


def _compared(level: float, lam: float) -> list[Searched]:
    turns = [Searched(ROUNDS, lam, level)] if lam == 0.5 else []
    return turns + [Searched(key, lam, level) for key in METHODS]


def tune(scale: str) -> dict[str, Tried]:
    """Search every setting."""
    found: dict[str, Tried] = {}
    for group in groups(scale):
        found |= search(scale, group, found)
    return found


def chosen(scale: str, found: Mapping[str, Tried]) -> dict[str, dict[str, Any]]:
    """Step sizes in the form that :func:`analysis.fernando2024.language.lm_study.tuned` reads."""
    return {
        name: {
            "rates": rates(scale, tried.best),
            "inside": tried.inside,
            "preference_share": tried.shares[tried.best],
            "loss": tried.mean(tried.best),
            "tried": [
                {"rates": rates(scale, place), "losses": losses}
                for place, losses in sorted(tried.losses.items())
            ],
        }
        for name, tried in found.items()
    }


def seeds_of(tuned: Mapping[str, Any]) -> int:
    """Number of seeds on which the stored step sizes were chosen."""
    return len(next(iter(tuned.values()))["tried"][0]["losses"])


def search(scale: str, group: Sequence[Searched], before: Mapping[str, Tried]) -> dict[str, Tried]:
    """Try neighbours and move to the least validation loss, until no neighbour is better.

    The settings of a group are searched together. The fast form tries neighbours once and does not
    move.
    """
    found = {about.name: Tried({}, start(about, before), {}) for about in group}
    active = list(group)
    while active:
        wanted = {
            about: [p for p in around(found[about.name].best) if p not in found[about.name].losses]
            for about in active
        }
        measured = measure(scale, wanted, before)
        for about in tuple(active):
            known = found[about.name]
            losses, shares = measured[about]
            known = Tried({**known.losses, **losses}, known.best, {**known.shares, **shares})
            winner = min(around(known.best), key=known.mean)
            if winner == known.best or scale == "fast":
                active.remove(about)
            found[about.name] = Tried(known.losses, winner, known.shares)
    return found


def start(about: Searched, before: Mapping[str, Tried]) -> Place:
    """The end of the method's last search, or the start of the first one."""
    known = [tried.best for name, tried in before.items() if name.startswith(f"{about.method},")]
    return known[-1] if known else STARTS.get(about.method, (BELOW,))


def around(place: Place) -> list[Place]:
    """A position, then its neighbours."""
    return [place, *neighbours(place)]


def neighbours(place: Place) -> Iterator[Place]:
    """Positions one step away in one stage's step size."""
    for stage in range(len(place)):
        for step in (-1, 1):
            moved = place[stage] + step
            if 0 <= moved < len(GRID):
                yield (*place[:stage], moved, *place[stage + 1 :])


def configurations(
    scale: str, setting: Searched, place: Place, before: Mapping[str, Tried]
) -> list[dict[str, Any]]:
    """Runs of one setting at one position, one for each seed of the search."""
    rule = setting.schedule()
    needs = setting.method == "maxright"
    alone = Searched(lm_study.ONLY_SFT, 0.0, setting.conflict)
    plain = {
        "scale": scale,
        "schedule": rule.to_dict(),
        "conflict": setting.conflict,
        "updates": lm_study.updates(scale, rule, setting.conflict),
        "beta": 0.1,
        "reference": "base",
        "sft_rate": rates(scale, before[alone.name].best)[0] if needs else None,
        "rates": rates(scale, place),
        "part": "validation",
        "marks": 1,
        "generated": 0,
    }
    first, count = FIRST_SEED, 1 if scale == "fast" else 2
    return [{**plain, "seed": seed} for seed in range(first, first + count)]


def measure(
    scale: str, wanted: Mapping[Searched, Sequence[Place]], before: Mapping[str, Tried]
) -> dict[Searched, tuple[dict[Place, list[float]], dict[Place, float]]]:
    """Validation losses (seeds,), infinite where a run diverged, and shares of preference updates.

    All positions of all settings are one study.
    """
    pairs = [(about, place) for about, places in wanted.items() for place in places]
    runs = [configurations(scale, *pair, before) for pair in pairs]
    found: dict[Searched, Any] = {about: ({}, {}) for about in wanted}
    if not runs:
        return found
    last = lm_study.run(scale, [run for some in runs for run in some]).groupby("run").tail(1)
    per = len(runs[0])
    for k, (about, place) in enumerate(pairs):
        rows = last.iloc[k * per : (k + 1) * per]
        losses = weighted_loss(rows[list(lm_study.LOSSES)].to_numpy(), about.lam)
        counts = rows[["sft_updates", "preference_updates"]].to_numpy(dtype=float).sum(axis=0)
        found[about][0][place] = np.where(rows["diverged_at"].notna(), np.inf, losses).tolist()
        found[about][1][place] = float(counts[1] / counts.sum())
    return found


def costs(scale: str) -> dict[str, float]:
    """Cost of a pair in units of a demonstration, by level of conflict: tokens the policy reads."""
    levels = sorted({about.conflict for group in groups(scale) for about in group})
    return {f"{level:g}": pair_cost(scale, level) for level in levels}
