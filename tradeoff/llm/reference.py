"""Log-probabilities of the reference policy, which preference losses compare with.

Cached: computed once for every pair, so that a step runs the policy alone. The cache carries a
fingerprint of the weights and of the rows it was made from; one that belongs to others is refused.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from tradeoff.errors import InputError
from tradeoff.llm.batches import Batch
from tradeoff.llm.logprobs import Policy
from tradeoff.records import replacing
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
    """The reference of the training pairs and of the held-out ones."""

    train: Reference
    test: Reference


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
    return References(Live(other), Live(other))


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
    weights = "" if folder is None else weights_fingerprint(policy, scorer.config.precision)
    tables = []
    for pairs in (data.preference, data.preference_test):
        if not pairs:
            tables.append(torch.zeros(0, 2))
            continue
        path = None if folder is None else cache_path(folder, weights, pairs.fingerprint)
        if path is not None and path.exists():
            tables.append(read_cache(path, weights, pairs.fingerprint, len(pairs)))
            continue
        tables.append(scorer.log_probs(pairs, progress).cpu())
        if path is not None and scorer.accelerator.is_main_process:
            write_cache(path, tables[-1], weights, pairs.fingerprint)
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
    wanted = np.ones(len(plan), dtype=bool) if plan.rule is not Rule.DRAW else plan.probability > 0
    return int(np.argmax(wanted))


def weights_fingerprint(policy: Policy, precision: str) -> str:
    """sha256 over names and values of all weights, and the precision they are multiplied in.

    Adapters that change nothing yet, those whose second matrix is zero, are left out, so that
    runs of different seeds share the cache of their common model.
    """
    weights = dict(policy.model.state_dict())
    fresh = not any(bool(value.any()) for name, value in weights.items() if "lora_B" in name)
    digest = hashlib.sha256(precision.encode())
    for name, value in sorted(weights.items()):
        if fresh and "lora_" in name:
            continue
        plain = name.replace("base_model.model.", "", 1).replace(".base_layer", "")
        digest.update(f"{plain}{tuple(value.shape)}{value.dtype}".encode())
        value = value.full_tensor() if hasattr(value, "full_tensor") else value
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def cache_path(folder: str | Path, weights: str, rows: str) -> Path:
    """File of the cache for these weights and rows."""
    return Path(folder) / f"reference-{weights[:16]}-{rows[:16]}.safetensors"


def write_cache(path: Path, table: Float[Tensor, "J 2"], weights: str, rows: str) -> None:
    """Keep log-probabilities with the fingerprints they belong to."""
    with replacing(path) as partial:
        metadata = {"weights": weights, "rows": rows}
        save_file({"log_probs": table.cpu().contiguous()}, partial, metadata=metadata)


def read_cache(path: Path, weights: str, rows: str, pairs: int) -> Float[Tensor, "J 2"]:
    """Read what :func:`write_cache` wrote.

    Raises
    ------
    InputError
        If the file is damaged, or was made from other weights or rows.
    """
    remedy = "Remove the file, and it will be computed again."
    try:
        with safe_open(path, framework="pt") as file:
            found, table = file.metadata() or {}, file.get_tensor("log_probs")
    except (OSError, SafetensorError) as error:
        raise InputError(f"the cache cannot be read: {error}", file=path, remedy=remedy) from error
    for name, expected in (("weights", weights), ("rows", rows)):
        if found.get(name) != expected:
            problem = f"the cached log-probabilities belong to other {name}"
            raise InputError(problem, file=path, value=found.get(name), remedy=remedy)
    if table.shape != (pairs, 2) or not bool(table.isfinite().all()):
        raise InputError(
            f"the cache does not hold {pairs} pairs", file=path, value=table.shape, remedy=remedy
        )
    return table
