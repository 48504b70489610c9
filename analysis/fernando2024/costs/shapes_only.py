"""Run torch code on shapes alone: nothing is computed, and no memory is needed.

A model of eight billion weights trains on a laptop, and the bytes of its tensors are counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional

from analysis.fernando2024.costs.live_tensors import LiveTensors
from tradeoff.llm import logprobs, setup

_NUMPY, _TOLIST, _LAYER_NORM = Tensor.numpy, Tensor.tolist, functional.layer_norm

SEED = 2
"""Seed of the made-up numbers. With it a rule that compares losses soon follows both objectives."""


class Imagined(LiveTensors):
    """Counts bytes of tensors without content, and makes up the values that a program reads.

    Values are random between 0 and 1, so a rule that compares losses follows sometimes one and
    sometimes the other. Comparisons are true.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rng = np.random.default_rng(SEED)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.allclose.default:
            return True
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return self.values(args[0]).item()
        return super().__torch_dispatch__(func, types, args, kwargs)

    def values(self, tensor: Tensor) -> np.ndarray:
        """An array with a tensor's shape and type."""
        shape = tuple(tensor.shape)
        if not tensor.dtype.is_floating_point:
            return np.ones(shape, str(tensor.dtype).removeprefix("torch."))
        return self._rng.uniform(size=shape).astype("f8" if tensor.itemsize == 8 else "f4")


@contextmanager
def shapes_only() -> Iterator[Imagined]:
    """Context manager that runs code on shapes alone, with the tensors that a GPU would hold.

    On a GPU, chunks of logits are larger, and autocast computes layer norms in float32. Tensors
    made before keep their content, so tokenizers are made outside.
    """
    seen = Imagined()

    def to_numpy(tensor: Tensor, **settings: Any) -> np.ndarray:
        made_up = isinstance(tensor, FakeTensor)
        return seen.values(tensor) if made_up else _NUMPY(tensor, **settings)

    def to_list(tensor: Tensor) -> Any:
        return to_numpy(tensor).tolist() if isinstance(tensor, FakeTensor) else _TOLIST(tensor)

    with ExitStack() as stack:
        stack.enter_context(patch.object(Tensor, "numpy", to_numpy))
        stack.enter_context(patch.object(Tensor, "tolist", to_list))
        stack.enter_context(patch.object(torch.utils, "swap_tensors", _convert))
        # transformers would build masks here that it omits if it can read the positions.
        stack.enter_context(patch("transformers.masking_utils.is_tracing", lambda *_: False))
        stack.enter_context(patch.object(functional, "layer_norm", _layer_norm))
        # Without content, weights look different whenever they are read.
        stack.enter_context(patch.object(setup, "sample", lambda *_: []))
        # What a model attends to cannot be seen without content.
        stack.enter_context(patch.object(setup, "check_sight", lambda *_: None))
        chunk = {"cpu": logprobs._CHUNK["cuda"]}
        stack.enter_context(patch.dict(logprobs._CHUNK, chunk))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield stack.enter_context(seen)


def _layer_norm(given: Tensor, shape: Any, *weights: Any, **settings: Any) -> Tensor:
    wide = given.float() if torch.is_autocast_enabled("cpu") else given
    return _LAYER_NORM(wide, shape, *weights, **settings)


def _convert(old: Tensor, new: Tensor) -> None:
    """Copy the kind and device of a tensor; without content nothing else can differ."""
    if (old.dtype, old.device) != (new.dtype, new.device):
        old.data = new.data
