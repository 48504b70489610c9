"""Batched generation of responses, by ``generate`` of transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from tradeoff.data.rows import PreferenceRow, SftRow
from tradeoff.errors import InputError
from tradeoff.llm._data import prompt_ids
from tradeoff.llm._generation_settings import unused
from tradeoff.llm._reference_values import evaluating
from tradeoff.llm._turns import stop_ids
from tradeoff.llm.evaluation.policy import LoadedPolicy, Outline
from tradeoff.llm.models import below_adapters
from tradeoff.progress import tqdm
from tradeoff.settings import Seed, Within, check

Ids = Int[np.ndarray, " _"]
# Prompt and response tokens of one call; their key-value cache must fit beside the weights.
_TOKENS = {"cuda": 2**16, "cpu": 2**14}


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings of generation.

    Attributes
    ----------
    max_new_tokens
        Longest response.
    temperature
        At 0 the likeliest token is taken each time; otherwise logits are divided by it.
    top_p
        Tokens are drawn from the smallest set with at least this probability.
    seed
        Seed of the draws, which also depend on the batches that the prompts form.
    """

    max_new_tokens: Annotated[int, Within(1, 2**24)] = 256
    temperature: Annotated[float, Within(0, 1e6)] = 0.0
    top_p: Annotated[float, Within(0, 1, "(]")] = 1.0
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class GeneratedResponses:
    """Generated responses.

    Attributes
    ----------
    texts
        One response per prompt, in the order of the prompts, without the end token.
    ended
        Whether each response ended by an end token, and not at the longest length.
    shortened
        Number of prompts whose beginning was cut to leave room for a response.
    """

    texts: tuple[str, ...]
    ended: tuple[bool, ...]
    shortened: int


def generate(
    policy: LoadedPolicy,
    rows: Sequence[SftRow] | Sequence[PreferenceRow],
    sampling: Sampling | None = None,
    *,
    tokens_at_once: int | None = None,
    progress: bool = False,
) -> GeneratedResponses:
    """Respond to the prompt of each row; conversations go through the chat template.

    Parameters
    ----------
    rows
        Only their prompts are read.
    sampling
        Settings of generation; by default greedy, with up to 256 tokens.
    tokens_at_once
        Largest number of prompt and response tokens of a batch; by default it depends on the
        device.

    Raises
    ------
    InputError
        If a row has no prompt, or the longest response leaves no room for a prompt.
    """
    sampling = sampling or Sampling()
    room = room_for_prompt(policy, sampling)
    prompts = prompt_ids(rows, policy.tokenizer)
    # The question is usually at the end of a prompt.
    kept = [ids[-room:] for ids in prompts]
    budget = tokens_at_once or _TOKENS.get(policy.device.type, _TOKENS["cuda"])
    found: dict[int, tuple[str, bool]] = {}
    ends = end_ids(policy)
    # Evaluations do not use penalties and temperatures of the model.
    own = unused(below_adapters(policy.model))
    with own, torch.random.fork_rng(_cuda(policy)):
        torch.manual_seed(sampling.seed)
        with tqdm(total=len(kept), desc="responses", disable=not progress, leave=False) as bar:
            for part in _batches(kept, sampling.max_new_tokens, budget):
                found |= _respond(policy, {i: kept[i] for i in part}, sampling, ends)
                bar.update(len(part))
    texts, ended = zip(*(found[i] for i in range(len(kept))), strict=True)
    shortened = sum(len(ids) > room for ids in prompts)
    return GeneratedResponses(texts, ended, shortened)


def room_for_prompt(policy: LoadedPolicy | Outline, sampling: Sampling) -> int:
    """Largest number of prompt tokens beside the longest response; an `InputError` if it is 0."""
    room = policy.max_length - sampling.max_new_tokens
    if room < 1:
        raise InputError(
            f"no room is left for a prompt within {policy.max_length} tokens",
            field="max_new_tokens",
            value=sampling.max_new_tokens,
            remedy="Ask for fewer new tokens, or give a larger max_length if the model allows.",
        )
    return room


def _batches(prompts: Sequence[Ids], new: int, budget: int) -> Iterator[list[int]]:
    """Batches of prompts of similar length, longest first, so that lack of memory shows early."""
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    while order:
        count = max(1, budget // (len(prompts[order[0]]) + new))
        yield order[:count]
        order = order[count:]


@torch.no_grad()
def _respond(
    policy: LoadedPolicy, prompts: dict[int, Ids], sampling: Sampling, ends: list[int]
) -> dict[int, tuple[str, bool]]:
    time = max(len(ids) for ids in prompts.values())
    tokens = torch.full((len(prompts), time), policy.scorer.pad)
    mask = torch.zeros_like(tokens)
    for row, ids in enumerate(prompts.values()):
        tokens[row, time - len(ids) :] = torch.from_numpy(ids)
        mask[row, time - len(ids) :] = 1
    with policy.scorer.autocast(), evaluating(policy.policy):
        written = policy.model.generate(
            input_ids=tokens.to(policy.device),
            attention_mask=mask.to(policy.device),
            generation_config=_settings(policy, ends, sampling),
        )
    new = written[:, time:].cpu()
    return {
        place: _text(policy.tokenizer, prompts[place], row, ends)
        for place, row in zip(prompts, new, strict=True)
    }


def _text(tokenizer: Any, prompt: Ids, new: Tensor, ends: list[int]) -> tuple[str, bool]:
    stops = torch.isin(new, torch.tensor(ends)).nonzero()[:, 0].tolist()
    response = (new[: stops[0]] if stops else new).numpy()
    # Decoded with its prompt, as some tokenizers drop the first blank of a text.
    before, whole = _decoded(tokenizer, prompt), _decoded(tokenizer, np.r_[prompt, response])
    if whole.startswith(before):
        return whole[len(before) :], bool(stops)
    return _decoded(tokenizer, response), bool(stops)


def _decoded(tokenizer: Any, ids: Ids) -> str:
    """The text of tokens. Special tokens that responses contain, such as <tool_call>, stay."""
    around = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    known = [token for token in around if token is not None]
    return str(tokenizer.decode(ids[~np.isin(ids, known)], skip_special_tokens=False))


def end_ids(policy: LoadedPolicy) -> list[int]:
    """Tokens that end a response, see `tradeoff.llm._turns.stop_ids`."""
    return stop_ids(policy.tokenizer, policy.model.generation_config)


def _settings(policy: LoadedPolicy, ends: list[int], sampling: Sampling) -> Any:
    from transformers import GenerationConfig

    drawn: dict[str, Any] = {"do_sample": False}
    if sampling.temperature > 0:
        drawn = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
        drawn["top_k"] = 0
    return GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=ends,
        pad_token_id=policy.scorer.pad,
        use_cache=True,
        **drawn,
    )


def _cuda(policy: LoadedPolicy) -> list[torch.device]:
    return [policy.device] if policy.device.type == "cuda" else []
