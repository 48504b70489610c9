"""A causal language model of transformers as the subject of a forecast.

Rows, passes and short runs are those of :class:`tradeoff.llm.JointTrainer`, so a forecast reads
what the training will read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tradeoff.data import files
from tradeoff.forecast.lab import Effort
from tradeoff.forecast.sketch import CountSketch, TwoSided
from tradeoff.forecast.subject import Rows, Scored, Shift
from tradeoff.llm import JointTrainer, batches
from tradeoff.llm.config import Experiment
from tradeoff.llm.models import below_adapters
from tradeoff.schedules import Sequential

AT_ONCE = 4
"""Rows of a forward pass that keeps logits of the whole vocabulary."""
ASSUMED: dict[str, Any] = {
    "loss": "sigmoid",
    "label_smoothing": 0.0,
    "chosen_nll": None,
    "reference": "initial",
    "preference_batch_size": None,
    "decay": "constant",
    "warmup": 0,
    "patience": None,
}
"""Settings of training that every forecast assumes, as the runs had that it is calibrated on."""


def replaced(settings: Experiment) -> list[str]:
    """A remark that names each setting that differs from what a forecast assumes, if any does."""
    given = {f"train.{name}": getattr(settings.train, name) for name in ASSUMED}
    assumed = {f"train.{name}": value for name, value in ASSUMED.items()}
    for slot, part in settings.make_method().changed().items():
        given[f"method.{slot}"], assumed[f"method.{slot}"] = part.label, None
    differ = [
        f"{name} = {_text(assumed[name])}, not {_text(value)}"
        for name, value in given.items()
        if value != assumed[name]
    ]
    return [f"the forecast is of a training with {'; '.join(differ)}"] if differ else []


def _text(value: Any) -> str:
    return "none" if value is None else str(value)


def subject(
    settings: Experiment, rows: Mapping[str, Any], effort: Effort, *, progress: bool = False
) -> ModelSubject:
    """The subject of a training's settings, on a sample of its rows.

    Parameters
    ----------
    settings
        Of the training to forecast, see :class:`tradeoff.llm.config.Experiment`.
    rows
        Its rows, from :func:`tradeoff.experiment.read_rows`.
    effort
        How much is measured.
    progress
        Show a bar while the "tiny" model is made.

    Raises
    ------
    InputError
        If rows, model, tokenizer or settings cannot be used.
    """
    from tradeoff import experiment

    count = effort.features + effort.probe_updates * effort.probe_batch
    rng = np.random.default_rng(settings.train.seed)
    some: dict[str, Any] = {}
    for name in ("sft", "preference"):
        every = rows[name]
        few = tuple(every[i] for i in rng.permutation(len(every))[:count].tolist())
        some[name] = replace(every, rows=few) if isinstance(every, files.Rows) else few
        some[f"{name}_test"] = None
    short = replace(
        settings.train,
        **ASSUMED,
        steps=2 * effort.probe_updates,
        epochs=None,
        batch_size=effort.probe_batch,
        reference_rows="all",
        reference_cache=None,
        holdout=0.0,
        log_every=10**6,
    )
    own = replace(settings, train=short, schedule=Sequential().to_dict(), method={})
    return ModelSubject(experiment.prepare(own, some, progress=progress))


class ModelSubject:
    """A :class:`~tradeoff.forecast.subject.Subject` on the rows of a trainer.

    Parameters
    ----------
    trainer
        A trainer of SFT, then DPO, with as many updates each as a short run has.
    """

    def __init__(self, trainer: JointTrainer) -> None:
        self.trainer, self.length = trainer, trainer.steps // 2

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers of demonstrations and of pairs in the sample."""
        return len(self.trainer.data.sft), len(self.trainer.data.preference)

    @property
    def beta(self) -> float:
        """Inverse temperature of DPO."""
        return self.trainer.config.beta

    @property
    def shape(self) -> tuple[int, int]:
        """Size of the vocabulary, and width of the output layer's input."""
        vocabulary, width = self._head.weight.shape
        return int(vocabulary), int(width)

    def tokens(self, objective: int, rows: Rows) -> int:
        """Number of tokens that one pass over these rows reads, without padding."""
        return sum(self.trainer.data.extent(objective, rows)[0])

    @torch.no_grad()
    def scored(self, objective: int, rows: Rows, sketch: TwoSided) -> Scored:
        """One forward pass of the base model."""
        base, parts, first = below_adapters(self.trainer.model), [], 0
        own = sketch.to(self.trainer.accelerator.device)
        with _evaluating(self.trainer.policy):
            for some in np.array_split(rows, -(-len(rows) // AT_ONCE)):
                batch = self._batch(objective, some)
                seen: list[Tensor] = []
                hook = self._head.register_forward_pre_hook(
                    lambda module, given, seen=seen: seen.append(given[0])
                )
                try:
                    logits = base(**batch.inputs(self._attention), use_cache=False).logits
                finally:
                    hook.remove()
                hidden, chosen = (x.flatten(0, 1)[batch.select] for x in (seen[0], logits))
                owners = first + _in_order(batch.owner, len(some), objective)
                parts.append(Scored.of(hidden, chosen, batch.labels, owners, own))
                first += len(some) * (1 + objective)
        return Scored.joined(parts)

    def gradients(self, objective: int, rows: Rows, sketch: CountSketch) -> NDArray[np.float64]:
        """(n, m) sketched gradients at the base, row by row."""
        found = []
        with _evaluating(self.trainer.policy):
            for row in rows:
                batch = self._batch(objective, np.array([row]))
                with self.trainer.scorer.autocast():
                    total = batch.per_response(self.trainer.policy(batch))
                value = total[0] if objective == 0 else total[0] - total[1]
                slopes = torch.autograd.grad(value, list(self._trained.values()), allow_unused=True)
                shapes = zip(slopes, self._trained.values(), strict=True)
                found.append(sketch(torch.zeros_like(w) if g is None else g for g, w in shapes))
        return np.asarray(torch.stack(found).numpy())

    def steps(self, objective: int, updates: int, batch: int, seed: int) -> Shift:
        """Weights after a few updates on one objective, as differences from the base."""
        assert (updates, batch) == (self.length, self.trainer.config.batch_size), "see subject()"
        del seed  # that of the settings
        return self._ends[objective]

    def losses(self, shift: Shift, rows: tuple[Rows, Rows]) -> NDArray[np.float64]:
        """(2,) SFT loss per token and preference loss per pair of some rows at base + shift."""
        trainer = self.trainer
        self._begin()
        assert trainer.references is not None
        with self._moved(shift):
            sft = trainer.scorer.mean_sft(trainer.data.sft, rows[0])["sft_loss"]
            pairs = trainer.scorer.mean_pairs(
                trainer.data.preference, trainer.references.train, rows[1]
            )
        return np.array([sft, pairs["preference_loss"]])

    # ------------------------------------------------------------------ the parts

    @cached_property
    def _ends(self) -> tuple[Shift, Shift]:
        """Both short runs: the two stages of one trainer, each from the base model."""
        self._begin()
        found = []
        with self._moved({}):
            for _ in range(2):
                self._set(self._base)
                for _ in range(self.length):
                    self.trainer.update()
                found.append({n: w.detach() - self._base[n] for n, w in self._trained.items()})
        return found[0], found[1]

    def _begin(self) -> None:
        assert self._base  # of before any update
        self.trainer.begin(progress=False)

    @cached_property
    def _trained(self) -> dict[str, Tensor]:
        named = self.trainer.model.named_parameters()
        return {name: weight for name, weight in named if weight.requires_grad}

    @cached_property
    def _base(self) -> dict[str, Tensor]:
        return {name: weight.detach().clone() for name, weight in self._trained.items()}

    @contextmanager
    def _moved(self, shift: Mapping[str, Tensor]) -> Iterator[None]:
        """The model at base + shift; it returns to the base."""
        if shift:
            self._set({name: value + shift[name] for name, value in self._base.items()})
        try:
            yield
        finally:
            self._set(self._base)

    @torch.no_grad()
    def _set(self, weights: Mapping[str, Tensor]) -> None:
        for name, weight in self._trained.items():
            weight.copy_(weights[name])

    @property
    def _head(self) -> Any:
        return below_adapters(self.trainer.model).get_output_embeddings()

    @property
    def _attention(self) -> str:
        return str(below_adapters(self.trainer.model).config._attn_implementation)

    def _items(self, objective: int, rows: Rows) -> list[Any]:
        data = self.trainer.data.training(objective)
        return [data[int(i)] for i in rows]

    def _batch(self, objective: int, rows: Rows) -> batches.Batch:
        make: Any = batches.pairs if objective else batches.demonstrations
        batch = make(self._items(objective, rows), "padded", self.trainer.scorer.pad)
        return batch.to(self.trainer.accelerator.device)


@contextmanager
def _evaluating(policy: Any) -> Iterator[None]:
    """Without dropout; the policy then trains again if it did."""
    before = policy.training
    policy.eval()
    try:
        yield
    finally:
        policy.train(before)


def _in_order(owner: Tensor, rows: int, objective: int) -> Tensor:
    """Responses of a batch have all chosen ones first; forecasts want each pair's two together."""
    return owner if objective == 0 else 2 * (owner % rows) + owner // rows
