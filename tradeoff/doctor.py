"""Checks of this machine: versions, devices, threads, optional packages, writable folders.

Each check is a :class:`Finding`. A check of something optional never fails. A failed check has a
remedy.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from tradeoff.checkout import DATA, ROOT, WORK
from tradeoff.errors import InputError
from tradeoff.files import check_writable

GIB = 2**30
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
DEVELOPERS = ("test", "dev", "docs")
"""Extras that only a contributor needs."""
DRIVER = "Check the driver, and that torch was built for it."


@dataclass(frozen=True)
class Finding:
    """The result of one check, or a reported value.

    Attributes
    ----------
    part
        Part of the report: "versions", "extras", "threads", "cpu", "gpu" or "folders".
    name, value
        What was checked, and the result.
    ok
        ``True`` or ``False`` for a check, ``None`` for a value that is only reported.
    remedy
        What the user should do; empty if nothing.
    """

    part: str
    name: str
    value: str
    ok: bool | None = None
    remedy: str = ""


def examine() -> tuple[Finding, ...]:
    """Make all checks, in a few seconds; no file is left behind."""
    return (*versions(), *extras(), *threads(), *processor(), *cuda(), *folders())


def healthy(findings: tuple[Finding, ...], *, gpu: bool = False) -> bool:
    """Whether no check failed and, with ``gpu``, whether a run on a GPU will work."""
    return all(f.ok is not False for f in findings) and (gpu_works(findings) or not gpu)


def gpu_works(findings: tuple[Finding, ...]) -> bool:
    """Whether there is a CUDA device and all its checks passed."""
    checks = [f.ok for f in findings if f.part == "gpu" and f.ok is not None]
    return bool(checks) and all(checks)


def as_record(findings: tuple[Finding, ...]) -> dict[str, Any]:
    """The findings and verdicts as JSON values."""
    return {
        "ok": healthy(findings),
        "gpu": gpu_works(findings),
        "findings": [asdict(finding) for finding in findings],
    }


# ------------------------------------------------------------------ packages


def versions() -> Iterator[Finding]:
    """Versions of Python, of the package and of its required dependencies."""
    old = sys.version_info < (3, 11)
    remedy = "Use Python 3.11 or newer." if old else ""
    yield Finding("versions", "python", platform.python_version(), not old, remedy)
    yield Finding("versions", "tradeoff", metadata.version("tradeoff"))
    for requirement in _requirements(""):
        wrong = _problem(requirement)
        remedy = f"pip install '{_plain(requirement)}'" if wrong else ""
        yield Finding(
            "versions", requirement.name, wrong or _version(requirement), not wrong, remedy
        )


def extras() -> Iterator[Finding]:
    """Extras, and the commands that install absent ones."""
    declared = metadata.metadata("tradeoff").get_all("Provides-Extra") or []
    for extra in sorted(declared, key=lambda name: (name in DEVELOPERS, name)):
        wrong = [r.name for r in _requirements(extra) if _problem(r)]
        value = f"absent: {', '.join(wrong)}" if wrong else "present"
        target = f"-e '.[{extra}]'" if _in_checkout() else f"'tradeoff[{extra}]'"
        yield Finding("extras", extra, value, None, f"pip install {target}" if wrong else "")


@cache
def _requirements(extra: str) -> tuple[Requirement, ...]:
    """Requirements of one extra and of the extras in it; those of the package for ""."""
    found: dict[str, Requirement] = {}
    for line in metadata.requires("tradeoff") or []:
        requirement = Requirement(line)
        marker = requirement.marker
        always = marker is None or marker.evaluate({"extra": ""})
        if always == (extra == "") and (marker is None or marker.evaluate({"extra": extra})):
            if requirement.name == "tradeoff":
                nested = [r for e in sorted(requirement.extras) for r in _requirements(e)]
            else:
                nested = [requirement]
            found.update({r.name: r for r in nested})
    return tuple(found.values())


def _problem(requirement: Requirement) -> str:
    version = _version(requirement)
    if not version:
        return "absent"
    fits = requirement.specifier.contains(version, prereleases=True)
    return "" if fits else f"{version}, but {requirement.specifier} is needed"


def _version(requirement: Requirement) -> str:
    try:
        return metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return ""


def _plain(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"


def _in_checkout() -> bool:
    return (ROOT / "pyproject.toml").exists()


# ------------------------------------------------------------------ devices


def threads() -> Iterator[Finding]:
    """Numbers of threads of the numerical libraries."""
    for name in THREAD_VARIABLES:
        yield Finding("threads", name, os.environ.get(name, "not set"))
    if find_spec("torch"):
        import torch

        yield Finding("threads", "torch", str(torch.get_num_threads()))
    if not find_spec("threadpoolctl"):
        return
    from threadpoolctl import threadpool_info

    for pool in threadpool_info():
        library = f"{pool['internal_api']} ({pool['prefix']})"
        yield Finding("threads", library, str(pool["num_threads"]))


def processor() -> Iterator[Finding]:
    """The processor and its memory, and whether torch and numba work on it."""
    affinity = getattr(os, "sched_getaffinity", None)
    usable = len(affinity(0)) if affinity else os.cpu_count()
    name = platform.processor() or platform.machine()
    yield Finding("cpu", "processor", f"{name}, {usable} of {os.cpu_count()} threads usable")
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
        yield Finding("cpu", "memory", f"{memory:.0f} GiB")
    if find_spec("torch"):
        import torch

        yield matmul("cpu", "cpu", torch.float32)
    yield compiled()


def cuda() -> Iterator[Finding]:
    """CUDA devices, and whether a run on each will work."""
    if not find_spec("torch"):
        why = "torch is not installed: nothing runs on a GPU, but the convex laboratory works"
        yield Finding("gpu", "devices", why)
        return
    import torch

    if not torch.cuda.is_available():
        why = "torch finds no CUDA device" if torch.version.cuda else "this torch has no CUDA"
        yield Finding("gpu", "devices", f"{why}: nothing runs on a GPU, everything else works")
        return
    yield Finding("gpu", "CUDA", f"{torch.version.cuda}, {torch.cuda.device_count()} device(s)")
    for index in range(torch.cuda.device_count()):
        device = f"cuda:{index}"
        kind = torch.cuda.get_device_properties(index)
        free, total = (size / GIB for size in torch.cuda.mem_get_info(index))
        about = f"{kind.name}, {free:.1f} of {total:.1f} GiB free, sm_{kind.major}{kind.minor}"
        yield Finding("gpu", device, about)
        yield matmul("gpu", device, torch.float32)
        yield matmul("gpu", device, torch.bfloat16)
        yield attention(device)
    for name in ("flash_attn", "torch.nn.attention.flex_attention"):
        value = "present" if find_spec(name) else "absent; torch's own attention is used"
        yield Finding("gpu", name, value)


def matmul(part: str, device: str, dtype: Any) -> Finding:
    """Compare a small matrix product with its known value."""
    import torch

    name = f"matmul {str(dtype).removeprefix('torch.')} on {device}"
    try:
        ones = torch.ones(64, 64, dtype=dtype, device=device)
        right = bool(((ones @ ones) == 64).all())
    except (RuntimeError, AssertionError) as error:
        return Finding(part, name, _first_line(error), False, DRIVER)
    value = "right" if right else "wrong result"
    return Finding(part, name, value, right, "" if right else "Reinstall torch.")


def attention(device: str) -> Finding:
    """Run causal attention forward and backward in bfloat16, as training does."""
    import torch

    name = f"attention bfloat16 on {device}"
    shape, options = (1, 2, 16, 64), {"dtype": torch.bfloat16, "device": device}
    try:
        q = torch.ones(shape, **options, requires_grad=True)  # type: ignore[call-overload]
        mixed = torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)
        mixed.sum().backward()
        right = bool((mixed == 1).all())
    except (RuntimeError, AssertionError) as error:
        return Finding(
            "gpu", name, _first_line(error), False, "Check the driver and torch's build."
        )
    return Finding("gpu", name, "right" if right else "wrong result", right)


def compiled() -> Finding:
    """Check that numba compiles."""
    import numba

    try:
        right = numba.njit(lambda x: x + 1)(1) == 2
    except (numba.NumbaError, OSError) as error:
        return Finding("cpu", "numba", _first_line(error), False, "Reinstall numba.")
    return Finding("cpu", "numba", "compiles" if right else "wrong result", right)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


# ------------------------------------------------------------------ folders


def folders() -> Iterator[Finding]:
    """Check the folders that runs write to; none is created."""
    import matplotlib

    compiled = os.environ.get("NUMBA_CACHE_DIR", Path(__file__).parent / "convex" / "__pycache__")
    home = os.path.expanduser(os.environ.get("HF_HOME", "~/.cache/huggingface"))
    yield writable(
        "compiled kernels", Path(compiled), "Set NUMBA_CACHE_DIR to a folder you may write."
    )
    yield writable("output", WORK, "Run in a folder you may write, or give --out.")
    if home.startswith("~"):
        yield Finding("folders", "Hugging Face", "no home folder found", False, "Set HF_HOME.")
    else:
        yield writable("Hugging Face", Path(home), "Set HF_HOME.")
    yield writable("matplotlib", Path(matplotlib.get_cachedir()), "Set MPLCONFIGDIR.")
    if _in_checkout():
        there, none = DATA.is_dir(), "none, so figures on real text show stored runs"
        remedy = "" if there else "Set TRADEOFF_DATA to its folder."
        yield Finding("folders", "real text", str(DATA) if there else none, None, remedy)


def writable(name: str, folder: Path, remedy: str) -> Finding:
    """Check that a file can be written to ``folder``, or to its nearest existing parent."""
    try:
        check_writable(folder)
    except InputError as error:
        reason = error.problem.rpartition(": ")[2]
        return Finding("folders", name, f"{folder}: {reason}", False, remedy)
    return Finding("folders", name, str(folder), True)
