"""Fixtures of the attacks: a tiny model, rows, short runs, and the comparison of folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import llm_runs
import pandas as pd
import pyarrow.parquet as pq
from llm_models import bpe_tokenizer_hf, tiny_llama
from safetensors import safe_open

LOCKS = (".lock",)
"""Names of files that stay beside results and do not count."""


@contextmanager
def place() -> Iterator[Path]:
    """Context manager with a temporary folder."""
    with TemporaryDirectory(prefix="attack-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def model_folder(folder: Path, **settings: Any) -> Path:
    """Write a random Llama with its tokenizer."""
    tokenizer = bpe_tokenizer_hf()
    tiny_llama(len(tokenizer), **settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def row_files(folder: Path, count: int = 12) -> None:
    """Write ``sft.jsonl`` and ``preference.jsonl``."""
    rows = {"sft": llm_runs.sft_rows(count), "preference": llm_runs.preference_rows(count)}
    for name, part in rows.items():
        lines = "".join(f"{json.dumps(vars(row))}\n" for row in part)
        (folder / f"{name}.jsonl").write_text(lines, "utf-8")


def train(folder: Path, settings: dict[str, Any], resume: bool = True) -> None:
    """Do a short training run in a folder; the setting ``cache`` is the reference cache."""
    given = dict(settings)
    if given.pop("cache", False):
        given["reference_cache"] = str(folder / "cache")
    schedule = given.pop("schedule", "alright")
    run = llm_runs.trainer(schedule, output=folder, **given)
    run.train(progress=False, resume=resume)


# ---------------------------------------------------------------------- comparison of folders


def names(folder: Path) -> set[str]:
    """Files below a folder, by their relative names."""
    files = (path for path in folder.rglob("*") if not path.is_dir())
    return {str(path.relative_to(folder)) for path in files if path.name not in LOCKS}


def exact(folder: Path) -> dict[str, Any]:
    """The content that equal runs share: file names, bytes of tensors and figures, log lines."""
    found: dict[str, Any] = {}
    for name in sorted(names(folder)):
        path = folder / name
        if path.suffix in (".safetensors", ".parquet", ".png", ".svg"):
            # Tables of runs contain times.
            found[name] = None if name.startswith("trajectory") else path.read_bytes()
        elif path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
            found[name] = [_steady(line) for line in lines]
        else:
            found[name] = None
    return found


def difference(found: dict[str, Any], expected: dict[str, Any]) -> str | None:
    """Description of a difference; None if there is none."""
    if more := sorted(found.keys() - expected.keys()):
        return f"{more[0]} is left over"
    if fewer := sorted(expected.keys() - found.keys()):
        return f"{fewer[0]} is missing"
    other = [name for name, value in expected.items() if found[name] != value]
    return f"{other[0]} differs" if other else None


def intact(path: Path) -> bool:
    """Whether a file of a known kind can be read to its end."""
    try:
        content = path.read_bytes()
        match path.suffix:
            case ".json":
                json.loads(content)
            case ".jsonl":
                [json.loads(line) for line in content.splitlines()]
            case ".parquet":
                pq.read_table(path)
            case ".csv":
                pd.read_csv(path)
            case ".png":
                return b"IEND" in content[-12:]
            case ".svg":
                return content.rstrip().endswith(b"</svg>")
            case ".safetensors":
                with safe_open(path, "pt") as tensors:
                    return bool(tensors.keys())
    except Exception:
        return False
    return True


def copied(source: Path, target: Path) -> Path:
    """Copy a folder, in place of an existing one."""
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(source, target))


def _steady(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in llm_runs.VOLATILE}
