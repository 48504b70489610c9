"""Features of responses from a language model: its last hidden states, averaged over the tokens.

They take the place of hashed words in `tradeoff.convex.text`. Each response is read once, without
its prompt. States are kept on disk by model, tokenizer and response, so later analyses read new
ones alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from tradeoff.data.rows import PreferenceRow, SftRow, as_text
from tradeoff.llm._states import Store
from tradeoff.llm.models import below_adapters
from tradeoff.progress import tqdm
from tradeoff.records import cache_folder

Array = NDArray[np.float32]
LONGEST = 256
"""Tokens of a response that are read; the rest is left out."""
WIDTH = 256
"""Largest width of the features; wider states are projected by random signs."""
FITTED = 512
"""Responses of which mean and spread are taken."""
AT_ONCE = 16


class PooledStates:
    """Features of responses from a model, see :func:`tradeoff.convex.text.text_problem`.

    Each entry is centred and divided by its standard deviation over some responses; then rows have
    norm 1. A response without tokens has zeros.

    Parameters
    ----------
    model, tokenizer
        A causal model of transformers or peft, and its tokenizer.
    responses
        Responses whose mean and spread are taken, of at most :data:`FITTED` of them.
    folder
        Folder of states on disk; `cache_folder` by default.
    progress
        Show a bar while responses are read.

    Attributes
    ----------
    kind, shown
        Which features these are, and what they show of a response.
    """

    kind: ClassVar[str] = "pooled"
    shown: ClassVar[str] = "averaged states of the model, length"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        responses: Sequence[str],
        *,
        folder: Path | None = None,
        progress: bool = False,
    ) -> None:
        self._model, self._tokenizer, self._progress = model, tokenizer, progress
        self._store = Store.of(below_adapters(model), tokenizer, LONGEST, folder or cache_folder())
        distinct = list(dict.fromkeys(responses))
        self._some = distinct[:: -(-len(distinct) // FITTED)] if distinct else []

    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "n m"]:
        """Features of responses; reads those that are not known yet."""
        self._read([*self._some, *texts])
        states = self._store.get(texts)
        known = np.any(states != 0, axis=1, keepdims=True)
        centre, spread = self._moments()
        scaled = (states - centre) / spread
        if scaled.shape[1] > WIDTH:
            rng = np.random.default_rng(0)
            scaled = scaled @ rng.choice((-1.0, 1.0), (scaled.shape[1], WIDTH))
        norms = np.linalg.norm(scaled, axis=1, keepdims=True)
        return np.asarray(known * scaled / np.maximum(norms, 1e-12))

    def unread(self, texts: Iterable[str]) -> tuple[int, int]:
        """Number of distinct responses that are not known yet, and of their tokens."""
        new = self._store.missing([*self._some, *texts])
        return len(new), sum(map(len, self._tokens(new)))

    def seconds(self, texts: Sequence[str]) -> float:
        """Expected CPU seconds of reading these responses, from reading a few of them."""
        count, tokens = self.unread(texts)
        few = self._store.missing([*self._some, *texts])[: 2 * AT_ONCE : 4]
        read = sum(map(len, self._tokens(few)))
        if not count or not read:
            return 0.0
        self._read(few[:1])  # The first pass is slow.
        began = time.process_time()
        self._read(few[1:])
        rest = sum(map(len, self._tokens(few[1:])))
        return (time.process_time() - began) * (tokens - read) / max(rest, 1)

    def _moments(self) -> tuple[Array, Array]:
        some = self._store.get(self._some) if self._some else np.zeros((0, 1), np.float32)
        some = some[np.any(some != 0, axis=1)]
        if not len(some):
            return np.zeros(1, np.float32), np.ones(1, np.float32)
        spread = some.std(axis=0)
        return some.mean(axis=0), np.where(spread > 1e-6, spread, 1.0).astype(np.float32)

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        given = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return [list(ids)[:LONGEST] for ids in given]

    def _read(self, texts: Sequence[str]) -> None:
        new = self._store.missing(texts)
        if not new:
            return
        tokens = self._tokens(new)
        order = sorted(range(len(new)), key=lambda i: len(tokens[i]))
        base = below_adapters(self._model)
        before = base.training
        base.eval()
        bar = tqdm(total=len(new), desc="responses", disable=not self._progress, leave=False)
        with bar, torch.no_grad():
            for first in range(0, len(order), AT_ONCE):
                some = order[first : first + AT_ONCE]
                states = self._pooled([tokens[i] for i in some])
                self._store.put([new[i] for i in some], states)
                bar.update(len(some))
        base.train(before)
        self._store.write()

    def _pooled(self, rows: Sequence[list[int]]) -> Array:
        base = below_adapters(self._model)
        longest = max(1, *map(len, rows))
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
            mask[i, : len(row)] = 1
        ids, mask = ids.to(base.device), mask.to(base.device)
        read = mask.clone()
        read[:, 0] = 1  # A row without tokens would have no keys.
        hidden = base.base_model(input_ids=ids, attention_mask=read).last_hidden_state
        total = (hidden.float() * mask[:, :, None]).sum(dim=1)
        return np.asarray((total / mask.sum(dim=1, keepdim=True).clamp(min=1)).cpu().numpy())


def responses(
    sft: Iterable[SftRow] | None, preference: Iterable[PreferenceRow] | None
) -> list[str]:
    """The responses of rows: completions, then both responses of each pair."""
    found = [as_text(row.completion) for row in sft or ()]
    return found + [as_text(t) for row in preference or () for t in (row.chosen, row.rejected)]
