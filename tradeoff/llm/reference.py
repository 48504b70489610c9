"""Log-probabilities of the reference policy, which preference losses compare with.

Cached: computed once for every pair, so that a step runs the policy alone; see
:mod:`tradeoff.llm.reference_cache` for those that later runs find again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from tradeoff import leftovers
from tradeoff.errors import InputError
from tradeoff.llm import reference_cache
from tradeoff.llm.batches import Batch
from tradeoff.llm.config import TrainConfig
from tradeoff.llm.fingerprints import model_fingerprint
from tradeoff.llm.logprobs import Policy
from tradeoff.schedules import Plan, Rule

if TYPE_CHECKING:
    from tradeoff.llm.corpora import Corpora
    from tradeoff.llm.scoring import Scorer


@runtime_checkable
class Reference(Protocol):
    """Where log pi_ref of a batch of pairs comes from."""

    def __call__(self, rows: Int[Tensor, " n"], batch: Batch) -> Float[Tensor, " S"]:
        """Values of log pi_ref(y|x) of the batch's responses; `rows` are the pairs' places."""


@dataclass(frozen=True)
class References:
    """The reference of the training pairs and of the held-out ones.

    Attributes
    ----------
    train, test
        Where log pi_ref comes from.
    fingerprint
        Of a model that is kept for it beside the policy, see
        :func:`~tradeoff.llm.fingerprints.model_fingerprint`; None if there is none.
    """

    train: Reference
    test: Reference
    fingerprint: str | None = None


class Cached:
    """Looks log-probabilities up.

    Parameters
    ----------
    table
        (J, 2) of (chosen, rejected), in nats.
    """

    def __init__(self, table: Float[Tensor, "J 2"]) -> None:
        self.table = table

    def __call__(self, rows: Int[Tensor, " n"], batch: Batch) -> Float[Tensor, " S"]:
        found = self.table[rows.to(self.table.device)].T.flatten()
        # A copy that does not wait for what the device still has to do.
        return found.to(batch.tokens.device, non_blocking=True)


class Live:
    """Runs a frozen model, or the policy itself with its adapters switched off.

    Parameters
    ----------
    policy
        What is run.
    switch
        Makes a context in which `policy` is the reference.
    """

    def __init__(self, policy: nn.Module, switch: Callable[[], Any] | None = None) -> None:
        self.policy, self.switch = policy, switch

    @torch.no_grad()
    def __call__(self, rows: Int[Tensor, " n"], batch: Batch) -> Float[Tensor, " S"]:
        with evaluating(self.policy), _entered(self.switch):
            return batch.per_response(self.policy(batch))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Switch dropout off, and back to what it was."""
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


def prepare(
    scorer: Scorer, policy: Policy, data: Corpora, load: Callable[[str], Any], progress: Any
) -> References:
    """Make the reference that the settings name; before anything is resumed.

    Parameters
    ----------
    scorer
        Runs the policy; its config names the reference and how it is kept.
    policy
        The bare policy, as it is before training.
    data
        The pairs.
    load
        Maps a folder or hub name to a model, for a reference that is not the policy itself.
    progress
        Wraps a list of passes to show how far they are.
    """
    config = scorer.config
    own = config.reference in ("initial", "stage")
    if config.reference_mode == "adapter_off":
        model: Any = policy.model
        live = Live(scorer.policy, model.disable_adapter)
        return References(live, live)
    if own and config.reference_mode == "cached":
        return cached(scorer, policy, data, progress)
    other = _copy(policy) if own else Policy(load(config.reference))
    other.requires_grad_(False).to(scorer.accelerator.device)
    if config.reference_mode == "cached":
        return cached(replace(scorer, policy=other), other, data, progress)
    return References(Live(other), Live(other), model_fingerprint(other.model))


def check_same(
    references: References, fingerprint: str | None, config: TrainConfig, file: Path
) -> None:
    """Refuse to go on with a reference whose model is not the one that a run began with.

    Parameters
    ----------
    references
        Those that were made now.
    fingerprint
        Of those that the run began with.
    config
        Names the reference.
    file
        The checkpoint, for messages.

    Raises
    ------
    InputError
        If they differ.
    """
    if references.fingerprint != fingerprint:
        raise InputError(
            f"the reference has changed since the run began, of which {file} is a checkpoint",
            field="reference",
            value=config.reference,
            remedy="Restore its files, or begin anew in another output folder.",
        )


def _copy(policy: Policy) -> Policy:
    if isinstance(policy, FSDPModule):
        raise InputError(
            "a sharded policy cannot be copied",
            field="reference_mode",
            value="second_model",
            remedy="Use reference_mode = 'cached', or give reference as a folder.",
        )
    return copy.deepcopy(policy)


def cached(scorer: Scorer, policy: Policy, data: Corpora, progress: Any) -> References:
    """Log-probabilities of all pairs under the scorer's policy, from the cache folder if there."""
    folder = scorer.config.reference_cache
    made_by: dict[str, str] = {}
    if folder is not None:
        leftovers.clear(Path(folder))
        made_by = reference_cache.made_by(scorer, policy)
    tables = []
    for pairs in (data.preference, data.preference_test):
        if not pairs:
            tables.append(torch.zeros(0, 2))
            continue
        about = {**made_by, "rows": pairs.fingerprint}
        path = None if folder is None else reference_cache.cache_path(folder, about)
        if path is not None and path.exists():
            tables.append(reference_cache.read(path, about, len(pairs)))
            continue
        tables.append(scorer.log_probs(pairs, progress).cpu())
        if path is not None and scorer.accelerator.is_main_process:
            reference_cache.write(path, tables[-1], about, sync=scorer.config.fsync)
    return References(Cached(tables[0]), Cached(tables[1]))


def tables(references: References | None) -> dict[str, Tensor]:
    """What a checkpoint keeps of cached references; nothing of others."""
    if references is None or not isinstance(references.train, Cached):
        return {}
    assert isinstance(references.test, Cached)
    return {"train": references.train.table.clone(), "test": references.test.table.clone()}


def from_tables(found: dict[str, Tensor]) -> References:
    """Cached references from :func:`tables`."""
    return References(Cached(found["train"]), Cached(found["test"]))


def stage_start(plan: Plan) -> int:
    """First update at which the preference objective may be followed; 0 if none is."""
    drawn = plan.probability > 0 if plan.rule is Rule.DRAW else np.ones(len(plan), dtype=bool)
    wanted = drawn | plan.together
    return int(np.argmax(wanted))
