"""Odd settings, claims files and result files: each is used, or gives one clear error.

``python -m tests.settings_fuzz --cases 2000 --seed 3`` tries that many cases and prints the
failures.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import sys
import tempfile
import tomllib
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from analysis.dossier import ledger, report, runner, stored_results
from analysis.fernando2024.dossier import DOSSIER
from tradeoff import cli, convex, experiment, schedules
from tradeoff.errors import InputError
from tradeoff.llm import config
from tradeoff.settings import build

ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2, 0.5, 1.5, -0.5, 1e20, -1e20, 1e308, 10**30, -(10**400), 2**63,
    float("nan"), float("inf"), float("-inf"), "", " ", "8", "0.5", "true", "none", "linear",
    "\x00", "\ud83d", "$x^$", "a%b", "é" * 300, "x" * 70_000, [], {}, [None], [0.5], [0.1, 0.2],
    [1, "a"], [[]], [[1.0], [2.0, 3.0]], {"a": 1}, {"name": "mix"}, b"8", object, np.float32(0.5),
    np.int64(1), np.zeros(3), np.array(["a"]), range(3), {1, 2}, 1j,
]  # fmt: skip
IN_FILES = [value for value in ODD if value is None or type(value) in (
    bool, int, float, str, list, dict)]  # fmt: skip
NUMBERS = ("int", "float", "Share", "Count", "Updates", "Seed", "Rate", "Size")
RESULTS = sorted(p.stem for p in (DOSSIER.folder / "results").glob("*.json") if p.stem != "claims")
SMALL: dict[str, Any] = {"prompts": 3, "responses": 3, "dimension": 2}
SMALL |= {"demonstrations": 4, "pairs": 4}


class Accepted(AssertionError):
    """A value of a wrong type that was accepted."""


# ---------------------------------------------------------------------- settings in Python


def records(rng: random.Random, _: Path) -> None:
    """The trainer's settings, one or two of them odd."""
    kind: Any = rng.choice(
        [config.TrainConfig] * 5
        + [config.Lora, config.Defects, config.ModelConfig, config.DataConfig, config.Experiment]
    )
    names = [f.name for f in fields(kind)]
    given = {
        name: rng.choice(ODD) for name in rng.sample(names, min(len(names), rng.choice((1, 2))))
    }
    made = kind(**given) if rng.random() < 0.5 else build(kind, given, file="run.toml")
    _strict(kind, given)
    if kind is config.TrainConfig:
        made.updates(100, 50)
    if kind is config.Experiment:
        made.make_schedule().plan(20)


def _strict(kind: Any, given: dict[str, Any]) -> None:
    """True for 1 and "8" for 8 are errors, so no accepted value may be one of them."""
    about = {f.name: str(f.type) for f in fields(kind)}
    for name, value in given.items():
        number = any(word in about[name] for word in NUMBERS) and "bool" not in about[name]
        text = "str" in about[name]
        if number and not text and isinstance(value, bool | str | bytes):
            raise Accepted(f"{name} = {value!r} was accepted")


def rules(rng: random.Random, _: Path) -> None:
    """A schedule from its description, and its plan."""
    name = rng.choice([*schedules.SCHEDULES, *schedules.SCHEDULES, "unknown"])
    kind: Any = schedules.SCHEDULES.get(name, schedules.Mix)
    names = [f.name for f in fields(kind)] + ["speed"]
    given = {n: rng.choice(ODD) for n in rng.sample(names, rng.choice((1, 1, 2)))}
    made = schedules.from_dict({"name": name, **given})
    _strict(kind, given)
    made.plan(rng.choice([20, *ODD]))
    json.dumps(made.to_dict())


def convex_calls(rng: random.Random, _: Path) -> None:
    """A function of the convex laboratory with one or two odd arguments."""
    problem = convex.random_log_linear(0, **SMALL)
    run = {"methods": schedules.Mix(), "steps": 6, "step_size": 0.1, "replicas": 2, "seed": 0}
    run |= {"start": None, "checkpoints": 3, "gradients": "stochastic", "engine": "numpy"}
    data = {n: getattr(problem, n) for n in ("features", "offsets", "demonstrations", "chosen")}
    data |= {"rejected": problem.rejected, "radius": 4.0, "beta": 1.0, "label_smoothing": 0.0}
    data |= dict.fromkeys(("reference", "reference_margins", "pair_weights"))
    pair = {n: getattr(convex.random_quadratic(0), n) for n in ("centres", "hessians")}
    calls: list[tuple[Callable[..., Any], dict[str, Any]]] = [
        (convex.simulate, {"problem": problem, **run}),
        (convex.trajectories, {"problem": problem, **run}),
        (convex.minimise, {"problem": problem, "lam": 0.5, "tolerance": 1e-6, "start": None,
                           "max_iterations": 3}),
        (convex.minimise_max_gap, {"problem": problem, "lam": 0.5, "tolerance": 1e-6,
                                   "max_solves": 3}),
        (convex.pareto_front, {"problem": problem, "accuracy": 0.1, "solves": 3,
                               "tolerance": None, "interpolate": True}),
        (convex.random_log_linear, {"seed": 0, **SMALL, "conflict": 0.5, "sharpness": 1.0,
                                    "radius": 2.0, "beta": 1.0}),
        (convex.random_quadratic, {"seed": 0, "dimension": 2, "condition": 3.0, "distance": 1.0,
                                   "noise": 0.1, "radius": 3.0}),
        (convex.binary_example, {"radius": 4.0, "beta": 1.0}),
        (convex.StepSize, {"scale": 0.1, "decay": 0.5}),
        (convex.LogLinear, data),
        (convex.Quadratic, {**pair, "covariances": None, "radius": 2.0}),
        (convex.LogLinear.from_prompts, {"prompts": [[[1.0], [0.0]]], "demonstrations": [(0, 1)],
                                         "preferences": [(0, 0, 1)], "radius": 2.0}),
    ]  # fmt: skip
    call, given = rng.choice(calls)
    for name in rng.sample(list(given), rng.choice((1, 1, 2))):
        given[name] = deepcopy(rng.choice(ODD))
    call(**given)


# ---------------------------------------------------------------------- settings of a run


def settings_files(rng: random.Random, folder: Path) -> None:
    """A TOML file, flags and assignments, some of them odd."""
    path = folder / "run.toml"
    table = mutated(tomllib.loads(experiment.EXAMPLE), rng)
    path.write_bytes(damaged(_toml(table).encode(errors="replace"), rng))
    names = [f"train.{f.name}" for f in fields(config.TrainConfig)]
    names += [
        "model.path",
        "data.sft",
        "data.columns",
        "schedule",
        "schedule.lam",
        "train.lora.rank",
    ]
    flags = {rng.choice(names): rng.choice(ODD)} if rng.random() < 0.3 else {}
    words = ["=", "train.steps", "train.steps=8", "train.clip=none", "schedule.lam=true", "a=[" * 9]
    words += [f"{rng.choice(names)}={rng.choice(IN_FILES)}", "train.lora=3", "schedule=rounds"]
    chosen = rng.sample(words, rng.choice((0, 0, 1, 2)))
    experiment.settings(path if rng.random() < 0.8 else None, flags, chosen)


def commands(rng: random.Random, folder: Path) -> None:
    """A command with an odd option, which must end with a known exit status."""
    odd = [
        "",
        "8",
        "-1",
        "0",
        "true",
        "nan",
        "inf",
        "1e20",
        "0.5",
        "x",
        "1" * 400,
        "\x00",
        "linear",
    ]
    every = ["--conflict", "--seed", "--lam", "--beta", "--radius", "--set", "--json", "--limit"]
    known = {
        "simulate": ["--step-size", "--decay", "--refresh", "--share", "--rounds", "--limit"],
        "front": ["--dimension", "--prompts", "--responses", "--accuracy", "--radius", "--beta"],
        "claims": ["--out"],
        "figures": ["--out"],
        "advise": ["--repeats", "--rows", "--columns", "--min-margin", "--model", "--details"],
        "compare": ["--method", "--seeds", "--jobs", "--steps", "--rounds", "--relative", "--out"],
        "analyse": ["--sft", "--preference", "--candidates", "--features", "--solves"],
        "train": ["--steps", "--rounds", "--lora-rank", "--precision", "--set", "--epochs"],
    }
    name = rng.choice(list(known))
    options = [rng.choice(known[name] + every), rng.choice(odd)]
    if name == "simulate":
        options += [
            "--steps",
            "4",
            "--replicas",
            "2",
            "--schedule",
            rng.choice(["mix", "maxright"]),
        ]
    if name in ("claims", "figures"):
        options = [rng.choice([*odd, "--", "-"]), *options[:1]]
    if name == "advise":
        options = [*rng.choice([(), odd[:1], ("a.jsonl", "b.jsonl"), odd[:3]]), *options]
    if name == "compare":
        options += rng.choice([[], [rng.choice(odd)], ["runs", "--lam", rng.choice(odd)]])
    if name in ("train", "compare"):
        options += ["--set", f"train.steps={rng.choice(['true', '0.5', '[]'])}"]
    with contextlib.chdir(folder):
        try:
            cli.main([name, *options])
            code: Any = 0
        except SystemExit as ended:
            code = ended.code
    if code not in (0, 1, 2):
        raise Accepted(f"exit status {code}")


# ---------------------------------------------------------------------- claims and results


def claims_files(rng: random.Random, folder: Path) -> None:
    """The ledger's TOML."""
    path = folder / "claims.toml"
    text = (DOSSIER.folder / "claims.toml").read_text("utf-8")
    few = text.split("[[claim]]")[1 : rng.choice((2, 4))]
    table = mutated(tomllib.loads("".join(f"[[claim]]{one}" for one in few)), rng)
    path.write_bytes(damaged(_toml(table).encode(errors="replace"), rng))
    for claim in ledger.claims(path):
        assert claim.code.startswith("analysis.")


def verdict_files(rng: random.Random, folder: Path) -> None:
    """The stored verdicts, and the pages that use them."""
    path = folder / "claims.json"
    table = json.loads((DOSSIER.folder / "results" / "claims.json").read_text("utf-8"))
    table["claims"] = table["claims"][: rng.choice((1, 3))]
    path.write_bytes(damaged(_json(mutated(table, rng)), rng))
    found = ledger.verdicts(path)
    ledger.summary(found)
    report.tables.claims(found)


def result_files(rng: random.Random, folder: Path) -> None:
    """A figure's stored result, and all that uses it: captions, tables, dossier, claims."""
    name = rng.choice(RESULTS)
    path = folder / f"{name}.json"
    table = json.loads((DOSSIER.folder / "results" / path.name).read_text("utf-8"))
    path.write_bytes(damaged(_json(mutated(table, rng, deep=rng.random() < 0.8)), rng))
    with _read_instead(name, path):
        stored_results.read(path)
        report.caption(DOSSIER.module(name), stored_results.numbers(path))
        for claim in _claims():
            if claim.reads == "stored" and f".{name}:" in claim.code:
                claim.check(fast=True)
        content = report.context(DOSSIER, DOSSIER.folder)
        report.render(DOSSIER, report.DOSSIER, content)
        report.render(DOSSIER, ("readme.md.j2",), content)
        runner.table(DOSSIER)


def _claims(found: list[ledger.Claim] = []) -> list[ledger.Claim]:  # noqa: B006  (kept)
    if not found:
        found += ledger.claims(DOSSIER.folder / "claims.toml")
    return found


@contextlib.contextmanager
def _read_instead(name: str, path: Path) -> Iterator[None]:
    """Make every reader of this result read the file instead."""
    read = stored_results.load_json

    def other(place: Any, *, remedy: str) -> Any:
        return read(path if Path(place).stem == name else place, remedy=remedy)

    with mock.patch.object(stored_results, "load_json", other):
        yield


# ---------------------------------------------------------------------- damage


def mutated(table: Any, rng: random.Random, *, deep: bool = True) -> Any:
    """A copy of nested values in which some are odd, missing, added or exchanged."""
    made = deepcopy(table)
    for _ in range(rng.choice((1, 1, 2))):
        holders = list(_holders(made)) if deep else [made]
        holder = rng.choice(holders)
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        match rng.randrange(6):
            case 0 | 1 if keys:
                holder[rng.choice(keys)] = deepcopy(rng.choice(IN_FILES))
            case 2 if keys:
                del holder[rng.choice(keys)]
            case 3 if isinstance(holder, dict):
                holder[rng.choice(["name", "", "steps", "x" * 99])] = rng.choice(IN_FILES)
            case 4 if len(keys) > 1:
                first, second = rng.sample(keys, 2)
                holder[first], holder[second] = holder[second], holder[first]
            case _ if keys:
                key = rng.choice(keys)
                holder[key] = rng.choice([[holder[key]], {"a": holder[key]}, str(holder[key])])
    return rng.choice(IN_FILES) if rng.random() < 0.02 else made


def _holders(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        yield value
        for item in list(value.values()) if isinstance(value, dict) else value[:5]:
            yield from _holders(item)


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Bytes that are mostly unchanged; otherwise cut, emptied, doubled, nested or changed."""
    match rng.randrange(12):
        case 0:
            return content[: rng.randrange(len(content) + 1)]
        case 1:
            place = rng.randrange(len(content) + 1)
            return (
                content[:place] + rng.choice((b"\xff", b"\x00", b'"', b"}", b"[")) + content[place:]
            )
        case 2:
            return rng.choice(
                (
                    b"",
                    b" ",
                    b"null",
                    b"[]",
                    b"[" * 100_000,
                    b"\xef\xbb\xbf{}",
                    b"NaN",
                    content * 2,
                    b'{"a": ' * 100_000,
                    b"a = " + b"[" * 100_000,
                )
            )
    return content


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _toml(table: Any) -> str:
    """A table as TOML, its inner tables inline."""
    if not isinstance(table, dict):
        return _inline(table)
    return "\n".join(f"{json.dumps(k)} = {_inline(v)}" for k, v in table.items() if v is not None)


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        parts = [f"{json.dumps(k)} = {_inline(v)}" for k, v in value.items() if v is not None]
        return f"{{{', '.join(parts)}}}"
    if isinstance(value, list):
        return f"[{', '.join(_inline(item) for item in value if item is not None)}]"
    return str(value) if isinstance(value, float) else json.dumps(value)


# ---------------------------------------------------------------------- the search

TRIES: dict[Callable[[random.Random, Path], None], int] = {
    records: 25, rules: 10, convex_calls: 20, settings_files: 15, commands: 4, claims_files: 12,
    verdict_files: 8, result_files: 6,
}  # fmt: skip
"""Tries of each kind, out of a hundred."""


def attempt(trial: int, seed: int, folder: Path) -> tuple[str, str, str]:
    """One case by its number: its kind, its outcome, and the error if there is one."""
    rng = random.Random(f"{seed}-{trial}")
    what = rng.choices(list(TRIES), list(TRIES.values()))[0]
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            what(rng, folder)
    except InputError as error:
        good = bool(error.remedy) and "Traceback" not in str(error)
        named = error.file or error.field or not what.__name__.endswith("files")
        return what.__name__, "refused" if good and named else f"unclear: {error}", ""
    except Exception as error:
        if type(error).__name__ == "TypeCheckError":  # found by the tests' type checker
            return what.__name__, "refused", ""
        return what.__name__, f"{type(error).__name__}: {error}"[:300], traceback.format_exc()
    return what.__name__, "used", ""


def run(cases: int, seed: int = 0) -> tuple[int, list[str]]:
    """Try a number of cases; return the number, and a line for each failure."""
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        for trial in range(cases):
            what, outcome, _ = attempt(trial, seed, Path(folder))
            if outcome not in ("used", "refused"):
                failures.append(f"case {trial} of seed {seed}, {what}: {outcome}")
    return cases, failures


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="show the error of this case alone")
    given = parser.parse_args()
    if given.only is not None:
        with tempfile.TemporaryDirectory() as folder:
            print(*attempt(given.only, given.seed, Path(folder)), sep="\n")
        return
    counts: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for trial in range(given.cases):
            what, outcome, _ = attempt(trial, given.seed, Path(folder))
            kinds[what] += 1
            counts[outcome if outcome in ("used", "refused") else "failed"] += 1
            if outcome not in ("used", "refused"):
                print(f"case {trial} of seed {given.seed}, {what}: {outcome}", flush=True)
    print(dict(kinds), dict(counts))
    sys.exit(counts["failed"] > 0)


if __name__ == "__main__":
    main()
