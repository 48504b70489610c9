"""Processes that use one GPU at the same time, by NVIDIA's multi-process service where it is.

Without the service processes take turns, and small models leave most of a GPU idle.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

CONTROL = "nvidia-cuda-mps-control"
ELSEWHERE = "/usr/local/nvidia/bin"
"""Folder of the driver's programs where it is not on the path."""
SECONDS = 60.0
_CONTEXT = """
import ctypes
driver, device, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_void_p()
codes = [
    driver.cuInit(0),
    driver.cuDeviceGet(ctypes.byref(device), 0),
    driver.cuCtxCreate_v2(ctypes.byref(context), 0, device),
]
raise SystemExit(any(codes))
"""


@contextmanager
def shared(folder: Path) -> Iterator[bool]:
    """Let processes that start within the block share the GPU; whether they do.

    Parameters
    ----------
    folder
        Receives the pipes and logs of the service.
    """
    control = shutil.which(CONTROL, path=os.pathsep.join([os.environ.get("PATH", ""), ELSEWHERE]))
    if control is None:
        yield False
        return
    places = {f"CUDA_MPS_{name.upper()}_DIRECTORY": str(folder / name) for name in ("pipe", "log")}
    for place in places.values():
        Path(place).mkdir(parents=True, exist_ok=True)
    os.environ.update(places)
    works = False
    try:
        if _ends_well([control, "-d"]):
            works = _ends_well([sys.executable, "-c", _CONTEXT])
        if not works:  # Processes that find the service's pipes would wait for it.
            _stop(control, places)
        yield works
    finally:
        if works:
            _stop(control, places)


def _stop(control: str, places: Mapping[str, str]) -> None:
    _ends_well([control], "quit\n")
    for name in places:
        os.environ.pop(name, None)


def _ends_well(command: list[str], given: str = "") -> bool:
    """Whether a command ends in time with status 0."""
    nowhere = subprocess.DEVNULL  # A daemon would keep a pipe open.
    try:
        done = subprocess.run(
            command, input=given, text=True, stdout=nowhere, stderr=nowhere, timeout=SECONDS,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
