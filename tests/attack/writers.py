"""Several processes that write to one folder.

One of them must write. Each other process must end with an error that another run writes there, or
continue from the finished result. A dead owner must be recognised, and a living owner respected.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import psutil

from tests.attack import _children, _lab
from tests.attack._outcome import Outcome, spread
from tests.attack._setup import difference, exact, model_folder, place, row_files, train
from tradeoff.checkout import ROOT
from tradeoff.errors import InputError
from tradeoff.llm._owner import OWNER, Lock, Owner, owner_of

PROMISE = (
    "One process at a time writes to a folder: others say so, and nothing is mixed or doubled."
)
TRIES, FULL = 40, 300

RUN: dict[str, Any] = {"save_every": 2, "keep": 2, "log_every": 1}


def run(tries: int, seed: int) -> Outcome:
    """Start processes in one folder, `tries` times."""
    launched = tries // 30  # each takes half a minute
    kinds: dict[str, Any] = {
        "trainings in one folder": _trainings,
        "studies in one folder": _studies,
        "owner of a folder": _owners,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcome = spread(tries - launched, seed, kinds)
        if launched:
            _launched(launched, random.Random(f"{seed} launched"), outcome)
    return outcome


def _late(seconds: float, call: Any, *arguments: Any) -> None:
    """Call a function in a child after some seconds; an `InputError` gives status 2."""
    time.sleep(seconds)
    try:
        call(*arguments)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def _together(call: Any, folder: Path, rng: random.Random, *arguments: Any) -> list[Any]:
    """Make the same call in several children at about the same time, and return their ends."""
    delays = [rng.choice([0.0, rng.uniform(0, 0.8)]) for _ in range(rng.choice([2, 2, 3]))]
    children = [_children.begin(_late, delay, call, folder, *arguments) for delay in delays]
    return [_children.finish(child) for child in children]


def _trainings(tries: int, rng: random.Random, outcome: Outcome) -> None:
    kind = "trainings in one folder"
    with place() as root:
        train(root / "whole", RUN)
        expected = exact(root / "whole")
        for i in range(tries):
            folder = root / f"run-{i}"
            folder.mkdir()
            ended = _together(train, folder, rng, RUN)
            problem = _told(ended, "another run writes to this folder")
            outcome.add(kind, problem or difference(exact(folder), expected))


def _studies(tries: int, rng: random.Random, outcome: Outcome) -> None:
    kind = "studies in one folder"
    with place() as root:
        whole = _lab.run(root / "whole")
        expected = exact(root / "whole")
        for i in range(tries):
            folder = root / f"study-{i}"
            problem = _told(_together(_studied, folder, rng), "writes to this folder")
            if problem is None and not _lab.run(folder).equals(whole):
                problem = "another table"
            outcome.add(kind, problem or difference(exact(folder), expected))


def _studied(folder: Path) -> None:
    _lab.run(folder)


def _told(ended: list[Any], words: str) -> str | None:
    """Fault in the ends of processes of which one may write; None without a fault."""
    if not any(one.status == 0 for one in ended):
        return f"none succeeds: {[one.text[-200:] for one in ended]}"
    for one in ended:
        if one.status != 0 and (one.status != 2 or words not in one.text):
            return f"status {one.status}: {one.text[-300:]}"
    return None


# ---------------------------------------------------------------------- owners


def _owners(tries: int, rng: random.Random, outcome: Outcome) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    try:
        born, now = psutil.Process(other.pid).create_time(), time.time()
        for _ in range(tries):
            with place() as folder:
                kind, entries, free = rng.choice([
                    ("dead", {"pid": ended.pid, "started": now - rng.uniform(0, 1e6)}, True),
                    ("alive", {"pid": other.pid, "started": born + rng.uniform(-1, 1)}, False),
                    ("number used again", {"pid": other.pid, "started": born - rng.uniform(9, 1e7)},
                     True),
                    ("elsewhere", {"pid": rng.randrange(1, 10**6), "started": now,
                                   "host": "elsewhere"}, False),
                    ("no such number", {"pid": 2**22 + rng.randrange(10**6), "started": now}, True),
                    ("garbage", rng.choice([b"", b"{", b"[]", b"\xff", b'{"pid": 1}',
                                            b'{"pid": -5, "host": "x", "started": "y"}']), True),
                ])  # fmt: skip
                content = entries
                if isinstance(entries, dict):
                    content = json.dumps({"host": socket.gethostname(), **entries}).encode()
                (folder / OWNER).write_bytes(content)
                outcome.add("owner of a folder", _owner(folder, kind, free))
    finally:
        other.kill()
        other.communicate()


def _owner(folder: Path, kind: str, free: bool) -> str | None:
    lock = Lock(folder)
    try:
        lock.take()
    except InputError as error:
        named = "another run writes to this folder" in str(error)
        return None if named and not free else f"{kind}: {error}"
    except Exception as error:
        return f"{kind}: {type(error).__name__}: {error}"
    found = owner_of(folder)
    lock.release()
    if not free:
        return f"{kind}: the folder is taken"
    return None if found == Owner.here() else f"{kind}: another owner is named"


# ---------------------------------------------------------------------- a launcher


def _launched(tries: int, rng: random.Random, outcome: Outcome) -> None:
    """Start two processes by torchrun without a GPU, as the help says."""
    kind = "torchrun without a GPU"
    with place() as root:
        row_files(root)
        model_folder(root / "model")
        for i in range(tries):
            steps, save = rng.choice([4, 6]), rng.choice([2, 3])
            out = root / f"run-{i}"
            command = [
                sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
                "--master-port", str(_free_port()), "-m", "tradeoff", "train", "--model",
                str(root / "model"), "--sft", str(root / "sft.jsonl"), "--preference",
                str(root / "preference.jsonl"), "--out", str(out), "--steps", str(steps),
                "--batch-size", "4", "--save-every", str(save), "--max-length", "64",
                "--set", "train.holdout=0.2", "--json",
            ]  # fmt: skip
            done = subprocess.run(
                command, cwd=ROOT, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
                capture_output=True, text=True, timeout=300, check=False,
            )  # fmt: skip
            outcome.add(kind, _one_run(done, out, steps))


def _one_run(done: Any, out: Path, steps: int) -> str | None:
    if done.returncode:
        # One clear error is allowed, but not one for each process.
        errors = done.stderr.count("error: ")
        return None if errors == 1 else f"status {done.returncode}: {done.stderr[-400:]}"
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    seen = [(line["kind"], line["step"]) for line in lines]
    if len(seen) != len(set(seen)) or max(step for _, step in seen) != steps:
        return f"the log has {len(seen)} lines, of which {len(set(seen))} differ"
    return None if (out / "model" / "model.safetensors").exists() else "there is no model"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
