"""Write what travels to the GPU machine: a folder for each call, with a manifest."""

from __future__ import annotations

import gzip
import subprocess
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from shutil import copyfile
from zipfile import ZIP_DEFLATED, ZipFile

from analysis.fernando2024.real import smol_rows
from analysis.gpu import results
from analysis.gpu.parts import CALLS, MANIFEST, MODEL, WORDS, sha256
from tradeoff.checkout import DATA, ROOT
from tradeoff.errors import InputError
from tradeoff.llm import gguf, models
from tradeoff.records import replacing, replacing_folder, write_json

MIB = 2**20
LIMIT = 63.0
"""MiB of a call by default: 64, less what a transfer adds for each file."""
DOSSIERS = "tradeoff/_dossiers/"
"""Of the project's wheel."""
PYTHON, PLATFORMS = "3.12", ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
"""Of the GPU machine; its processor is x86-64."""
ABSENT = (
    "annotated-types",
    "array-api-compat",
    "datasets",
    "dill",
    "gguf",
    "multiprocess",
    "pydantic",
    "pydantic-core",
    "trl",
    "typing-inspection",
)
"""Packages that an image with torch, transformers, peft and accelerate lacks."""


def write(
    pack: Path, limit_mib: float = LIMIT, *, wheels: bool = True, runs: Path | None = None
) -> str:
    """Write the folders; returns what was written and what each call carries, as text.

    Parameters
    ----------
    pack
        Receives a folder for each call; what was there is replaced.
    limit_mib
        Most MiB that a call may carry, the checkout's tracked files included.
    wheels
        Download the wheels of :data:`ABSENT` in the versions of constraints.txt, and build that of
        the project.
    runs
        Archive of a study's runs with which the third call goes on, in place of the stored one of
        the checkout.

    Raises
    ------
    InputError
        If the model's package or a data file is not there, or the parts do not fit.
    """
    if runs is not None and not runs.is_file():
        remedy = "Name an archive, or leave it out: the checkout's goes along."
        raise InputError("there is no such archive", file=runs, remedy=remedy)
    pack.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        first, second, third = (
            stack.enter_context(replacing_folder(pack / call)) for call in CALLS
        )
        if wheels:
            fetch(first / "wheels")
        for file in smol_rows.files():
            shorten(file, second / "data" / file.name)
        if runs is not None:
            copyfile(runs, results.runs(third))
        model = gguf.file_of("smollm2")
        folder = models.model_folder(str(model))
        models.tokenizer_of(folder, folder).save_pretrained(second / WORDS)
        split(model, first, second, third)
        about = {"file": MODEL, "bytes": model.stat().st_size, "sha256": sha256(model)}
        sizes = [seal(folder, about) for folder in (first, second, third)]
    return _said(pack, sizes, limit_mib)


def split(model: Path, *folders: Path) -> None:
    """Write a part of the compressed model into each folder, so that all are of one size."""
    packed = gzip.compress(model.read_bytes(), compresslevel=1, mtime=0)
    before = [size(folder) for folder in folders]
    each, at = (len(packed) + sum(before)) // len(folders), 0
    for call, folder, there in zip(CALLS, folders, before, strict=True):
        end = len(packed) if call == CALLS[-1] else at + max(0, each - there)
        (folder / f"model.part-{call}").write_bytes(packed[at:end])
        at = end


def seal(folder: Path, model: dict[str, object]) -> int:
    """Write the manifest of a folder; its size in bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    write_json(
        folder / MANIFEST,
        {
            "packed": datetime.now(UTC).isoformat(timespec="seconds"),
            "python": PYTHON,
            "model": model,
            "files": {
                path.relative_to(folder).as_posix(): {
                    "bytes": path.stat().st_size,
                    "sha256": sha256(path),
                }
                for path in files
            },
        },
    )
    return size(folder)


def _said(pack: Path, sizes: list[int], limit_mib: float) -> str:
    tree = tracked()
    lines = []
    for call, count in zip(CALLS, sizes, strict=True):
        whole = (count + tree) / MIB
        if whole > limit_mib:
            raise InputError(
                f"the {call} call would carry {whole:.1f} MiB with the checkout",
                field="limit_mib",
                value=limit_mib,
                remedy="Allow more, or leave data out.",
            )
        lines.append(
            f"{pack / call}: {count / MIB:.1f} MiB, {whole:.1f} with the checkout's tracked files"
        )
    return "\n".join([*lines, "There: python -m analysis.gpu first; at once second, third."])


def tracked() -> int:
    """Bytes of the files that git tracks; 0 outside of a checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return sum(path.stat().st_size for path in paths if path.is_file())


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def shorten(file: Path, place: Path) -> None:
    """Copy the rows of a file that the study reads.

    Raises
    ------
    InputError
        If the file is not there.
    """
    if not file.exists():
        remedy = f"Put it there, or name its folder in TRADEOFF_DATA (now {DATA})."
        raise InputError("a file of the study is missing", file=file, remedy=remedy)
    place.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        kept = [line for _, line in zip(range(smol_rows.MOST), lines, strict=False)]
    place.write_bytes(gzip.compress("".join(kept).encode(), mtime=0))


def fetch(folder: Path) -> None:
    """Download the wheels for the GPU machine, and build the project's own.

    Raises
    ------
    InputError
        If a package has no version in constraints.txt, or pip fails.
    """
    pinned = dict(
        line.strip().replace("_", "-").split("==")
        for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
        if "==" in line and not line.startswith("#")
    )
    if unknown := [name for name in ABSENT if name not in pinned]:
        raise InputError(
            "no version is pinned",
            file="constraints.txt", value=unknown[0], remedy="Add one, NAME==VERSION.",
        )  # fmt: skip
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    platforms = [f"--platform={name}_x86_64" for name in PLATFORMS]
    aim = ["--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp", *platforms]
    wanted = [f"{name}=={pinned[name]}" for name in ABSENT]
    for command in (
        [*pip, "download", "--no-deps", *aim, "--dest", str(folder), *wanted],
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = next(iter(done.stderr.strip().splitlines()[::-1]), "it says nothing")
            raise InputError(f"pip failed: {reason}", field="wheels", remedy="Is there a network?")
    for wheel in folder.glob("tradeoff-*.whl"):
        slim(wheel)


def slim(wheel: Path) -> None:
    """Leave the dossiers out of the project's wheel: the checkout that travels has them."""
    with ZipFile(wheel) as whole:
        kept = {n: whole.read(n) for n in whole.namelist() if not n.startswith(DOSSIERS)}
    (record,) = (name for name in kept if name.endswith(".dist-info/RECORD"))
    lines = kept[record].decode().splitlines(keepends=True)
    kept[record] = "".join(line for line in lines if not line.startswith(DOSSIERS)).encode()
    with replacing(wheel) as partial, ZipFile(partial, "w", ZIP_DEFLATED) as slimmed:
        for name, content in kept.items():
            slimmed.writestr(name, content)
