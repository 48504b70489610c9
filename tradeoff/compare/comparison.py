"""What a comparison found: one table of means with intervals over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tradeoff.compare.alike import alike, check_comparable, described, differing
from tradeoff.compare.page import page
from tradeoff.compare.runs import LOSSES, EndedRun, read_runs
from tradeoff.display import Shown
from tradeoff.scores import interval, paired_difference, weighted_loss

MEASURED = ("sft_loss", "preference_loss", "weighted_loss", "preference_accuracy")
"""Numbers with an interval over seeds, on held-out rows."""
COSTS = ("gradients", "tokens", "seconds")
"""Numbers of which the mean is given."""
LEVEL = 0.95
"""Coverage of the intervals."""


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """Runs on the same yardsticks, and what they say of their methods.

    Attributes
    ----------
    runs
        One row a run: method, settings (what else differs), lam, seed, diverged, the losses of the
        policy it saved on held-out rows, weighted_loss ``(1 - lam) sft_loss + lam
        preference_loss``, and cost: gradients of a batch, tokens, seconds, folder.
    start
        (2,) held-out losses before training, mean over the runs.
    remarks
        What a reader has to know, such as runs that are left out.
    about
        Settings that all runs share.
    """

    runs: pd.DataFrame
    start: np.ndarray
    remarks: tuple[str, ...]
    about: dict[str, Any]

    @cached_property
    def methods(self) -> pd.DataFrame:
        """One row for each method and weight.

        Means over seeds (n) with ``± `` half-widths of their 95 % t-intervals, NaN with one seed.
        ``behind_best`` is how much larger the weighted loss is than that of the best row of this
        weight, seed by seed. ``undominated``: no other row has less of both mean losses.
        """
        rows = []
        for key, group in self.runs.groupby(_KEY, sort=False):
            good = group[~group.diverged]
            row = dict(zip(_KEY, key, strict=True)) | {"n": len(good)}
            row["diverged"] = len(group) - len(good)
            for name in MEASURED:
                row |= _with_interval(name, good[name])
            rows.append(row | {name: float(group[name].mean()) for name in COSTS})
        table = pd.DataFrame(rows)
        table = table.join(self._behind_best(table))
        table["undominated"] = _undominated(table[list(LOSSES)].to_numpy())
        order = table.sort_values(["lam", "weighted_loss"], kind="stable", na_position="last")
        return order.reset_index(drop=True)

    def _behind_best(self, table: pd.DataFrame) -> pd.DataFrame:
        """How far each row is behind the best of its weight, over the seeds that both have."""
        good = self.runs[~self.runs.diverged]
        losses = {
            key: group.set_index("seed").weighted_loss
            for key, group in good.groupby(_KEY, sort=False)
        }
        rows = []
        for entry in table.itertuples():
            same = table[(table.lam == entry.lam) & (table.n > 0)]
            own = losses.get((entry.method, entry.settings, entry.lam))
            if own is None or same.empty:
                rows.append(_missing("behind_best"))
                continue
            first = same.iloc[int(same.weighted_loss.to_numpy().argmin())]
            best = losses[first["method"], first["settings"], first["lam"]]
            both = own.index.intersection(best.index)
            if both.empty:
                rows.append(_missing("behind_best"))
                continue
            found = paired_difference(own[both], best[both], level=LEVEL)
            half = float(found.high - found.mean)
            rows.append({"behind_best": float(found.mean), "± behind_best": half})
        return pd.DataFrame(rows, index=table.index)

    def table(self) -> pd.DataFrame:
        """As `methods`."""
        return self.methods

    def record(self) -> dict[str, Any]:
        """Everything, for machines."""
        return {
            "methods": self.methods.to_dict("records"),
            "runs": self.runs.to_dict("records"),
            "start": dict(zip(LOSSES, self.start.tolist(), strict=True)),
            "intervals": f"Student's t over seeds, {100 * LEVEL:.0f} %",
            "remarks": list(self.remarks),
            "settings": self.about,
        }

    def page(self, title: str = "Methods compared") -> str:
        """One self-contained HTML page."""
        return page(title, self.methods, self.runs, self.start, self.remarks, self.about)

    def __repr__(self) -> str:
        seeds = self.runs.seed.nunique()
        return (
            f"Comparison({len(self.runs)} runs: {self.runs.method.nunique()} methods, "
            f"{seeds} {'seed' if seeds == 1 else 'seeds'})"
        )


_KEY = ["method", "settings", "lam"]


def of_runs(folders: Sequence[str | Path]) -> Comparison:
    """Compare runs that exist.

    Parameters
    ----------
    folders
        Output folders of `tradeoff train`, or of :class:`tradeoff.llm.trainer.JointTrainer`.

    Returns
    -------
    Comparison
        Runs that have not ended, or repeat another one, are left out, with a remark.

    Raises
    ------
    InputError
        If a folder holds no run, or two runs have other held-out rows, losses, references or
        models to start from, so that their losses cannot be compared.
    """
    runs, remarks = read_runs([Path(folder) for folder in folders])
    remarks += check_comparable(runs)
    varied, words, rows = differing(runs), described(runs), []
    first = {id(run): same[0] for same in alike(runs, words) for run in same}
    for run, text in zip(runs, words, strict=True):
        if (before := first[id(run)]) is run:
            rows.append(_row(run, text))
        else:
            remarks.append(f"{run.folder} is left out: it repeats {before.folder}")
    table = pd.DataFrame(rows)
    shared = {k: v for k, v in runs[0].settings.items() if k not in varied}
    starts = [[run.start.get(name, np.nan) for name in LOSSES] for run in runs]
    return Comparison(table, np.nanmean(starts, axis=0), tuple(remarks), shared)


def _row(run: EndedRun, settings: str) -> dict[str, Any]:
    lam = run.method.lam
    losses = [np.nan if run.diverged else float(run.end[name]) for name in LOSSES]
    return {
        "method": run.method.label,
        "settings": settings,
        "lam": lam,
        "seed": run.seed,
        "diverged": run.diverged,
        **dict(zip(LOSSES, losses, strict=True)),
        "weighted_loss": float(weighted_loss(losses, lam)),
        "preference_accuracy": float(
            np.nan if run.diverged else run.end.get("preference_accuracy", np.nan)
        ),
        "gradients": run.gradients,
        "tokens": run.tokens,
        "seconds": run.seconds,
        "folder": str(run.folder),
    }


def _with_interval(name: str, values: pd.Series) -> dict[str, float]:
    if values.empty:
        return _missing(name)
    found = interval(values, level=LEVEL)
    return {name: float(found.mean), f"± {name}": float(found.high - found.mean)}


def _missing(name: str) -> dict[str, float]:
    return {name: float("nan"), f"± {name}": float("nan")}


def _undominated(losses: np.ndarray) -> list[bool]:
    """Whether no other row has less of one loss and no more of the other, of (n, 2) means."""
    return [
        bool(np.isfinite(own).all())
        and not any((other <= own).all() and (other < own).any() for other in losses)
        for own in losses
    ]
