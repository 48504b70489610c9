"""Log-probabilities of the reference policy for preference losses.

A cached reference is computed once for every pair that the run will read, see
:mod:`tradeoff.llm.ahead`, so that an update runs the policy alone.
:mod:`tradeoff.llm._reference_cache` keeps values for later runs.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from tradeoff import _leftovers
from tradeoff.errors import InputError
from tradeoff.llm import _reference_cache
from tradeoff.llm._corpora import Corpora
from tradeoff.llm._data import Pair
from tradeoff.llm._fingerprints import model_fingerprint
from tradeoff.llm._reference_values import Cached, Live, References, from_tables, tables
from tradeoff.llm._scorer import Scorer
from tradeoff.llm.ahead import Needed
from tradeoff.llm.config import TrainConfig
from tradeoff.llm.logprobs import Policy
from tradeoff.methods.losses import PreferenceLoss
from tradeoff.schedules import Plan, Rule


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
        weighed = Live(scorer.policy, model.disable_adapter, scorer.weighs)
        return References(live, live, weighed=weighed)
    if own and config.reference_mode == "cached":
        return cached(scorer, policy, data, wanted, progress, known)
    other = _copy(policy) if own else Policy(load(config.reference))
    other.requires_grad_(False).to(scorer.accelerator.device)
    fingerprint = model_fingerprint(other.model)
    if config.reference_mode == "cached":
        scorer = replace(scorer, policy=other)
        found = cached(scorer, other, data, wanted, progress, known)
        return replace(found, fingerprint=fingerprint)
    weighed = Live(other, weighs=scorer.weighs)
    return References(Live(other), Live(other), fingerprint, weighed=weighed)


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
        _leftovers.clear(Path(folder))
        made_by = _reference_cache.made_by(scorer, policy)
    before = tables(known)
    every = np.arange(len(data.preference_test))
    tables_of: list[tuple[Any, ...]] = [
        ("train", data.preference, wanted.groups, {"groups": wanted.order}),
        ("probes", data.preference, [wanted.probes], {"groups": wanted.probe_order}),
        ("test", data.preference_test, [every], {}),
    ]
    found = {
        name: _filled(scorer, made_by | how, pairs, groups, progress, before.get(name))
        for name, pairs, groups, how in tables_of
    }
    if (loss := scorer.weighs) is not None:
        how = {"groups": wanted.order, "weights": json.dumps(loss.to_dict(), sort_keys=True)}
        found["weighed"] = _filled(
            *(scorer, made_by | how, data.preference, wanted.groups, progress),
            *(before.get("weighed"), loss),
        )
    return from_tables(found)


def _filled(
    scorer: Scorer,
    made_by: dict[str, str],
    pairs: Sequence[Pair],
    groups: Sequence[Int[np.ndarray, " _"]],
    progress: Any,
    table: Float[Tensor, "J 2"] | None = None,
    weighs: PreferenceLoss | None = None,
) -> Float[Tensor, "J 2"]:
    """Table with the values of all groups, and of all other known pairs."""
    table = torch.full((len(pairs), 2), torch.nan) if table is None else table.cpu().clone()
    groups = [rows for rows in groups if len(rows)]
    folder, path, about = scorer.config.reference_cache, None, made_by
    if groups and folder is not None:
        about = {**made_by, "rows": str(getattr(pairs, "fingerprint", ""))}
        path = _reference_cache.cache_path(folder, about)
        if path.exists():
            stored = _reference_cache.read(path, about, len(pairs))
            table = torch.where(table.isnan(), stored, table)
    values = Cached(table)
    if missing := [rows for rows in groups if not values.knows(rows)]:
        rows = torch.from_numpy(np.concatenate(missing))
        scored = scorer.log_probs(pairs, progress, missing, weighs).cpu().to(table.dtype)[rows]
        # NaN marks an unknown value; NaN and infinity both make a run diverge.
        table[rows] = torch.where(scored.isnan(), torch.inf, scored)
        if path is not None and scorer.accelerator.is_main_process:
            _reference_cache.write(path, table, about, sync=scorer.config.fsync)
    return table


def stage_start(plan: Plan) -> int:
    """First update that may follow the preference objective; 0 if there is none."""
    drawn = plan.probability > 0 if plan.rule is Rule.DRAW else np.ones(len(plan), dtype=bool)
    wanted = drawn | plan.together
    return int(np.argmax(wanted))
