"""The parts of the pack where they arrive: checked, installed and put together.

Only the standard library is imported: the packages that the rest needs are what is installed.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PACK = Path(__file__).resolve().parents[2] / "out" / "gpu"
"""Where the pack is by default; the folder is ignored by git, so it must be named to travel."""
MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
MANIFEST = "manifest.json"
SITE = "site-packages"
"""Folder of the pack that receives the wheels. By this name, addresses of runs do not hold their
sources."""
CALLS = ("first", "second", "third")
"""Calls in order; each brings a part of the model, since a call may carry little."""
WORDS = "tokenizer"
"""Folder of the second call's part with the model's tokenizer."""
_BLOCK = 1 << 20


def sha256(path: Path) -> str:
    """Hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest(folder: Path) -> dict[str, Any]:
    """The manifest of one call's folder, whose files are as it says.

    Raises
    ------
    SystemExit
        If a file is missing or differs from what was packed.
    """
    path = folder / MANIFEST
    if not path.is_file():
        sys.exit(f"{path}: it is missing. Run make gpu-pack, and let {folder} travel.")
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    for name, wanted in found["files"].items():
        file = folder / name
        if not file.is_file() or sha256(file) != wanted["sha256"]:
            sys.exit(f"{file}: it is not the file that was packed. Let {folder} travel again.")
    return found


def install(pack: Path) -> bool:
    """Install the wheels into a folder of the pack; whether this process lacks them.

    They are installed once. Nothing outside of the pack's folder is changed.
    """
    site = pack / SITE
    if not site.exists():
        found = manifest(pack / "first")
        wheels = [str(pack / "first" / n) for n in found["files"] if n.endswith(".whl")]
        if wheels:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
            subprocess.run([*pip, "--no-compile", "--target", f"{site}-new", *wheels], check=True)
        site.with_name(f"{SITE}-new").mkdir(exist_ok=True)
        site.with_name(f"{SITE}-new").replace(site)
    if str(site) in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        return False
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(site), _given())))
    os.environ["TRADEOFF_DATA"] = str(pack / "second" / "data")
    os.environ["TRADEOFF_CACHE"] = str(pack / "cache")
    os.environ["HF_HUB_OFFLINE"] = "1"
    return True


def _given() -> str:
    return os.environ.get("PYTHONPATH", "")


def model(pack: Path) -> Path:
    """The GGUF file, put together of both parts.

    Raises
    ------
    SystemExit
        If a part is missing, or the parts are not of one file.
    """
    file = pack / MODEL
    if file.exists():
        return file
    found = manifest(pack / CALLS[-1])
    joined = file.with_suffix(".gz")
    with joined.open("wb") as out:
        for call in CALLS:
            part = pack / call / f"model.part-{call}"
            if not part.is_file():
                sys.exit(f"{part}: it is missing. The {call} call must bring it.")
            out.write(part.read_bytes())
    partial = file.with_suffix(".partial")
    with gzip.open(joined, "rb") as packed, partial.open("wb") as out:
        while block := packed.read(_BLOCK):
            out.write(block)
    joined.unlink()
    if sha256(partial) != found["model"]["sha256"]:
        sys.exit(f"{file}: its parts are not of one file. Pack again, and let both travel.")
    partial.replace(file)
    return file
