"""The methods of the study on SmolLM2, at weight 1/2, and the cost of an update of each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from analysis.fernando2024 import methods
from tradeoff.methods import Method
from tradeoff.methods.losses import Rpo
from tradeoff.methods.merges import Soup, WiseFt
from tradeoff.methods.parameters import GradientMemory
from tradeoff.schedules import (
    Alright,
    Constrained,
    Evenly,
    Maxright,
    Mix,
    Rounds,
    Sequential,
)

NONE = "no run yet"
"""Text of figures and tables if nothing is stored."""
LAM, PAIR, REFRESH, SAMPLES = 0.5, 2.0, 10, 4
"""Weight; cost of a pair in demonstrations, as it has two responses; updates from one evaluation to
the next in methods that evaluate losses, and rows of each set in such an evaluation."""
ENDS = {"sft-only": Method(Alright(lam=0.0)), "preference-only": Method(Alright(lam=1.0))}
"""Runs that spend everything on one objective."""
KS, SHARES = (2, 4, 8, 16), (0.01, 0.1, 0.5)


def _all() -> dict[str, Method]:
    sequential = Sequential(lam=LAM)
    found = {
        "sft-dpo": Method(sequential),
        "dpo-sft": Method(replace(sequential, first="preference")),
        "alright": Method(Alright(lam=LAM)),
        "mix": Method(Mix(lam=LAM)),
    }
    found |= {f"rounds-{k}": Method(Rounds(lam=LAM, rounds=k)) for k in KS}
    found |= {
        f"replay-{100 * share:g}": Method(replace(sequential, replay=share)) for share in SHARES
    }
    looking: dict[str, Any] = {"lam": LAM, "refresh": REFRESH, "samples": SAMPLES}
    return found | {
        "maxright": Method(Maxright(**looking)),
        "constrained": Method(Constrained(**looking, relative=True)),
        "soup": Method(sequential, merge=Soup(lam=LAM)),
        "wise-ft": Method(sequential, merge=WiseFt(lam=LAM)),
        "rpo": Method(sequential, preference=Rpo()),
        # The best of the arena's convex board that are not above.
        "evenly": Method(Evenly(lam=LAM)),
        "tracked": Method(Evenly(lam=LAM), parameters=GradientMemory()),
        "evenly-budget": Method(Evenly(lam=LAM, probability=0.5)),
    }


METHODS = _all()
CENTRAL = (
    *("sft-dpo", "dpo-sft", "alright", "rounds-4"),
    *("mix", "rounds-8", "rounds-16", "rounds-2"),
)
"""Methods with which a short study begins, in this order."""


def label(name: str) -> str:
    """Name of a method in figures and tables."""
    if name.startswith("replay-"):
        return f"replay of {name.removeprefix('replay-')} %"
    own = {"soup": "soup", "wise-ft": "WiSE-FT", "rpo": "SFT→RPO", "evenly": "evenly",
           "tracked": "tracked", "evenly-budget": "evenly (budget)"}  # fmt: skip
    return own.get(name) or methods.label(name)


def looks(method: Method) -> bool:
    """Whether a method evaluates losses to choose an objective."""
    return bool(method.schedule.plan(64).watched)


def updates(method: Method, budget: float, batch: int) -> int:
    """Updates that a budget pays for, in gradients of a batch of demonstrations."""
    # An evaluation is a forward pass, a third of an update.
    extra = SAMPLES / batch * (1 + PAIR) / 3 / REFRESH if looks(method) else 0.0
    return method.updates(budget, pair=PAIR, looks=extra, batch=batch)


def named(name: str) -> Method:
    """Find a method or a specialist by its name in this study."""
    return ENDS[name] if name in ENDS else METHODS[name]
