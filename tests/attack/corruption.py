"""Damage to files on disk, which are then read by the package.

A damaged file may give an error with its name, or be replaced by its right content with a message.
The result afterwards must be that of an undisturbed run. Silence is a failure, even if the damage
changes nothing.
"""

from __future__ import annotations

import random
import shutil
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import llm_runs
from llm_models import bpe_tokenizer_hf, tiny_llama
from llm_payloads import classifier
from safetensors.torch import load_file, save_file

from tests.attack import _damage, _lab
from tests.attack._outcome import Outcome, spread
from tests.attack._setup import copied, difference, exact, model_folder, names, place, train
from tradeoff.errors import InputError
from tradeoff.llm import checkpoints, models
from tradeoff.llm.config import ModelConfig
from tradeoff.llm.evaluation import reward_model
from tradeoff.llm.export import export

PROMISE = (
    "A damaged file gives an error with its name, or is made anew with a message; it is never used."
)
TRIES, FULL = 220, 3000

RUN: dict[str, Any] = {"save_every": 2, "keep": 2, "log_every": 1}


def run(tries: int, seed: int) -> Outcome:
    """Damage `tries` files."""
    kinds = {
        "tensors of a checkpoint": partial(_resumed, "checkpoint", ".safetensors"),
        "state of a checkpoint": partial(_resumed, "checkpoint", ".json"),
        "log of a run": partial(_resumed, "log", ".jsonl"),
        "absent file of a checkpoint": partial(_resumed, "absent", ""),
        "checkpoint that becomes a model": _exported,
        "model of a run": _finished,
        "cache of a reference": _cached,
        "weights below adapters": partial(_other_weights, "base"),
        "weights of a reference": partial(_other_weights, "reference"),
        "model without a weight": _lacking,
        "store of a study": _study,
        "stamp, result or picture": _figure,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return spread(tries, seed, kinds)


# ---------------------------------------------------------------------- judgement


def judged(
    path: Path, call: Callable[[], Any], mended: Callable[[], str | None], *, words: bool = True
) -> str | None:
    """Description of a fault in the handling of a damaged file; None if there is none.

    `mended` describes a difference of the result from an undisturbed one.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            call()
        except InputError as error:
            told = any(name in str(error) for name in _named(path))
            return None if told else f"the error does not name it: {error}"
        except Exception as error:
            return f"{type(error).__name__}: {str(error)[:200]}"
    if (wrong := mended()) is not None:
        return f"taken as it is: {wrong}"
    if words and not any(name in str(one.message) for one in said for name in _named(path)):
        return "nothing is said"
    return None


def _named(path: Path) -> list[str]:
    """Names of a file in messages: its own, or that of its checkpoint or model."""
    folder = path.parent.name
    return [path.name, folder] if folder == "model" or "step-" in folder else [path.name]


@contextmanager
def _whole() -> Any:
    """Make a folder with a run that was stopped after update 5 of 6, and one with a whole run."""
    with place() as root:
        train(root / "whole", RUN)
        stop = llm_runs.stop_at(4, 15)
        stopped = llm_runs.trainer(output=root / "stopped", callbacks=[stop], **RUN)
        stopped.train(progress=False)
        yield root, _end(root / "whole")


def _end(folder: Path) -> dict[str, Any]:
    """Log, last checkpoint and model of a finished run; older checkpoints may differ."""
    found = exact(folder)
    return {
        name: value
        for name, value in found.items()
        if name.startswith(("metrics", "model", "checkpoints/step-00000006"))
    }


def _newest(folder: Path) -> Path:
    return checkpoints.checkpoints(folder / "checkpoints")[-1]


# ---------------------------------------------------------------------- training


def _resumed(what: str, suffix: str, tries: int, rng: random.Random, outcome: Outcome) -> None:
    kind = {
        ("checkpoint", ".safetensors"): "tensors of a checkpoint",
        ("checkpoint", ".json"): "state of a checkpoint",
        ("log", ".jsonl"): "log of a run",
        ("absent", ""): "absent file of a checkpoint",
    }[what, suffix]
    with _whole() as (root, expected):
        for _ in range(tries):
            folder = copied(root / "stopped", root / "run")
            files = [folder / "metrics.jsonl"] if what == "log" else sorted(
                p for p in _newest(folder).iterdir() if p.suffix == suffix or not suffix
            )  # fmt: skip
            path = rng.choice(files)
            harm = _damage.absent if what == "absent" else rng.choice(_damage.damages(path))
            said = harm(path, rng)
            problem = judged(
                path,
                lambda f=folder: train(f, RUN),
                lambda f=folder: difference(_end(f), expected),
                # Lines after those of the checkpoint are dropped, as after every kill.
                words=what != "log",
            )
            outcome.add(kind, problem and f"{path.name}: {said}: {problem}")


def _exported(tries: int, rng: random.Random, outcome: Outcome) -> None:
    kind = "checkpoint that becomes a model"
    with _whole() as (root, _):
        intact = [exact(export(root / "stopped", root / "newest"))]
        shutil.rmtree(_newest(copied(root / "stopped", root / "older")))
        intact.append(exact(export(root / "older", root / "before")))
        for _ in range(tries):
            folder = copied(root / "stopped", root / "run")
            shutil.rmtree(root / "out", ignore_errors=True)
            files = [p for p in (folder / "checkpoints" / "model").rglob("*") if p.is_file()]
            path = rng.choice([*sorted(files), _newest(folder) / "policy.safetensors"])
            said = rng.choice(_damage.damages(path))(path, rng)
            problem = judged(
                path,
                lambda f=folder: export(f, root / "out"),
                # The checkpoint before may take its place, with a warning.
                lambda: min(difference(exact(root / "out"), one) or "" for one in intact) or None,
            )
            outcome.add(kind, problem and f"{path.name}: {said}: {problem}")


def _finished(tries: int, rng: random.Random, outcome: Outcome) -> None:
    with place() as root:
        train(root / "run", RUN)
        expected = exact(export(root / "run" / "model", root / "intact"))
        for _ in range(tries):
            shutil.rmtree(root / "out", ignore_errors=True)
            folder = copied(root / "run" / "model", root / "model")
            # Users may edit its card, so that is not sealed.
            files = [p for p in folder.rglob("*") if p.is_file() and p.suffix != ".md"]
            path = rng.choice(sorted(files))
            said = rng.choice(_damage.damages(path))(path, rng)
            problem = judged(
                path,
                lambda f=folder: export(f, root / "out"),
                lambda: difference(exact(root / "out"), expected),
            )
            outcome.add("model of a run", problem and f"{path.name}: {said}: {problem}")


def _cached(tries: int, rng: random.Random, outcome: Outcome) -> None:
    kind, settings = "cache of a reference", {**RUN, "steps": 2, "save_every": 2}
    with place() as root:
        train(root / "first", {**settings, "cache": True})
        expected = exact(root / "first" / "checkpoints")
        for _ in range(tries):
            shutil.rmtree(root / "run", ignore_errors=True)
            copied(root / "first" / "cache", root / "run" / "cache")
            path = rng.choice(sorted((root / "run" / "cache").glob("*.safetensors")))
            said = rng.choice(_damage.damages(path))(path, rng)
            problem = judged(
                path,
                lambda: train(root / "run", {**settings, "cache": True}),
                lambda: difference(exact(root / "run" / "checkpoints"), expected),
            )
            outcome.add(kind, problem and f"{path.name}: {said}: {problem}")


def _other_weights(what: str, tries: int, rng: random.Random, outcome: Outcome) -> None:
    """Change one weight of a run's base or reference between two parts of the run."""
    kind = {"base": "weights below adapters", "reference": "weights of a reference"}[what]
    with place() as root:
        source, folder = model_folder(root / "model"), root / "run"
        settings = {**RUN, "schedule": "mix"}
        if what == "base":
            settings["lora"] = llm_runs.LORA
        else:
            settings |= {"reference": str(source), "reference_mode": "second_model"}
        stop = [llm_runs.stop_at(2, 15)]
        _trainer(source, what, settings, root / "stopped", stop).train(progress=False)
        before = load_file(source / "model.safetensors")
        for _ in range(tries):
            copied(root / "stopped", folder)
            weights = {name: value.clone() for name, value in before.items()}
            name = rng.choice(sorted(weights))
            i = rng.randrange(weights[name].numel())
            weights[name].view(-1)[i] *= 1.5
            save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
            problem = "taken as it is"
            try:
                _trainer(source, what, settings, folder).train(progress=False)
            except InputError:
                problem = None
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
            outcome.add(kind, problem and f"{name}[{i}] times 1.5: {problem}")


def _trainer(
    source: Path, what: str, settings: dict[str, Any], output: Path, callbacks: Any = ()
) -> Any:
    model = tiny_llama(len(bpe_tokenizer_hf()), seed=1)
    if what == "base":
        model = models.load(ModelConfig(path=str(source)))[0]
    given = dict(settings)
    schedule = given.pop("schedule")
    return llm_runs.trainer(schedule, output=output, model=model, callbacks=callbacks, **given)


def _lacking(tries: int, rng: random.Random, outcome: Outcome) -> None:
    """Read a model, a judge or adapters with one weight missing."""
    with place() as root:
        policy, judge = model_folder(root / "policy"), classifier(root / "judge")
        settings = {**RUN, "steps": 1, "lora": llm_runs.LORA}
        _trainer(policy, "base", {**settings, "schedule": "mix"}, root / "run").train(
            progress=False
        )
        readers: dict[Path, Any] = {
            policy: lambda at: models.load(ModelConfig(path=str(at))),
            judge: lambda at: reward_model(at),
            root / "run" / "model": lambda at: models.load(ModelConfig(path=str(at))),
        }
        for _ in range(tries):
            source = rng.choice(list(readers))
            folder = copied(source, root / "copy")
            path = next(iter(sorted(folder.glob("*model.safetensors"))))
            weights = load_file(path)
            name = rng.choice(sorted(weights))
            del weights[name]
            save_file(weights, path, metadata={"format": "pt"})
            problem: str | None = "loaded with random values"
            try:
                readers[source](folder)
            except InputError:
                problem = None
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
            outcome.add("model without a weight", problem and f"{source.name}: {name}: {problem}")


# ---------------------------------------------------------------------- studies and figures


def _study(tries: int, rng: random.Random, outcome: Outcome) -> None:
    with place() as root:
        whole = _lab.run(root / "whole")
        for _ in range(tries):
            folder = copied(root / "whole", root / "study")
            path = rng.choice(sorted((folder / "runs").iterdir()))
            said = rng.choice(_damage.damages(path))(path, rng)
            found: list[Any] = []
            problem = judged(
                path,
                lambda f=folder, into=found: into.append(_lab.run(f)),
                lambda into=found: None if whole.equals(into[0]) else "another table",
            )
            outcome.add("store of a study", problem and f"{path.name}: {said}: {problem}")


def _figure(tries: int, rng: random.Random, outcome: Outcome) -> None:
    from analysis.dossier import runner
    from analysis.fernando2024.dossier import DOSSIER

    before = runner.STAMPS
    try:
        with place() as root:
            runner.STAMPS = root / "out" / "stamps"
            numbers = runner.run(DOSSIER, "certified_front", root / "out", fast=True).numbers
            expected = _drawn(root / "out")
            copied(root / "out", root / "whole")
            for _ in range(tries):
                folder = copied(root / "whole", root / "out")
                path = folder / rng.choice(sorted(names(folder)))
                harm = rng.choice([*_damage.damages(path), _damage.absent])
                said, found = harm(path, rng), []
                problem = judged(
                    path,
                    lambda into=found: into.append(
                        runner.run(DOSSIER, "certified_front", root / "out", fast=True)
                    ),
                    lambda into=found: _undrawn(into[0].numbers, numbers, root / "out", expected),
                    # Damaged files are drawn anew; only for an unreadable stamp no message is
                    # needed.
                    words=False,
                )
                outcome.add(
                    "stamp, result or picture", problem and f"{path.name}: {said}: {problem}"
                )
    finally:
        runner.STAMPS = before


def _drawn(folder: Path) -> dict[str, Any]:
    """Bytes of the pictures, and numbers of the results."""
    from tradeoff.records import read_json

    found = exact(folder)
    for path in (folder / "results").glob("*.json"):
        found[f"results/{path.name}"] = read_json(path)["numbers"]
    return found


def _undrawn(numbers: Any, shown: Any, folder: Path, expected: dict[str, Any]) -> str | None:
    if numbers != shown:
        return "other numbers are returned"
    return difference(_drawn(folder), expected)
