"""Losses of given rows under the policy, with the work divided among processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tradeoff.llm import _losses, batches
from tradeoff.llm._cuts import Extents, passes
from tradeoff.llm._data import Example, Pair
from tradeoff.llm._losses import PairLosses
from tradeoff.llm._readings import with_own_tokens
from tradeoff.llm._reference_values import ReferenceSource, evaluating, weighted
from tradeoff.llm.config import TrainConfig
from tradeoff.methods import PreferenceLoss, SftLoss

Rows = Int[np.ndarray, " n"]


@dataclass(frozen=True)
class Scorer:
    """Computation of the losses of rows.

    Attributes
    ----------
    policy
        A :class:`tradeoff.llm.logprobs.Policy`, bare or prepared for many processes.
    config
        Layout, precision and preference loss.
    pad
        Padding token.
    accelerator
        The accelerator, which numbers the processes and sums over them.
    collator
        Makes the batch of a pass.
    weighs
        A loss of pairs with weights of tokens, whose reference needs weighted log-probabilities.
    """

    policy: nn.Module
    config: TrainConfig
    pad: int
    accelerator: Any
    collator: batches.Collator = batches.collate
    weighs: PreferenceLoss | None = None

    @cached_property
    def _casting(self) -> list[Any]:
        """Adapters that cast their inputs; a search of the modules takes 10 ms."""
        return [m for m in self.policy.modules() if hasattr(m, "cast_input_dtype_enabled")]

    @property
    def layout(self) -> batches.Layout:
        """Layout of the settings; by default the one that works for every model."""
        return "padded" if self.config.layout == "auto" else self.config.layout

    def sft(
        self,
        items: Sequence[Example],
        trained: SftLoss | None = None,
        read: Callable[[batches.Batch], batches.Batch] | None = None,
    ) -> Float[Tensor, ""]:
        """Summed negative log-likelihood of demonstrations, in nats, or another token loss.

        The policy reads the batch as `read` returns it.
        """
        batch = self.collator(items, self.layout, self.pad)
        batch = (batch if read is None else read(batch)).to(self.accelerator.device)
        with self.autocast():
            if batch.fed_back:
                with torch.no_grad(), evaluating(self.policy):
                    own = self.policy(batch, greedy=True)
                batch = with_own_tokens(batch, own)
            return _losses.sft_sum(self.policy(batch), trained, batch.weights)

    def pairs(
        self,
        items: Sequence[Pair],
        rows: Rows,
        reference: ReferenceSource,
        trained: PreferenceLoss | None = None,
    ) -> PairLosses:
        """Preference losses of pairs with the indices `rows` in their data set.

        The loss is that of the settings, or `trained`.
        """
        weighs = trained if trained is not None and trained.by_token else None
        batch, found = self._responses(items, weighs)
        with self.autocast():
            known = reference(torch.from_numpy(rows), batch)
        known = known.to(found.dtype)
        return _losses.preference(found, known, batch.lengths, self.config, trained)

    @torch.no_grad()
    def mean_sft(self, items: Sequence[Example], rows: Rows | None = None) -> dict[str, float]:
        """Loss per token of all or some demonstrations; the same on every process."""
        total = torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)
        with evaluating(self.policy):
            for part, keep in self._parts(Extents.of(items), rows):
                chosen = [items[i] for i in part]
                scored = sum(len(item.tokens) - item.start for item in chosen)
                total += keep * torch.stack([self.sft(chosen).double(), _scalar(scored, total)])
        loss, tokens = self.add_up(total).tolist()
        return {"sft_loss": loss / tokens}

    @torch.no_grad()
    def mean_pairs(
        self, items: Sequence[Pair], reference: ReferenceSource, rows: Rows | None = None
    ) -> dict[str, float]:
        """Mean preference loss, accuracy and implicit rewards of all or some pairs.

        If the settings name a loss other than DPO, the DPO loss is included, too, so that runs with
        different losses can be compared.
        """
        sums: dict[str, Tensor] = {}
        config = self.config
        other = config.loss != "sigmoid" or config.label_smoothing > 0 or bool(config.chosen_nll)
        with evaluating(self.policy):
            for part, keep in self._parts(Extents.of(items), rows):
                losses_of = self.pairs([items[i] for i in part], part, reference)
                found = losses_of.sums()
                found |= {"dpo_loss": losses_of.dpo().sum()} if other else {}
                for name, value in found.items():
                    sums[name] = sums.get(name, 0.0) + keep * value.double()
        total = self.add_up(torch.stack(list(sums.values()))).tolist()
        count = len(items) if rows is None else len(rows)
        mean = {name: value / count for name, value in zip(sums, total, strict=True)}
        return {
            "preference_loss": mean.pop("loss"),
            "preference_accuracy": mean.pop("rewards/accuracies"),
            **mean,
        }

    @torch.no_grad()
    def log_probs(
        self,
        items: Sequence[Pair],
        progress: Any = iter,
        groups: Sequence[Int[np.ndarray, " _"]] | None = None,
        weighs: PreferenceLoss | None = None,
    ) -> Float[Tensor, "J 2"]:
        """Values of log pi(y|x) of both responses of every pair, on every process.

        Parameters
        ----------
        items
            The pairs.
        progress
            Wraps the list of passes to show how far they are.
        groups
            Indices of the pairs to score, in groups; a pass has pairs of one group only. The values
            of other pairs are 0. None: all pairs, as one group.
        weighs
            A loss whose weights the tokens have; None: ones.
        """
        table = torch.zeros(len(items), 2, device=self.accelerator.device)
        extents = Extents.of(items)
        every: Sequence[Any] = (None,) if groups is None else groups
        parts = [part for rows in every for part in self._parts(extents, rows)]
        with evaluating(self.policy):
            for part, keep in progress(parts):
                _, found = self._responses([items[i] for i in part], weighs)
                if keep:
                    table[torch.from_numpy(part)] = found.view(2, -1).T.to(table.dtype)
        return self.add_up(table)

    def add_up(self, value: Tensor) -> Tensor:
        """Sum over processes."""
        return self.accelerator.reduce(value, reduction="sum")

    def _responses(
        self, items: Sequence[Pair], weighs: PreferenceLoss | None = None
    ) -> tuple[batches.Batch, Float[Tensor, " S"]]:
        batch = self.collator(items, self.layout, self.pad).to(self.accelerator.device)
        with self.autocast():
            return batch, weighted(self.policy(batch), batch, weighs)

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """The precision that the settings ask for."""
        device, bf16 = self.accelerator.device.type, self.config.precision == "bf16"
        # peft makes the inputs of adapters float32, which autocast would undo.
        own = uncast(self._casting) if bf16 else nullcontext()
        with torch.autocast(device, torch.bfloat16, enabled=bf16), own:
            yield

    def _parts(self, extents: Extents, rows: Rows | None) -> Iterator[tuple[Rows, float]]:
        rows = np.arange(len(extents.starts)) if rows is None else rows
        world = self.accelerator
        return passes(rows, extents, self.config, world.process_index, world.num_processes)


def _scalar(value: float, like: Tensor) -> Tensor:
    return torch.tensor(value, dtype=like.dtype, device=like.device)


@contextmanager
def uncast(layers: Sequence[Any]) -> Iterator[None]:
    """Stop adapters from casting their inputs, for use under autocast."""
    before = [layer.cast_input_dtype_enabled for layer in layers]
    for layer in layers:
        layer.cast_input_dtype_enabled = False
    try:
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer.cast_input_dtype_enabled = value
