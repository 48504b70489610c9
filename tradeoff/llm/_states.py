"""States of responses under one model and tokenizer, kept in memory and in one sealed file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import nn

from tradeoff import _seals
from tradeoff.errors import InputError
from tradeoff.llm._fingerprints import model_fingerprint
from tradeoff.llm.models import tokenizer_fingerprint
from tradeoff.records import replacing

Array = NDArray[np.float32]


@dataclass
class Store:
    """Pooled states of one model and tokenizer by response, in memory and in one file.

    Attributes
    ----------
    path
        The file, with a seal.
    states
        State by SHA-256 of the response.
    """

    path: Path
    states: dict[bytes, Array]

    @classmethod
    def of(cls, model: nn.Module, tokenizer: Any, longest: int, folder: Path) -> Store:
        """The store of a model and tokenizer that read so many tokens of a response.

        Raises
        ------
        InputError
            If its file is damaged.
        """
        read = model_fingerprint(model), tokenizer_fingerprint(tokenizer)
        about = f"{' '.join(read)} {longest} {torch.__version__}"
        name = hashlib.sha256(about.encode()).hexdigest()[:16]
        path = folder / f"states-{name}.safetensors"
        return cls(path, dict(_entries(path)) if path.exists() else {})

    def missing(self, texts: Sequence[str]) -> list[str]:
        """Distinct responses without a state."""
        return [text for text in dict.fromkeys(texts) if _key(text) not in self.states]

    def get(self, texts: Sequence[str]) -> Array:
        """(n, d) states of responses that are all known."""
        return np.stack([self.states[_key(text)] for text in texts])

    def put(self, texts: Sequence[str], states: Array) -> None:
        """Add states."""
        self.states |= dict(zip(map(_key, texts), states, strict=True))

    def write(self) -> None:
        """Write all states to the file."""
        keys = np.frombuffer(b"".join(self.states), dtype=np.uint8).reshape(len(self.states), -1)
        parts: dict[str, NDArray[Any]] = {
            "keys": keys,
            "states": np.stack(list(self.states.values())),
        }
        content = save(parts, {"seal": (_seals.MARK + _seals.BLANK).decode()})
        with replacing(self.path) as partial:
            partial.write_bytes(_seals.sealed(content))


def _entries(path: Path) -> Iterator[tuple[bytes, Array]]:
    try:
        content = path.read_bytes()
        if not _seals.intact(content):
            raise ValueError("it is not as it was written, as its SHA-256 shows")
        parts = load(content)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            f"the stored states cannot be read: {error}",
            file=path,
            remedy="Remove the file, and responses will be read again.",
        ) from error
    for key, state in zip(parts["keys"], parts["states"], strict=True):
        yield key.tobytes(), state


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
