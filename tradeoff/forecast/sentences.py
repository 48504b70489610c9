"""A forecast in a few sentences, with what it cannot tell and how far it may be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tradeoff.forecast.calibration import verdict
from tradeoff.forecast.quantities import LAMBDAS, front, place
from tradeoff.schedules import Sequential

if TYPE_CHECKING:
    from tradeoff.forecast.forecast import Forecast

ORDERS = Sequential(), Sequential(first="preference")
LIKELY = 0.1
"""A weight is named among those that cannot be told apart if its probability is at least this."""


def sentences(found: Forecast) -> list[str]:
    """What to expect, and how far to trust it."""
    return [_front(found), *_orders(found), _best(found), _rounds(found), *trust(found)]


def _front(found: Forecast) -> str:
    losses, low, high = (front(x) for x in (found.losses, found.low, found.high))
    parts = []
    for k, name in enumerate(("SFT loss", "preference loss")):
        if found.told(k):
            ends = [
                f"{losses[i, k]:.2f} ({low[i, k]:.2f} to {high[i, k]:.2f}) at lambda {LAMBDAS[i]:g}"
                for i in (0, -1)
            ]
            parts.append(f"the {name} from {' to '.join(ends)}")
        else:
            parts.append(f"the {name}: cannot tell, its intervals are wider than its change")
    return f"Over the weights lambda of Mix, expect {'; '.join(parts)}."


def _orders(found: Forecast) -> list[str]:
    names = ((ORDERS[0].label, "SFT"), (ORDERS[1].label, "preference"))
    said = []
    for (order, loss), (mean, low, high) in zip(names, found.forgetting.tolist(), strict=True):
        if low > 0:
            said.append(
                f"{order} forgets {mean:.2f} nats of the {loss} loss ({low:.2f} to {high:.2f})."
            )
        else:
            said.append(f"Whether {order} forgets the {loss} objective: cannot tell "
                        f"({low:.2f} to {high:.2f} nats).")  # fmt: skip
    return said


def _best(found: Forecast) -> str:
    if found.lam is not None:
        return f"The best weight is lambda = {found.lam:g}: least sum of both losses in ranges."
    likely = [f"{lam:g}" for lam, share in found.best.items() if share >= LIKELY]
    return f"The best weight: cannot tell lambda = {', '.join(likely)} apart."


def _rounds(found: Forecast) -> str:
    """Whether rounds, or Mix, are worth more than one stage after the other."""
    order, rounds = (
        found.draws[:, [place(plan, "sft_loss"), place(plan, "preference_loss")]]
        for plan in ("sft-dpo", "rounds 4")
    )
    order_label = ORDERS[0].label
    better = float(np.mean(rounds.sum(axis=1) < order.sum(axis=1)))
    if max(better, 1 - better) < 0.9:
        return f"Whether four rounds beat one {order_label} in the sum of both losses: cannot tell."
    which = "Four rounds beat" if better >= 0.9 else "Four rounds do not beat"
    return f"{which} one {order_label} in the sum of both losses."


def trust(found: Forecast) -> list[str]:
    """How far forecasts of this kind may be trusted, from the stored evaluation."""
    calibration = found.calibration
    own, about = calibration.scores["stack"], calibration.about
    errors = {
        name: f"{100 * calibration.scores[name]['median_error']:.0f} %"
        for name in ("stack", "constant", "early")
    }
    fresh = about.get("fresh")
    later = (
        f" On {fresh['pairs']} further pairs, run after all choices, it missed by "
        f"{100 * fresh['median_error']:.0f} % (a constant guess "
        f"{100 * fresh['constant']:.0f} %), and intervals held {100 * fresh['coverage']:.0f} %."
        if fresh
        else ""
    )
    worst, most = max(own["by_pair"].items(), key=lambda item: float(item[1]))
    return [
        f"On {about['pairs']} pairs of data sets, each forecast from the others, the median error "
        f"was {errors['stack']} of the front's range (a constant guess {errors['constant']}, a "
        f"tenth of each run {errors['early']}), and 90 % intervals held "
        f"{100 * own['coverage']:.0f} % of the losses. Pairs were ranked with a correlation "
        f"of {own['rank']:.2f}. {verdict(calibration.goals)} The worst pair was {worst!r}, with an "
        f"error of {100 * most:.0f} %: errors are large where the front is short.{later}",
        f"That was measured on {about['model']} and runs of {about['updates']} updates of "
        f"{about['batch']} rows. For another model or budget, trust the numbers less."
        f"{_elsewhere(about)}",
    ]


def _elsewhere(about: Mapping[str, Any]) -> str:
    """How forecasts did on a model that the calibration has not seen, if that was measured."""
    if not (found := about.get("elsewhere")):
        return ""
    return (
        f" On {found['model']} and {found['pairs']} pairs of data sets, forecasts that were stored "
        f"before the runs missed by {100 * found['median_error']:.0f} % of what training on one "
        f"objective gains (a guess that nothing changes: {100 * found['nothing']:.0f} %), and "
        f"their intervals held {100 * found['coverage']:.0f} % of the losses.{_signs(found)} "
        f"Intervals for any other model are {_widened(found)}. Do not rely on the numbers for a "
        "pretrained model."
    )


def _widened(found: Mapping[str, Any]) -> str:
    """By how much intervals are wider for another model, and what such intervals held."""
    wide = found["widened"]
    return (
        f"{wide['factor']:.1f} times as wide as those of the calibration, as the errors on "
        f"{found['model']} ask for; of each pair, the width that the other pairs ask for held "
        f"{100 * wide['coverage']:.0f} %"
    )


def _signs(found: Mapping[str, Any]) -> str:
    """How often a forecast was right in whether training raises or lowers a loss."""
    if not (signs := found.get("signs")):
        return ""
    counts = [f"{right} of {of} {name} losses" for name, (right, of) in signs.items()]
    return f" Whether training raises or lowers a loss was right for {' and '.join(counts)}."


def failed(about: Mapping[str, Any]) -> list[str]:
    """A remark to put before a forecast of another model, if such a forecast has failed.

    Parameters
    ----------
    about
        What the calibration stores of its runs.
    """
    if not (found := about.get("elsewhere")):
        return []
    return [
        f"forecasts are calibrated on {about['model']}; on {found['model']} 90 % intervals held "
        f"{100 * found['coverage']:.0f} % of the losses, so they are {_widened(found)}. Take what "
        "follows as a question to a short run"
    ]
