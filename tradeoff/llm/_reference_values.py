"""Where the reference's log-probabilities come from: a stored table, or a model that runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tradeoff.errors import InputError
from tradeoff.llm.ahead import Needed
from tradeoff.llm.batches import Batch
from tradeoff.methods.losses import PreferenceLoss


@runtime_checkable
class ReferenceSource(Protocol):
    """A source of log pi_ref for a batch of pairs."""

    def __call__(self, rows: Int[Tensor, " n"], batch: Batch) -> Float[Tensor, " S"]:
        """Values of log pi_ref(y|x) of the batch's responses; `rows` are the pairs' indices."""


@dataclass(frozen=True)
class References:
    """The reference values of the training pairs and of the held-out pairs.

    Attributes
    ----------
    train, test
        Sources of log pi_ref.
    fingerprint
        Fingerprint of its model, if that is not the policy itself, see
        :func:`~tradeoff.llm._fingerprints.model_fingerprint`; otherwise None.
    probes
        The reference values of the training pairs on which a schedule evaluates losses.
    weighed
        Those of training pairs with the weights that a loss gives to tokens, if it gives some.
    """

    train: ReferenceSource
    test: ReferenceSource
    fingerprint: str | None = None
    probes: ReferenceSource | None = None
    weighed: ReferenceSource | None = None

    def knows(self, wanted: Needed) -> bool:
        """Whether all values that a run needs are there."""
        groups = [(self.train, rows) for rows in wanted.groups] + [(self.probes, wanted.probes)]
        if self.weighed is not None:
            groups += [(self.weighed, rows) for rows in wanted.groups]
        return all(source.knows(rows) for source, rows in groups if isinstance(source, Cached))


class Cached:
    """A reference with stored log-probabilities.

    Parameters
    ----------
    table
        (J, 2) log-probabilities of (chosen, rejected), in nats; NaN for pairs that were not needed.
    """

    def __init__(self, table: Float[Tensor, "J 2"]) -> None:
        self.table = table

    def __call__(self, rows: Int[Tensor, " n"], batch: Batch) -> Float[Tensor, " S"]:
        rows = rows.to(self.table.device)
        found = self.table[rows].T.flatten()
        # By numpy, because a check that counts waits for the device would count torch's.
        if np.isnan(found.numpy(force=True)).any():
            unknown = rows[self.table[rows].isnan().any(1)]
            raise InputError(
                "the reference was computed for the pairs that the run reads, and this is another",
                row=int(unknown[0]),
                field="reference_rows",
                value="read",
                remedy="Set reference_rows = 'all' to look at other training pairs.",
            )
        # This copy does not wait for pending work of the device.
        return found.to(batch.tokens.device, non_blocking=True)

    def knows(self, rows: Int[np.ndarray, " n"]) -> bool:
        """Whether the values of these pairs are stored."""
        return not bool(self.table[torch.from_numpy(rows)].isnan().any())


class Live:
    """A reference that runs a frozen model, or the policy with its adapters switched off.

    Parameters
    ----------
    policy
        The model to run.
    switch
        Makes a context manager in which `policy` is the reference.
    weighs
        A loss whose weights the tokens have; None: ones.
    """

    def __init__(
        self,
        policy: nn.Module,
        switch: Callable[[], Any] | None = None,
        weighs: PreferenceLoss | None = None,
    ) -> None:
        self.policy, self.switch, self.weighs = policy, switch, weighs

    @torch.no_grad()
    def __call__(self, rows: Int[Tensor, " n"], batch: Batch) -> Float[Tensor, " S"]:
        with evaluating(self.policy), _entered(self.switch):
            return weighted(self.policy(batch), batch, self.weighs)


def weighted(
    values: Float[Tensor, " M"], batch: Batch, loss: PreferenceLoss | None
) -> Float[Tensor, " S"]:
    """Sum of the values of the tokens of each response, with the weights that a loss gives them."""
    if loss is not None:
        values = values * batch.token_weights(loss).to(values.dtype)
    return batch.per_response(values)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Switch dropout off, and restore it."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


@contextmanager
def _entered(switch: Callable[[], Any] | None) -> Iterator[None]:
    if switch is None:
        yield
    else:
        with switch():
            yield


def tables(references: References | None) -> dict[str, Tensor]:
    """Cached references as tensors for a checkpoint; empty for other references."""
    if references is None:
        return {}
    found = {n: getattr(references, n) for n in ("train", "test", "probes", "weighed")}
    return {k: v.table.clone() for k, v in found.items() if isinstance(v, Cached)}


def from_tables(found: dict[str, Tensor], fingerprint: str | None = None) -> References:
    """Restore cached references from :func:`tables`, with their model's fingerprint, if any."""
    train, test = Cached(found["train"]), Cached(found["test"])
    probes = Cached(found.get("probes", found["train"]))
    weighed = Cached(found["weighed"]) if "weighed" in found else None
    return References(train, test, fingerprint, probes, weighed)
