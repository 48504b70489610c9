"""Bytes of all tensors that exist at once: unlike a process's memory, equal on every machine."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):
    """Count the bytes of all storages that operators make while it is active, until freed.

    It sees every operator below autograd and vmap, so it also counts what is kept for the backward
    pass.

    Attributes
    ----------
    live, peak
        Bytes that exist now, and the largest number so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {t.untyped_storage()._cdata for t in _tensors((args, kwargs))}
        found = func(*args, **(kwargs or {}))
        for tensor in _tensors(found):
            storage = tensor.untyped_storage()
            place, size = storage._cdata, storage.nbytes()
            if size and place not in given and place not in self._known:
                self._known.add(place)
                self.live += size
                weakref.finalize(storage, self._freed, place, size)
        self.peak = max(self.peak, self.live)
        return found

    def _freed(self, place: int, size: int) -> None:
        self._known.discard(place)
        self.live -= size


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
