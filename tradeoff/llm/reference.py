"""Log-probabilities of the reference policy for preference losses.

A cached reference is computed once for every pair that the run will read, see
:mod:`tradeoff.llm.ahead`, so that an update runs the policy alone.
:mod:`tradeoff.llm.reference_cache` keeps values for later runs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
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
from tradeoff.llm.ahead import Needed
from tradeoff.llm.batches import Batch
from tradeoff.llm.config import TrainConfig
from tradeoff.llm.data import Pair
from tradeoff.llm.fingerprints import model_fingerprint
from tradeoff.llm.logprobs import Policy
from tradeoff.schedules import Plan, Rule

if TYPE_CHECKING:
    from tradeoff.llm.corpora import Corpora
    from tradeoff.llm.scoring import Scorer


@runtime_checkable
class Reference(Protocol):
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
        :func:`~tradeoff.llm.fingerprints.model_fingerprint`; otherwise None.
    probes
        The reference values of the training pairs on which a schedule evaluates losses.
    """

    train: Reference
    test: Reference
    fingerprint: str | None = None
    probes: Reference | None = None

    def knows(self, wanted: Needed) -> bool:
        """Whether all values that a run needs are there."""
        groups = [(self.train, rows) for rows in wanted.groups] + [(self.probes, wanted.probes)]
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
                "the reference was computed only for pairs that the run reads, and this is not one",
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
    """

    def __init__(self, policy: nn.Module, switch: Callable[[], Any] | None = None) -> None:
        self.policy, self.switch = policy, switch

    @torch.no_grad()
    def __call__(self, rows: Int[Tensor, " n"], batch: Batch) -> Float[Tensor, " S"]:
        with evaluating(self.policy), _entered(self.switch):
            return batch.per_response(self.policy(batch))


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


def prepare(
    scorer: Scorer,
    policy: Policy,
    data: Corpora,
    wanted: Needed,
    load: Callable[[str], Any],
    progress: Any,
    known: References | None = None,
) -> References:
    """Make the reference that the settings name, before a checkpoint is restored.

    Parameters
    ----------
    scorer
        Runs the policy; its config names the reference and its mode.
    policy
        The bare policy, before training.
    data
        The pairs.
    wanted
        The pairs that the run needs.
    load
        Maps a folder or hub name to a model, for a reference that is not the policy itself.
    progress
        Wraps a list of passes to show a progress bar.
    known
        Cached values, to which missing ones are added.
    """
    config = scorer.config
    own = config.reference in ("initial", "stage")
    if config.reference_mode == "adapter_off":
        model: Any = policy.model
        live = Live(scorer.policy, model.disable_adapter)
        return References(live, live)
    if own and config.reference_mode == "cached":
        return cached(scorer, policy, data, wanted, progress, known)
    other = _copy(policy) if own else Policy(load(config.reference))
    other.requires_grad_(False).to(scorer.accelerator.device)
    fingerprint = model_fingerprint(other.model)
    if config.reference_mode == "cached":
        scorer = replace(scorer, policy=other)
        found = cached(scorer, other, data, wanted, progress, known)
        return replace(found, fingerprint=fingerprint)
    return References(Live(other), Live(other), fingerprint)


def check_same(
    references: References, fingerprint: str | None, config: TrainConfig, file: Path
) -> None:
    """Raise an error if a reference has another model than at the beginning of the run.

    Parameters
    ----------
    references
        The references that were made now.
    fingerprint
        Fingerprint of the reference at the beginning of the run.
    config
        Names the reference.
    file
        The checkpoint, for messages.

    Raises
    ------
    InputError
        If the fingerprints differ.
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


def cached(
    scorer: Scorer,
    policy: Policy,
    data: Corpora,
    wanted: Needed,
    progress: Any,
    known: References | None = None,
) -> References:
    """Log-probabilities of the wanted and the held-out pairs under the scorer's policy.

    Values are read from the cache folder if it has them; the others are computed and stored there.
    """
    folder, made_by = scorer.config.reference_cache, {}
    if folder is not None:
        leftovers.clear(Path(folder))
        made_by = reference_cache.made_by(scorer, policy)
    before = tables(known)
    every = np.arange(len(data.preference_test))
    found = {
        name: _filled(scorer, made_by | how, pairs, groups, progress, before.get(name))
        for name, pairs, groups, how in (
            ("train", data.preference, wanted.groups, {"groups": wanted.order}),
            ("probes", data.preference, [wanted.probes], {"groups": wanted.probe_order}),
            ("test", data.preference_test, [every], {}),
        )
    }
    return from_tables(found)


def _filled(
    scorer: Scorer,
    made_by: dict[str, str],
    pairs: Sequence[Pair],
    groups: Sequence[Int[np.ndarray, " _"]],
    progress: Any,
    table: Float[Tensor, "J 2"] | None = None,
) -> Float[Tensor, "J 2"]:
    """Table with the values of all groups, and of all other known pairs."""
    table = torch.full((len(pairs), 2), torch.nan) if table is None else table.cpu().clone()
    groups = [rows for rows in groups if len(rows)]
    folder, path, about = scorer.config.reference_cache, None, made_by
    if groups and folder is not None:
        about = {**made_by, "rows": str(getattr(pairs, "fingerprint", ""))}
        path = reference_cache.cache_path(folder, about)
        if path.exists():
            stored = reference_cache.read(path, about, len(pairs))
            table = torch.where(table.isnan(), stored, table)
    values = Cached(table)
    if missing := [rows for rows in groups if not values.knows(rows)]:
        rows = torch.from_numpy(np.concatenate(missing))
        scored = scorer.log_probs(pairs, progress, missing).cpu().to(table.dtype)[rows]
        # NaN marks an unknown value; NaN and infinity both make a run diverge.
        table[rows] = torch.where(scored.isnan(), torch.inf, scored)
        if path is not None and scorer.accelerator.is_main_process:
            reference_cache.write(path, table, about, sync=scorer.config.fsync)
    return table


def tables(references: References | None) -> dict[str, Tensor]:
    """Cached references as tensors for a checkpoint; empty for other references."""
    if references is None:
        return {}
    found = {name: getattr(references, name) for name in ("train", "test", "probes")}
    return {k: v.table.clone() for k, v in found.items() if isinstance(v, Cached)}


def from_tables(found: dict[str, Tensor], fingerprint: str | None = None) -> References:
    """Restore cached references from :func:`tables`, with their model's fingerprint, if any."""
    train, test = Cached(found["train"]), Cached(found["test"])
    return References(train, test, fingerprint, Cached(found.get("probes", found["train"])))


def stage_start(plan: Plan) -> int:
    """First update that may follow the preference objective; 0 if there is none."""
    drawn = plan.probability > 0 if plan.rule is Rule.DRAW else np.ones(len(plan), dtype=bool)
    wanted = drawn | plan.together
    return int(np.argmax(wanted))
