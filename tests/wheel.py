"""`python -m tests.wheel dist`: put the built wheel into an empty folder, and use it from another.

Nothing is downloaded: the packages that it depends on are those of this interpreter.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

# Commands that need stored results only: a listing, verdicts, a picture and the page.
COMMANDS = (
    ("--version",),
    ("front", "--accuracy", "0.1", "--json"),
    ("figures",),
    ("figures", "explorer", "--redraw"),
    ("claims", "--stored"),
    ("report",),
)
LARGEST = 25_000_000
"""Largest size of the wheel in bytes."""


def install(wheel: Path, target: Path) -> None:
    """Put the wheel's files where an installation would put them."""
    with zipfile.ZipFile(wheel) as content:
        content.extractall(target)


def use(target: Path, empty: Path) -> list[str]:
    """Run the commands from an empty folder with the installed package; returns what failed."""
    env = {**os.environ, "PYTHONPATH": str(target), "NO_COLOR": "1"}
    where = "import tradeoff; print(tradeoff.__file__)"
    calls = [("-c", where), *(("-m", "tradeoff", *command) for command in COMMANDS)]
    failed = []
    for call in calls:
        done = subprocess.run(
            [sys.executable, *call], cwd=empty, env=env, capture_output=True, text=True, check=False
        )
        allowed = (0, 1) if "claims" in call else (0,)  # A failing claim gives 1.
        if done.returncode not in allowed or (call[0] == "-c" and str(target) not in done.stdout):
            failed.append(f"{' '.join(call)}: {done.stdout[-300:]}{done.stderr[-600:]}")
    return failed


def check(dist: Path) -> list[str]:
    """Faults of the wheel and the sdist in a folder; none if both are right."""
    (wheel,), (source,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    wrong = [f"{wheel.name} has {wheel.stat().st_size} bytes"] * (wheel.stat().st_size > LARGEST)
    with tarfile.open(source) as content:
        names = {name.partition("/")[2] for name in content.getnames()}
    wrong += [f"{source.name} lacks {name}" for name in
              ("pyproject.toml", "README.md", "LICENSE", "tradeoff/__init__.py", "tests/wheel.py")
              if name not in names]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        target, empty = Path(folder, "site"), Path(folder, "empty")
        empty.mkdir()
        install(wheel, target)
        before = {path: path.stat().st_mtime_ns for path in target.rglob("*") if path.is_file()}
        wrong += use(target, empty)
        after = {path: path.stat().st_mtime_ns for path in before if path.exists()}
        wrong += [f"{path} was changed" for path in before if before[path] != after.get(path)]
        pages = list(empty.rglob("report.html"))
        wrong += [] if len(pages) == 1 else [f"{len(pages)} reports"]
    return wrong


def main(dist: str) -> int:
    """Print the faults; the exit status is 1 if there are any."""
    wrong = check(Path(dist))
    print("\n".join(wrong) or f"{dist}: sdist and wheel are right")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
