"""What runs must share to be compared, and what they may differ in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tradeoff.compare.runs import EndedRun
from tradeoff.errors import InputError
from tradeoff.methods.method import distinguishing

YARDSTICKS = {
    "model": "the model that training starts from",
    "sft_test": "the held-out demonstrations",
    "preference_test": "the held-out pairs",
    "loss": "the preference loss that is measured",
    "beta": "the inverse temperature of that loss",
    "label_smoothing": "its label smoothing",
    "chosen_nll": "its weight of the chosen response",
    "reference": "the reference",
}
"""Entries of an identity without which losses cannot be compared, in words."""
ROWS = {"sft": "demonstrations", "preference": "pairs"}
"""Training rows, which may differ, with a remark."""
_APART = {*YARDSTICKS, *ROWS}


def check_comparable(runs: Sequence[EndedRun]) -> list[str]:
    """Refuse runs whose losses cannot be compared; remarks on what else differs.

    Held-out rows and random models follow from the seed, so runs are compared within each seed.

    Raises
    ------
    InputError
        Naming the first yardstick that differs, and two folders.
    """
    for name, words in YARDSTICKS.items():
        for same in _by_seed(runs):
            _check_one(name, words, same)
        _check_seeds(name, words, runs)
    remarks = []
    for name, words in ROWS.items():
        plain = [run for run in runs if "data" not in run.method.changed()]
        if any(len({run.identity.get(name) for run in same}) > 1 for same in _by_seed(plain)):
            remarks.append(f"Runs were trained on different {words}: that is part of the result.")
    return remarks


def differing(runs: Sequence[EndedRun]) -> list[str]:
    """Names of settings that vary between the runs, without yardsticks and training rows."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    known = [name for name in names if name not in _APART]
    return [name for name in known if len({_text(run.settings.get(name)) for run in runs}) > 1]


def described(runs: Sequence[EndedRun]) -> list[str]:
    """What distinguishes each run from others of its label, in words.

    Training rows are among it where they alone distinguish runs of one seed.
    """
    varied = differing(runs)
    told = distinguishing([run.method for run in runs])
    words = [in_words(run, varied, own) for run, own in zip(runs, told, strict=True)]
    rows = [
        name
        for name in ROWS
        if any(len({run.identity.get(name) for run in same}) > 1 for same in alike(runs, words))
    ]
    return [
        ", ".join(
            filter(None, [text, *(f"{ROWS[name]} = {_rows(run, runs, name)}" for name in rows)])
        )
        for run, text in zip(runs, words, strict=True)
    ]


def alike(runs: Sequence[EndedRun], words: Sequence[str]) -> list[list[EndedRun]]:
    """Runs of one method, setting in words, weight and seed, together."""
    groups: dict[tuple[Any, ...], list[EndedRun]] = {}
    for run, text in zip(runs, words, strict=True):
        key = run.method.label, text, run.method.lam, run.seed
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def _rows(run: EndedRun, runs: Sequence[EndedRun], name: str) -> str:
    """The source of training rows, or their fingerprint where sources do not tell them apart."""
    told = all(name in other.sources for other in runs) and all(
        len({other.sources[name] for other in same})
        == len({other.identity.get(name) for other in same})
        for same in _by_seed(runs)
    )
    return str(run.sources[name] if told else _short(run.identity.get(name)))


def in_words(run: EndedRun, names: Iterable[str], own: Mapping[str, Any]) -> str:
    """Some settings of a run, and what distinguishes its method from others of its label."""
    found = {name: run.settings.get(name) for name in names} | dict(own)
    return ", ".join(f"{name} = {_text(value)}" for name, value in found.items())


def _by_seed(runs: Sequence[EndedRun]) -> list[list[EndedRun]]:
    groups: dict[int, list[EndedRun]] = {}
    for run in runs:
        groups.setdefault(run.seed, []).append(run)
    return list(groups.values())


def _check_one(name: str, words: str, runs: Sequence[EndedRun]) -> None:
    for run in runs[1:]:
        if run.identity.get(name) != runs[0].identity.get(name):
            raise InputError(
                f"{words} differ from those of {runs[0].folder}"
                if words.endswith(("pairs", "demonstrations"))
                else f"{words} differs from that of {runs[0].folder}",
                file=run.folder,
                field=name,
                value=_short(run.identity.get(name)),
                remedy="Losses on different yardsticks cannot be compared: leave one run out.",
            )


def _check_seeds(name: str, words: str, runs: Sequence[EndedRun]) -> None:
    """Where a yardstick follows from the seed, all methods need the same seeds."""
    if len({_text(run.identity.get(name)) for run in runs}) == 1:
        return
    seeds: dict[str, set[int]] = {}
    for run in runs:
        seeds.setdefault(_text(run.identity["schedule"]), set()).add(run.seed)
    first, *rest = seeds.values()
    if any(other != first for other in rest):
        raise InputError(
            f"{words} follow from the seed, and methods have different seeds",
            field="seed",
            value=[sorted(found) for found in seeds.values()],
            remedy="Train all with the same seeds, or with given held-out rows.",
        )


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _short(value: Any) -> Any:
    """A fingerprint as a reader wants it."""
    return value[:12] if isinstance(value, str) and len(value) == 64 else value
