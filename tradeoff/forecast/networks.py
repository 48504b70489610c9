"""The tiny language model of `tradeoff.networks` as the subject of a forecast."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call

from tradeoff import objectives
from tradeoff.forecast.sketch import CountSketch, TwoSided
from tradeoff.forecast.subject import Rows, Scored, Shift
from tradeoff.networks.batches import Batch
from tradeoff.networks.language_task import LanguageTask
from tradeoff.networks.tasks import Params, one_run
from tradeoff.networks.train import Run, train
from tradeoff.schedules import Alright


@dataclass(frozen=True, eq=False)
class TaskSubject:
    """A :class:`~tradeoff.forecast.subject.Subject` on the training rows of a language task.

    Attributes
    ----------
    task
        Base model and data.
    rate
        Learning rate of the runs to forecast; gradients are clipped to norm 1.
    """

    task: LanguageTask
    rate: float

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers of training demonstrations and of training pairs."""
        return self.task.sizes

    @property
    def beta(self) -> float:
        """Inverse temperature of DPO."""
        return self.task.beta

    @property
    def shape(self) -> tuple[int, int]:
        """Size of the vocabulary, and width of the output layer's input."""
        config = self.task.base.config
        return config.vocabulary, config.width

    def tokens(self, objective: int, rows: Rows) -> int:
        """Number of tokens that one pass reads; a pair's prompt counts once."""
        return len(self._set(objective).ragged(torch.from_numpy(rows)).tokens)

    @torch.no_grad()
    def scored(self, objective: int, rows: Rows, sketch: TwoSided) -> Scored:
        """One forward pass of the base model."""
        laid, seen = self._set(objective).ragged(torch.from_numpy(rows)), []
        hook = self.task.base.norm.register_forward_hook(
            lambda module, given, out: seen.append(out)
        )
        place = {"starts": laid.starts, "after": laid.after, "wanted": laid.wanted}
        try:
            logits = self.task.base(laid.tokens, **place)
        finally:
            hook.remove()
        return Scored.of(seen[0], logits, laid.targets, laid.owners, sketch)

    def gradients(self, objective: int, rows: Rows, sketch: CountSketch) -> NDArray[np.float64]:
        """(n, m) sketched gradients at the base, row by row."""
        weights = {name: value.requires_grad_() for name, value in self._fresh.items()}
        found = []
        for row in rows:
            total = self._log_probs(weights, objective, np.array([row]))[0]
            value = total if objective == 0 else total[0] - total[1]
            found.append(sketch(torch.autograd.grad(value, list(weights.values()))))
        return np.asarray(torch.stack(found).numpy())

    def steps(self, objective: int, updates: int, batch: int, seed: int) -> Shift:
        """Weights after a few updates on one objective, as differences from the base."""
        done = train(
            self._few(updates * batch, seed),
            [Run(Alright(lam=float(objective)), seed)],
            steps=updates,
            batch_size=batch,
            learning_rate=self.rate,
            clip=1.0,
            evaluate_every=updates,
        )
        ended = one_run(done.params, 0)
        return {name: ended[name] - value for name, value in self._base.items()}

    @torch.no_grad()
    def losses(self, shift: Shift, rows: tuple[Rows, Rows]) -> NDArray[np.float64]:
        """(2,) SFT loss per token and preference loss per pair of some rows at base + shift."""
        weights = {name: value + shift[name] for name, value in self._base.items()}
        counted = self.task.sft.mask[torch.from_numpy(rows[0])].sum()
        sft = -self._log_probs(weights, 0, rows[0]).sum() / counted
        found, known = (self._log_probs(w, 1, rows[1]) for w in (weights, self._base))
        margins = (found - known)[:, 0] - (found - known)[:, 1]
        return np.array([float(sft), float(objectives.dpo(margins, self.beta).mean())])

    @cached_property
    def _base(self) -> Params:
        return {name: value.detach() for name, value in self.task.base.named_parameters()}

    @property
    def _fresh(self) -> Params:
        return {name: value.clone() for name, value in self._base.items()}

    def _few(self, count: int, seed: int) -> LanguageTask:
        """The task with so many rows only: its reference and evaluations then cost little."""
        rng, task = np.random.default_rng(seed), self.task
        rows = [torch.from_numpy(rng.permutation(size)[:count]) for size in self.sizes]
        return replace(
            task,
            sft=task.sft.take(rows[0]),
            pairs=task.pairs.take(rows[1]),
            test_sft=task.test_sft.take([0]),
            test_pairs=task.test_pairs.take([0]),
            evaluation_rows=1,
            generated_rows=0,
            ragged=None,  # one run is fastest without padding
        )

    def _set(self, objective: int) -> Batch:
        return self.task.pairs if objective else self.task.sft

    def _log_probs(self, weights: Params, objective: int, rows: Rows) -> Tensor:
        """(n,) or (n, 2) log-probabilities of responses."""
        index = torch.from_numpy(rows)
        laid = self._set(objective).ragged(index)
        place = {"starts": laid.starts, "after": laid.after, "wanted": laid.wanted}
        logits = functional_call(self.task.base, weights, (laid.tokens,), place)
        each = logits.float().log_softmax(-1).gather(1, laid.targets[:, None])[:, 0]
        total = each.new_zeros(len(rows) * (2 if objective else 1))
        return total.index_add(0, laid.owners, each).view(len(rows), *(2,) * objective)
