"""Responses that a language model writes in training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from tradeoff.data.tokenizer import Tokenizer
from tradeoff.methods.losses.rollouts import RolledOut
from tradeoff.networks.batches import Batch
from tradeoff.networks.generation import generate
from tradeoff.networks.language_model import LanguageModel

PROMPT, BEGUN, OWN, NOTHING = range(4)
"""Parts of a row: the prompt, the tokens of the demonstration, those of the policy, padding."""


def written(
    model: LanguageModel,
    tokenizer: Tokenizer,
    shown: Batch,
    hints: Float[np.ndarray, "B N"],
    longest: int,
    seed: int,
) -> tuple[Batch, RolledOut]:
    """Rows of responses, group by group, and what a loss of rollouts asks of them.

    Parameters
    ----------
    model, tokenizer
        The policy.
    shown
        B demonstrations.
    hints
        Share of its demonstration that each response begins with, rounded down to whole tokens.
    longest
        Most tokens that the policy writes. A response without an end by then has none.
    seed
        Of the draws.

    Returns
    -------
    Batch
        B * N rows with the mask of their responses.
    RolledOut
        With a reward of 1 for each response whose text is that of the demonstration, and 0 for the
        others; without entropies.
    """
    eos, demonstrated, parts = tokenizer.eos, [], []
    for tokens, own, shares in zip(shown.tokens, shown.mask, hints, strict=True):
        places = own.nonzero()[:, 0]
        prompt, response = tokens[: int(places[0])].tolist(), tokens[places].tolist()
        demonstrated += [response] * len(shares)
        parts += [(prompt, response[: int(share * len(response))]) for share in shares]
    going = [k for k, (_, begun) in enumerate(parts) if not begun or begun[-1] != eos]
    found: list[list[int]] = [[] for _ in parts]
    if going:
        given = [parts[k][0] + parts[k][1] for k in going]
        rows = answered(model, given, eos=eos, longest=longest, temperature=1.0, seed=seed)
        for k, row in zip(going, rows, strict=True):
            found[k] = row
    time = max(len(p) + len(b) + len(own) for (p, b), own in zip(parts, found, strict=True))
    tokens = np.full((len(parts), time), tokenizer.pad)
    kinds = np.full((len(parts), time), NOTHING)
    for k, ((prompt, begun), own) in enumerate(zip(parts, found, strict=True)):
        whole = [*prompt, *begun, *own]
        tokens[k, : len(whole)] = whole
        kinds[k, : len(whole)] = np.repeat(
            (PROMPT, BEGUN, OWN), (len(prompt), len(begun), len(own))
        )

    def text(ids: list[int]) -> str:
        return tokenizer.decode([token for token in ids if token != eos]).strip()

    rewards = [
        float(text([*begun, *own]) == text(wanted))
        for (_, begun), own, wanted in zip(parts, found, demonstrated, strict=True)
    ]
    mask = torch.from_numpy((kinds == BEGUN) | (kinds == OWN))
    batch = Batch(torch.from_numpy(tokens), mask, torch.arange(len(parts)))
    shape = (*hints.shape, time)
    begun_of, own_of = ((kinds == kind).reshape(shape) for kind in (BEGUN, OWN))
    judged = np.array(rewards).reshape(hints.shape)
    about = RolledOut(judged, begun_of, own_of, np.zeros((len(hints), time)))
    return batch.to(shown.tokens.device), about


def answered(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    eos: int,
    longest: int,
    temperature: float,
    seed: int,
    top: float = 1.0,
) -> list[list[int]]:
    """What a model writes after each prompt; a response of less than ``longest`` tokens has an end.

    See `generate` for the parameters.
    """
    rows = generate(
        model,
        prompts,
        eos=eos,
        max_new_tokens=longest,
        temperature=temperature,
        top=top,
        seed=seed,
    )
    return [row if len(row) == longest else [*row, eos] for row in rows]


def laid_out(parts: Sequence[tuple[list[int], list[int]]], pad: int) -> Batch:
    """Rows of prompts and responses, with the mask of the responses."""
    time = max(len(prompt) + len(response) for prompt, response in parts)
    tokens = np.full((len(parts), time), pad)
    mask = np.zeros(tokens.shape, dtype=bool)
    for k, (prompt, response) in enumerate(parts):
        end = len(prompt) + len(response)
        tokens[k, :end] = [*prompt, *response]
        mask[k, len(prompt) : end] = True
    return Batch(torch.from_numpy(tokens), torch.from_numpy(mask), torch.arange(len(parts)))
