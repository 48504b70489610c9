"""Cache of a reference's log-probabilities in a folder, for later runs.

The name of a cache depends on weights, rows, and all settings of the computation. The file holds
the same information with a seal. A damaged cache, or a cache of something else, is rejected.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from tradeoff import _seals
from tradeoff.errors import InputError
from tradeoff.llm._fingerprints import model_fingerprint, own_collator
from tradeoff.llm._scorer import Scorer
from tradeoff.llm.logprobs import Policy
from tradeoff.records import replacing


def made_by(scorer: Scorer, policy: Policy) -> dict[str, str]:
    """Everything except the rows on which the bits of cached log-probabilities depend."""
    config, world = scorer.config, scorer.accelerator
    found: dict[str, Any] = {
        "weights": model_fingerprint(policy.model, adapters=False),
        "precision": config.precision,
        "layout": scorer.layout,
        "attention": policy.attention,
        "compile": config.compile,
        # Both decide which rows share a pass.
        "rows_per_forward": config.rows_per_forward,
        "processes": world.num_processes,
        "device": world.device.type,
    }
    if config.tokens_per_pass is not None:
        found["tokens_per_pass"] = config.tokens_per_pass
    found |= own_collator(scorer.collator)
    found |= {name: version(name) for name in ("tradeoff", "torch", "transformers")}
    return {name: str(value) for name, value in found.items()}


def cache_path(folder: str | Path, about: Mapping[str, str]) -> Path:
    """File of the cache for these rows, weights and settings.

    Parameters
    ----------
    folder
        Folder of the caches.
    about
        ``rows`` and ``weights`` as SHA-256, and what else the values depend on.
    """
    rest = sorted((name, value) for name, value in about.items() if name not in _HASHES)
    how = hashlib.sha256(json.dumps(rest).encode()).hexdigest()
    parts = [*(about[name] for name in _HASHES), how]
    return Path(folder) / f"reference-{'-'.join(part[:16] for part in parts)}.safetensors"


_HASHES = ("weights", "rows")


def write(
    path: Path, table: Float[Tensor, "J 2"], about: Mapping[str, str], *, sync: bool = True
) -> None:
    """Write log-probabilities, with everything that they depend on, and a seal.

    Parameters
    ----------
    path
        File from :func:`cache_path`.
    table
        Log-probabilities of (chosen, rejected) of each pair, in nats; NaN for unknown pairs.
    about
        As in :func:`cache_path`.
    sync
        Wait until the values are on the disk.
    """
    metadata = {**about, "seal": (_seals.MARK + _seals.BLANK).decode()}
    content = save({"log_probs": table.cpu().contiguous()}, metadata)
    with replacing(path, sync=sync) as partial:
        partial.write_bytes(_seals.sealed(content))


def read(path: Path, about: Mapping[str, str], pairs: int) -> Float[Tensor, "J 2"]:
    """Read what :func:`write` wrote; both values of an unknown pair are NaN.

    Raises
    ------
    InputError
        If the file is damaged, or its values depend on something else.
    """
    remedy = "Remove the file, and it will be computed again."
    try:
        if not _seals.intact(path.read_bytes()):
            raise ValueError("it is not as it was written, as its SHA-256 shows")
        with safe_open(path, framework="pt") as file:
            found, table = file.metadata() or {}, file.get_tensor("log_probs")
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"the cache cannot be read: {error}", file=path, remedy=remedy) from error
    for name, expected in about.items():
        if found.get(name) != expected:
            problem = f"the cached log-probabilities belong to other {name}"
            raise InputError(problem, file=path, value=found.get(name), remedy=remedy)
    known = table.isfinite()
    fits = table.shape == (pairs, 2) and bool((known[:, 0] == known[:, 1]).all())
    if not fits or bool(table.isinf().any()):
        raise InputError(
            f"the cache does not hold {pairs} pairs", file=path, value=table.shape, remedy=remedy
        )
    return table
