"""Tokenisation of rows into padded tensors, with the conventions of TRL 1.16.

The completion starts after the longest token prefix that the tokenised prompt shares with the
tokenised prompt and completion (for a pair: the shorter of both prefixes). So a token that is
merged across the border belongs to the completion. The end token follows text completions that lack
it; the tokenizer renders conversations. Sequences are cut on the right. Rows whose prompt leaves no
room are dropped and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from tradeoff.data.rows import PreferenceRow, SftRow, Text
from tradeoff.data.tokenizer import EOS, Tokenizer
from tradeoff.errors import InputError


@dataclass(frozen=True)
class Batch:
    """Sequences of equal length, and a mask of the tokens that carry loss.

    Attributes
    ----------
    tokens
        (..., time), padded on the right; ... is (rows,), or (rows, 2) for pairs: chosen, rejected.
    mask
        True at the tokens of the completion, with the end token. The first token of a sequence is
        never among them, as nothing predicts it.
    kept
        (rows,) indices of these rows among the given ones.
    dropped
        How many rows were left out because their prompt filled the sequence.
    """

    tokens: Int[Tensor, "*rows time"]
    mask: Bool[Tensor, "*rows time"]
    kept: Int[Tensor, " rows"]
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, rows: Tensor | np.ndarray | Sequence[int]) -> Batch:
        """Select rows, cut to the longest among them."""
        index = torch.as_tensor(rows, device=self.tokens.device)
        tokens, mask = self.tokens[index], self.mask[index]
        used = mask.flatten(0, -2).any(0).nonzero()
        length = int(used.max()) + 1 if len(used) else 1
        return Batch(tokens[..., :length], mask[..., :length], self.kept[index.cpu()])

    def opened(self, vocabulary: int, count: int) -> Batch:
        """The rows with `count` new tokens, from `vocabulary` on, before each response."""
        whole = self.tokens.shape[-1] + count
        answered = self.mask if self.mask.ndim == 2 else self.mask.any(1)
        first = answered.int().argmax(-1)[:, None]
        number = torch.arange(whole, device=first.device) - first
        own = (number >= 0) & (number < count)
        source = torch.where(number < 0, number, (number - count).clamp(min=0)) + first
        shape = (*self.tokens.shape[:-1], whole)
        if self.mask.ndim == 3:
            number, own, source = (x[:, None].expand(shape) for x in (number, own, source))
        tokens = torch.where(own, vocabulary + number, self.tokens.gather(-1, source))
        mask = self.mask.gather(-1, source) & ~own
        return Batch(tokens, mask, self.kept, self.dropped)

    def ragged(self, rows: Int[Tensor, " some"]) -> Ragged:
        """Pack some rows end to end on a CPU; each response ends at its last token in the mask."""
        tokens, mask = self.tokens[rows], self.mask[rows]
        place = torch.arange(mask.shape[-1])
        kept = place <= (mask * place).amax(-1, keepdim=True)
        after = torch.full((len(rows),), -1)
        if pairs := tokens.ndim == 3:
            # Three sequences of each row: the prompt, and what follows it in either response.
            answered = (place >= mask.any(1).int().argmax(-1)[:, None])[:, None]
            kept = torch.cat([~answered, answered & kept], dim=1)
            tokens, mask = tokens[:, [0, 0, 1]], F.pad(mask, (0, 0, 1, 0))
            prompts = 3 * torch.arange(len(rows))
            after = torch.stack([after, prompts, prompts], dim=1).flatten()
        tokens, mask, kept = (x.flatten(0, -2) for x in (tokens, mask, kept))
        starts = F.pad(kept.sum(1).cumsum(0), (1, 0))
        laid, counted = tokens[kept], mask[kept].nonzero()[:, 0]
        sequence = torch.arange(len(mask)).repeat_interleave(mask.sum(1))
        # The last token of the continued sequence predicts the first token of the one that
        # continues it.
        before = torch.where(counted == starts[sequence], starts[after[sequence] + 1], counted) - 1
        response = sequence - 1 - sequence // 3 if pairs else sequence
        return Ragged(laid, starts, after, before, laid[counted], response)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        return Batch(self.tokens.to(device), self.mask.to(device), self.kept, self.dropped)


@dataclass(frozen=True)
class Ragged:
    """Packed sequences without padding; a pair has its prompt once, then both responses.

    Attributes
    ----------
    tokens
        Tokens of all S sequences.
    starts, after
        First token of each sequence, and the number of tokens as the last entry; the sequence that
        each one continues, or -1.
    wanted, targets, owners
        For each token that carries loss: the place of the token before it, the token, and the
        number of its response, in the order of the rows and chosen before rejected.
    """

    tokens: Int[Tensor, " tokens"]
    starts: Int[Tensor, " starts"]
    after: Int[Tensor, " sequences"]
    wanted: Int[Tensor, " counted"]
    targets: Int[Tensor, " counted"]
    owners: Int[Tensor, " counted"]


def sft_batch(rows: Sequence[SftRow], tokenizer: Tokenizer, max_length: int = 128) -> Batch:
    """Tokenise demonstrations: tokens and mask of shape (rows, time).

    Parameters
    ----------
    rows
        Demonstrations. A document, whose prompt is empty, carries loss from its second token on.
    tokenizer
        A tokenizer of `tradeoff.data.tokenizer`.
    max_length
        Longest sequence; longer ones lose their end.

    Raises
    ------
    InputError
        If no row is left, or a conversation has an unknown role.
    """
    prompts = tokenizer.encode_many([_prompt(row.prompt, tokenizer) for row in rows])
    whole = tokenizer.encode_many([_whole(row.prompt, row.completion, tokenizer) for row in rows])
    starts = [shared_prefix(p, w) for p, w in zip(prompts, whole, strict=True)]
    batch = _pad([[ids] for ids in whole], starts, tokenizer.pad, max_length)
    return replace(batch, tokens=batch.tokens[:, 0], mask=batch.mask[:, 0])


def pair_batch(rows: Sequence[PreferenceRow], tokenizer: Tokenizer, max_length: int = 128) -> Batch:
    """Tokenise preference pairs: (rows, 2, time), chosen first; otherwise as `sft_batch`."""
    prompts = tokenizer.encode_many([_prompt(row.prompt, tokenizer) for row in rows])
    chosen = tokenizer.encode_many([_whole(row.prompt, row.chosen, tokenizer) for row in rows])
    rejected = tokenizer.encode_many([_whole(row.prompt, row.rejected, tokenizer) for row in rows])
    starts = [
        min(shared_prefix(p, c), shared_prefix(p, r))
        for p, c, r in zip(prompts, chosen, rejected, strict=True)
    ]
    pairs = [[c, r] for c, r in zip(chosen, rejected, strict=True)]
    return _pad(pairs, starts, tokenizer.pad, max_length)


def packed_batch(documents: Iterable[str], tokenizer: Tokenizer, length: int = 128) -> Batch:
    """Join documents, each closed by the end token, and cut them into blocks: (blocks, length).

    For pretraining. The last block is left out if it is not full. Tokens attend to earlier
    documents of their block, as is usual.

    Raises
    ------
    InputError
        If the documents do not fill one block.
    """
    stream = np.concatenate(
        [np.zeros(0, np.int64)]
        + [np.array([*ids, tokenizer.eos]) for ids in tokenizer.encode_many(list(documents))]
    )
    blocks = len(stream) // length
    if not blocks:
        raise InputError(
            "the documents do not fill one block",
            field="length",
            value=length,
            remedy=f"Give a shorter length, at most {len(stream)}, or more documents.",
        )
    tokens = torch.from_numpy(stream[: blocks * length].reshape(blocks, length))
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[:, 0] = False
    return Batch(tokens, mask, torch.arange(blocks))


def shared_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Number of leading tokens that two sequences share."""
    shorter = min(len(first), len(second))
    return next((i for i in range(shorter) if first[i] != second[i]), shorter)


def _prompt(prompt: Text, tokenizer: Tokenizer) -> str:
    if isinstance(prompt, str):
        return prompt
    return tokenizer.render(prompt, generation_prompt=True)


def _whole(prompt: Text, completion: Text, tokenizer: Tokenizer) -> str:
    if isinstance(prompt, str) and isinstance(completion, str):
        return prompt + completion + ("" if completion.endswith(EOS) else EOS)
    if isinstance(prompt, str) or isinstance(completion, str):
        remedy = "Make both text or both messages."
        raise InputError("text and messages are mixed", value=(prompt, completion), remedy=remedy)
    return tokenizer.render([*prompt, *completion])


def _pad(
    sequences: Sequence[Sequence[Sequence[int]]], starts: Sequence[int], pad: int, max_length: int
) -> Batch:
    """Cut, pad and mask (rows, sequences of a row, time); drop rows without room."""
    kept = [row for row, start in enumerate(starts) if start < max_length]
    if not kept:
        raise InputError(
            "no row is left: every prompt fills the sequence" if starts else "there are no rows",
            field="max_length",
            value=max_length,
            remedy="Give a longer max_length, or rows with shorter prompts.",
        )
    time = min(max_length, max(len(ids) for row in kept for ids in sequences[row]))
    tokens = np.full((len(kept), len(sequences[0]), time), pad)
    mask = np.zeros(tokens.shape, bool)
    for place, row in enumerate(kept):
        for side, ids in enumerate(sequences[row]):
            end = min(len(ids), time)
            tokens[place, side, :end] = ids[:end]
            mask[place, side, max(starts[row], 1) : end] = True
    dropped = len(starts) - len(kept)
    return Batch(torch.from_numpy(tokens), torch.from_numpy(mask), torch.tensor(kept), dropped)
