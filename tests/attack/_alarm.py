"""Detection of payloads that run: they touch a marker, start a process, or fetch a kernel."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers.integrations.hub_kernels
import transformers.modeling_utils

_watched: list[Any] = []
_installed: list[bool] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched and event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn"):
        marker, seen = _watched[-1]
        if str(marker) in str(arguments):
            seen.append(event)


@contextmanager
def alarmed(marker: Path) -> Iterator[list[str]]:
    """Context manager that lists what a payload ran; a kernel counts when it would be fetched."""
    seen: list[str] = []
    if not _installed:
        sys.addaudithook(_hook)
        _installed.append(True)

    def fetched(name: Any = None, *_: Any, **__: Any) -> Any:
        seen.append(f"a kernel would be fetched: {name}")
        raise OSError("no kernel")

    places = [
        (transformers.modeling_utils, "lazy_import_flash_attention"),
        (transformers.integrations.hub_kernels, "get_kernel"),
        (transformers.integrations.hub_kernels, "load_and_register_attn_kernel"),
    ]
    kept = [(module, name, getattr(module, name)) for module, name in places
            if hasattr(module, name)]  # fmt: skip
    _watched.append((marker, seen))
    try:
        for module, name, _ in kept:
            setattr(module, name, fetched)
        yield seen
    finally:
        for module, name, before in kept:
            setattr(module, name, before)
        _watched.pop()
        for name in [n for n in sys.modules if n.startswith("transformers_modules")]:
            del sys.modules[name]
        if marker.exists():
            seen.append("the marker was touched")
            marker.unlink()


class Payload:
    """An object that touches the marker when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)
