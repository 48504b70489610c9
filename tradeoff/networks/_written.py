"""Responses that the tiny language model writes for losses and for rows, under exact judges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tradeoff.data import synthetic
from tradeoff.errors import InputError
from tradeoff.methods.losses.groups import Grouped
from tradeoff.methods.losses.records import WrittenGroup
from tradeoff.methods.transforms import Written
from tradeoff.networks._rollouts import answered, laid_out
from tradeoff.networks.batches import Batch
from tradeoff.networks.tasks import ANSWERS

Task = Any
"""A `tradeoff.networks.language_task.LanguageTask`, whose module imports this one."""
Ids = list[int]
REFERENCE = 2**40
"""Added to the seed of what the reference writes, so that it does not repeat the policy."""


def group(
    task: Task,
    params: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    index: Int[Tensor, " B"],
    loss: Grouped,
    seed: int,
) -> WrittenGroup:
    """Responses to the prompts of some training pairs; see `LanguageTask.written`."""
    index = index.cpu()
    chosen = Batch(task.pairs.tokens[index, 0], task.pairs.mask[index, 0], index)
    prompts = [prompt for prompt, _ in _split(chosen)]
    found = _responses(task, params, reference, prompts, loss, seed)
    rewards = np.array(
        [task.rewards(row, each) for row, each in zip(index.tolist(), found, strict=True)]
    )
    kept = loss.kept(rewards)
    lines = zip(prompts, found, kept.tolist(), strict=True)
    batch = laid_out(
        [(prompt, each[k]) for prompt, each, own in lines for k in own], task.tokenizer.pad
    ).to(task.device)
    every = torch.arange(len(batch), device=task.device)
    log_probs = task.log_probs(params, batch, every).view(kept.shape)
    known = likeness = None
    if loss.needs_reference:
        with torch.no_grad():
            known = task.log_probs(reference, batch, every).view(kept.shape)
    if "likeness" in loss.asks:
        features = _features(task, batch).view(*kept.shape, -1)
        likeness = (features @ _features(task, chosen)[..., None])[..., 0].to(log_probs)
    judged = torch.from_numpy(np.take_along_axis(rewards, kept, axis=1)).to(log_probs)
    lengths = batch.mask.sum(-1).view(kept.shape).to(log_probs)
    return WrittenGroup(log_probs, known, judged, likeness, lengths=lengths)


def _responses(
    task: Task,
    params: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    prompts: Sequence[Ids],
    loss: Grouped,
    seed: int,
) -> list[list[Ids]]:
    """What each writer of a loss writes to each prompt, in the order of the writers."""
    found: list[list[Ids]] = [[[] for _ in loss.writers] for _ in prompts]
    longest = int(task.pairs.mask.sum(-1).max())
    for writer, weights, more in (("policy", params, 0), ("reference", reference, REFERENCE)):
        places = [k for k, name in enumerate(loss.writers) if name == writer]
        if not places:
            continue
        rows = answered(
            task.model(weights),
            [prompt for prompt in prompts for _ in places],
            eos=task.tokenizer.eos,
            longest=longest,
            temperature=loss.drawn_at,
            seed=seed + more,
        )
        for k, row in enumerate(rows):
            found[k // len(places)][places[k % len(places)]] = row
    return found


@torch.no_grad()
def _features(task: Task, rows: Batch) -> Float[Tensor, "B w"]:
    """Mean states of the base model at the tokens of each response, as unit vectors."""
    states: list[Tensor] = []
    model = task.model(dict(task.base.named_parameters()))
    model.norm.register_forward_hook(lambda *seen: states.append(seen[-1]))
    model(rows.tokens)
    return F.normalize((states[0] * rows.mask[..., None]).sum(1), dim=-1)


def rows(task: Task, transform: Written) -> dict[str, Any]:
    """The rows of a task that a transform has written; see `LanguageTask.rewritten`."""
    shown, count = list(_split(task.sft)), transform.attempts
    temperature, top = transform.drawn_at
    found = answered(
        task.model(dict(task.base.named_parameters())),
        [prompt for prompt, _ in shown for _ in range(count)],
        eos=task.tokenizer.eos,
        longest=int(task.sft.mask.sum(-1).max()),
        temperature=temperature,
        top=top,
        seed=ANSWERS,
    )
    if transform.pairs:
        sides = zip(shown, found, strict=True)
        return {
            "pairs": _pairs(task, [(row, (row[0], own)) for row, own in sides if own != row[1]])
        }
    shape = (len(shown), count)
    coins = np.random.default_rng(ANSWERS).random(shape)
    taken = transform.taken(np.array(_right(task, found, count)).reshape(shape), coins).tolist()
    parts = [
        row if own < 0 else (row[0], found[k * count + own])
        for k, (row, own) in enumerate(zip(shown, taken, strict=True))
    ]
    batch = laid_out(parts, task.tokenizer.pad)
    return {"sft": Batch(batch.tokens, batch.mask, task.sft.kept).to(task.device)}


def _right(task: Task, responses: Sequence[Ids], count: int) -> list[bool]:
    """Whether responses, some to each demonstration, end and give its answer."""
    eos, rows = task.tokenizer.eos, task.sft.kept.repeat_interleave(count).tolist()
    return [
        ids[-1] == eos
        and synthetic.content(task.tokenizer.decode(ids[:-1])) == task.data.sft_train[row].answer
        for ids, row in zip(responses, rows, strict=True)
    ]


def _pairs(task: Task, pairs: Sequence[tuple[Any, Any]]) -> Batch:
    """Rows of pairs of a prompt and a response each."""
    if not pairs:
        raise InputError(
            "the policy wrote every demonstration as it is, and no pair is left",
            field="data",
            remedy="Use another method, or another base model.",
        )
    batch = laid_out([side for pair in pairs for side in pair], task.tokenizer.pad)
    tokens, mask = (x.unflatten(0, (-1, 2)) for x in (batch.tokens, batch.mask))
    return Batch(tokens, mask, torch.arange(len(tokens))).to(task.device)


def _split(batch: Batch) -> Iterator[tuple[Ids, Ids]]:
    """Prompt and response of each row."""
    for tokens, own in zip(batch.tokens, batch.mask, strict=True):
        yield tokens[: int(own.int().argmax())].tolist(), tokens[own].tolist()
