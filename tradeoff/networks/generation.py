"""Batched generation with a key-value cache.

Prompts of different lengths share a batch without padding on the left. Each row writes its next
token into the slot after its own last token, and attends only to the slots up to there. So a token
has the same position, and up to rounding the same logits, as in a sequence of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tradeoff.errors import InputError
from tradeoff.networks.language_model import LanguageModel


@torch.no_grad()
def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    eos: int,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top: float = 1.0,
    seed: int = 0,
    batch_size: int = 256,
) -> list[list[int]]:
    """Continue each prompt until `eos` or the limit.

    Parameters
    ----------
    model
        The model, on any device; generation runs there.
    prompts
        Token ids, at least one in each prompt.
    eos
        The token that ends a response; it is not returned.
    max_new_tokens
        Largest number of new tokens.
    temperature
        At 0 the likeliest token is taken; otherwise tokens are drawn after the logits are divided
        by it.
    top
        Share of the probability that draws are from, in (0, 1]: that of the likeliest tokens which
        together have it.
    seed
        Seed of the draws, which also depend on the batches that the prompts form.
    batch_size
        Prompts per batch; they are sorted by length, so that little is wasted.

    Returns
    -------
    list of list of int
        The response to each prompt, in the order of the prompts.
    """
    _check(prompts, max_new_tokens, temperature, top)
    generator = torch.Generator(model.embed_tokens.weight.device).manual_seed(seed)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    responses: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        rows = _continue(
            model, [prompts[i] for i in chosen], eos, max_new_tokens, (temperature, top), generator
        )
        for i, row in zip(chosen, rows, strict=True):
            responses[i] = row
    return responses


def _continue(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    eos: int,
    limit: int,
    draws: tuple[float, float],
    generator: torch.Generator,
) -> list[list[int]]:
    device = model.embed_tokens.weight.device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    longest = max(map(len, prompts))
    padded = [[*prompt, *[eos] * (longest - len(prompt))] for prompt in prompts]
    tokens = torch.tensor(padded, device=device)
    positions = torch.arange(longest, device=device).expand_as(tokens)
    cache = model.cache(len(prompts), longest + limit)
    logits = model(tokens, positions, cache)
    logits = logits[torch.arange(len(prompts), device=device), lengths - 1]
    written: list[Tensor] = []
    ended = torch.zeros_like(lengths, dtype=torch.bool)
    for step in range(limit):
        token = _pick(logits, *draws, generator).masked_fill(ended, eos)
        written.append(token)
        ended = ended | (token == eos)
        if step == limit - 1 or bool(ended.all()):
            break
        logits = model(token[:, None], (lengths + step)[:, None], cache)[:, 0]
    rows = torch.stack(written, dim=1).tolist()
    return [row[: row.index(eos)] if eos in row else row for row in rows]


def _pick(logits: Tensor, temperature: float, top: float, generator: torch.Generator) -> Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    weights = (logits.float() / temperature).softmax(-1)
    if top < 1:
        ordered, order = weights.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered
        kept = torch.zeros_like(weights, dtype=torch.bool).scatter(-1, order, before < top)
        weights = weights * kept
    return torch.multinomial(weights, 1, generator=generator)[:, 0]


def _check(prompts: Sequence[Sequence[int]], limit: int, temperature: float, top: float) -> None:
    for row, prompt in enumerate(prompts, start=1):
        if not prompt:
            raise InputError(
                "a prompt is empty",
                field="prompts",
                row=row,
                remedy="Begin it with at least one token, such as the end of a document.",
            )
    if limit < 1:
        raise InputError(
            "at least one new token must be allowed",
            field="max_new_tokens",
            value=limit,
            remedy="Give 1 or more.",
        )
    if not temperature >= 0:
        raise InputError(
            "temperature is negative",
            field="temperature",
            value=temperature,
            remedy="Give 0 for the likeliest token, or a positive number.",
        )
    if not 0 < top <= 1:
        raise InputError(
            "no such share of the probability",
            field="top",
            value=top,
            remedy="Give more than 0, and at most 1 for all tokens.",
        )
