"""Losses of a saved model on held-out rows.

Training measures them by the same functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from tradeoff.data.rows import PreferenceRow, SftRow
from tradeoff.llm import _losses
from tradeoff.llm._data import Example, Pair, Tokenised, tokenise_preferences, tokenise_sft
from tradeoff.llm._reference_values import Cached
from tradeoff.llm.evaluation.policy import LoadedPolicy, Outline
from tradeoff.llm.evaluation.score import Score, mean, share
from tradeoff.progress import tqdm

_ROWS_AT_ONCE = 256


def examples(policy: LoadedPolicy | Outline, rows: Sequence[SftRow]) -> Tokenised[Example]:
    """Tokenise the demonstrations whose prompt fits."""
    return tokenise_sft(rows, policy.tokenizer, policy.max_length)


def pairs(policy: LoadedPolicy | Outline, rows: Sequence[PreferenceRow]) -> Tokenised[Pair]:
    """Tokenise the pairs whose prompt fits."""
    return tokenise_preferences(rows, policy.tokenizer, policy.max_length)


def sft_loss(policy: LoadedPolicy, items: Tokenised[Example], progress: bool = False) -> Score:
    """Negative log-likelihood of demonstrations in nats per token, over all tokens of all rows.

    It has no interval, because tokens of one row are not independent.
    """
    total, tokens = 0.0, 0
    parts = range(0, len(items), _ROWS_AT_ONCE)
    for first in tqdm(parts, desc="sft", disable=not progress, leave=False):
        some = items[first : first + _ROWS_AT_ONCE]
        scored = sum(item.scored for item in some)
        total += scored * policy.scorer.mean_sft(some)["sft_loss"]
        tokens += scored
    unknown = float("nan")
    return Score("sft_loss", total / tokens, unknown, unknown, len(items))


def log_probs(policy: LoadedPolicy, items: Tokenised[Pair], progress: bool = False) -> Cached:
    """Log-probabilities of both responses of every pair, as needed of a reference."""
    bar = partial(tqdm, desc="pairs", disable=not progress, leave=False)
    return Cached(policy.scorer.log_probs(items, bar).cpu())


def preference(
    policy: LoadedPolicy, items: Tokenised[Pair], reference: Cached, progress: bool = False
) -> tuple[Score, ...]:
    """Preference loss, accuracy and implicit rewards of a policy against a reference.

    Parameters
    ----------
    items
        The pairs.
    reference
        Their log-probabilities under the reference, from `log_probs`.

    Returns
    -------
    tuple of Score
        Loss and accuracy, then the mean rewards beta (log pi - log pi_ref) of both responses and
        their difference, in nats.
    """
    table = log_probs(policy, items, progress).table
    lengths = np.array([[n - item.start for n in item.lengths] for item in items]).T.ravel()
    found = _losses.preference(
        table.T.flatten(),
        reference.table.to(table.dtype).T.flatten(),
        torch.from_numpy(lengths),
        policy.scorer.config,
    )
    chosen, rejected = found.chosen.numpy(), found.rejected.numpy()
    return (
        mean("preference_loss", found.loss.numpy()),
        share("preference_accuracy", chosen > rejected),
        mean("rewards/margins", chosen - rejected),
        mean("rewards/chosen", chosen),
        mean("rewards/rejected", rejected),
    )
