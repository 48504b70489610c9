"""Log-probabilities of the reference policy, which preference losses compare with.

Cached: computed once for every pair, so that a step runs the policy alone. The cache carries a
seal and all that it depends on: weights, rows, and how they were multiplied. One that is damaged or
depends on something else is refused.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from tradeoff import seals
from tradeoff.errors import InputError
from tradeoff.llm.batches import Batch
from tradeoff.llm.config import TrainConfig
from tradeoff.llm.fingerprints import model_fingerprint
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
    made_by = {} if folder is None else _made_by(scorer, policy)
    tables = []
    for pairs in (data.preference, data.preference_test):
        if not pairs:
            tables.append(torch.zeros(0, 2))
            continue
        about = {**made_by, "rows": pairs.fingerprint}
        path = None if folder is None else cache_path(folder, about)
        if path is not None and path.exists():
            tables.append(read_cache(path, about, len(pairs)))
            continue
        tables.append(scorer.log_probs(pairs, progress).cpu())
        if path is not None and scorer.accelerator.is_main_process:
            write_cache(path, tables[-1], about, sync=scorer.config.fsync)
    return References(Cached(tables[0]), Cached(tables[1]))


def _made_by(scorer: Scorer, policy: Policy) -> dict[str, str]:
    """All that cached log-probabilities depend on, to their last bit, but for the rows."""
    config, world = scorer.config, scorer.accelerator
    found: dict[str, Any] = {
        "weights": model_fingerprint(policy.model, adapters=False),
        "precision": config.precision,
        "layout": scorer.layout,
        "attention": policy.attention,
        "compile": config.compile,
        # Which rows share a pass.
        "rows_per_forward": config.rows_per_forward,
        "processes": world.num_processes,
        "device": world.device.type,
    }
    found |= {name: version(name) for name in ("tradeoff", "torch", "transformers")}
    return {name: str(value) for name, value in found.items()}


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


def cache_path(folder: str | Path, about: Mapping[str, str]) -> Path:
    """File of the cache for these rows, weights and ways to compute.

    Parameters
    ----------
    folder
        Where caches are kept.
    about
        ``rows`` and ``weights`` as SHA-256, and what else the values depend on.
    """
    rest = sorted((name, value) for name, value in about.items() if name not in _HASHES)
    how = hashlib.sha256(json.dumps(rest).encode()).hexdigest()
    parts = [*(about[name] for name in _HASHES), how]
    return Path(folder) / f"reference-{'-'.join(part[:16] for part in parts)}.safetensors"


_HASHES = ("weights", "rows")


def write_cache(
    path: Path, table: Float[Tensor, "J 2"], about: Mapping[str, str], *, sync: bool = True
) -> None:
    """Keep log-probabilities with what they depend on, sealed.

    Parameters
    ----------
    path
        Of :func:`cache_path`.
    table
        (chosen, rejected) of each pair, in nats.
    about
        As in :func:`cache_path`.
    sync
        Wait until the disk has them.
    """
    metadata = {**about, "seal": (seals.MARK + seals.BLANK).decode()}
    content = save({"log_probs": table.cpu().contiguous()}, metadata)
    with replacing(path, sync=sync) as partial:
        partial.write_bytes(seals.sealed(content))


def read_cache(path: Path, about: Mapping[str, str], pairs: int) -> Float[Tensor, "J 2"]:
    """Read what :func:`write_cache` wrote.

    Raises
    ------
    InputError
        If the file is damaged, or its values depend on something else.
    """
    remedy = "Remove the file, and it will be computed again."
    try:
        if not seals.intact(path.read_bytes()):
            raise ValueError("it is not as it was written, as its SHA-256 shows")
        with safe_open(path, framework="pt") as file:
            found, table = file.metadata() or {}, file.get_tensor("log_probs")
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"the cache cannot be read: {error}", file=path, remedy=remedy) from error
    for name, expected in about.items():
        if found.get(name) != expected:
            problem = f"the cached log-probabilities belong to other {name}"
            raise InputError(problem, file=path, value=found.get(name), remedy=remedy)
    if table.shape != (pairs, 2) or not bool(table.isfinite().all()):
        raise InputError(
            f"the cache does not hold {pairs} pairs", file=path, value=table.shape, remedy=remedy
        )
    return table
