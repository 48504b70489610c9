"""What the policy reads of demonstrations in training, and what their tokens weigh."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tradeoff import draws
from tradeoff.errors import InputError
from tradeoff.llm._data import Example, Tokenised
from tradeoff.llm.batches import Batch
from tradeoff.methods.losses import SftLoss, TokenWeighted
from tradeoff.methods.losses.token_classes import of_mean_one
from tradeoff.schedules import Plan

LONGEST = 2**20
"""More tokens than a demonstration has; keeps the draws of different rows apart."""


@dataclass(frozen=True, eq=False)
class Readings:
    """Readings of the demonstrations of a run, as a loss asks for them.

    Attributes
    ----------
    loss, plan, seed
        The loss of demonstrations, and the plan and the seed of the run.
    items
        All training demonstrations.
    tokenizer, pad
        A tokenizer of transformers, and its padding token.
    """

    loss: SftLoss
    plan: Plan
    seed: int
    items: Tokenised[Example]
    tokenizer: Any
    pad: int

    @classmethod
    def of(cls, loss: SftLoss, *given: Any) -> Readings | None:
        """The readings that a loss asks for; None where it reads and weighs tokens as they are."""
        if not (isinstance(loss, TokenWeighted) or loss.hides or loss.fed_back):
            return None
        return cls(loss, *given)

    def at(self, step: int, rows: Int[np.ndarray, " n"], batch: Batch) -> Batch:
        """The batch of some demonstrations as it is read in an update.

        Raises
        ------
        InputError
            If a collator dropped tokens, so that weights cannot be told.
        """
        scored = sum(self.items[int(row)].scored for row in rows)
        if scored != len(batch.labels):
            raise InputError(
                "the loss weighs or hides single tokens, and the collator drops some",
                field="collator",
                value=len(batch.labels),
                remedy="Use the collator of this package, or another loss.",
            )
        if self.loss.hides:
            batch = self._hidden(step, rows, batch)
        weights = None
        if isinstance(self.loss, TokenWeighted):
            weights = torch.from_numpy(np.concatenate([self._weights[int(row)] for row in rows]))
        return replace(batch, weights=weights, fed_back=self.loss.fed_back)

    def _hidden(self, step: int, rows: Int[np.ndarray, " n"], batch: Batch) -> Batch:
        progress = (self.plan.clock[step] - 1) / self.plan.lengths[step]
        rate = float(self.loss.hidden(progress))
        key = draws.keys(0, self.seed, draws.TOKENS)
        starts = (step * len(self.items) + rows.astype(np.int64)) * LONGEST
        counters = [
            s + np.arange(self.items[int(row)].scored) for s, row in zip(starts, rows, strict=True)
        ]
        coins = torch.from_numpy(draws.uniform(key, np.concatenate(counters)) < rate)
        # Demonstrations share no prompts, so each token stands behind the one that predicts it.
        mask = getattr(self.tokenizer, "mask_token_id", None)
        fill = self.pad if mask is None else int(mask)
        read = batch.tokens.flatten().index_fill(0, batch.select[coins] + 1, fill)
        return replace(batch, tokens=read.view(batch.tokens.shape))

    @cached_property
    def _weights(self) -> list[Float[np.ndarray, " _"]]:
        """Weights of the tokens of all training demonstrations, of mean one."""
        assert isinstance(self.loss, TokenWeighted)
        special, texts = set(self.tokenizer.all_special_ids), dict[int, str]()

        def text(token: int) -> str:
            if token not in texts:
                texts[token] = "" if token in special else self.tokenizer.decode([token])
            return texts[token]

        every = (self.items[place] for place in range(len(self.items)))
        pieces = [[text(token) for token in item.tokens[item.start :].tolist()] for item in every]
        found = of_mean_one(self.loss.weights_of_tokens(pieces))
        return [each.astype(np.float32) for each in found]


def with_own_tokens(batch: Batch, likeliest: Int[Tensor, " M"]) -> Batch:
    """The batch, which is read together with the policy's likeliest token at each scored place."""
    flat = batch.tokens.flatten().index_copy(0, batch.select + 1, likeliest)
    return replace(batch, others=flat.view(batch.tokens.shape))
