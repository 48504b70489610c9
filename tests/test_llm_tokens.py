"""Methods that look at single tokens, in the trainer: limits, and sums by hand in each layout."""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from llm_runs import begin, stop_at, trainer, weights

from tradeoff.llm.batches import collate
from tradeoff.methods import Method
from tradeoff.methods.losses import (
    Dpo,
    IntuitiveSft,
    LdDpo,
    MaskedThought,
    Nll,
    RationaleSft,
    TlTraining,
)
from tradeoff.schedules import PREFERENCE, SFT, Mix

LONG_RESPONSES = r"(?<=\w)\s\w.*"
"""A pattern that marks what follows the first word of a response."""


@dataclass(frozen=True, kw_only=True)
class PlainSft(Nll):
    """SFT, by another name than that of the slot's identity."""

    name: ClassVar[str] = "plain_sft"


def ended(method: Method, **settings: Any) -> torch.Tensor:
    run = trainer(method, steps=2, evaluate_every=2, **settings)
    run.train(progress=False)
    return torch.cat([value.flatten() for value in weights(run).values()])


def sft(loss: Any) -> Method:
    return Method(Mix(lam=0.4), sft=loss)


@pytest.mark.slow
def test_limits_are_sft_bit_for_bit() -> None:
    plain = ended(sft(PlainSft()))
    for loss in (
        TlTraining(most=1.0),
        RationaleSft(pattern=LONG_RESPONSES, weight=1.0),
        MaskedThought(rate=0.0),
        IntuitiveSft(own=0.0, discount=0.0),
    ):
        assert torch.equal(ended(sft(loss)), plain), loss
    for loss in (
        RationaleSft(pattern=LONG_RESPONSES),
        MaskedThought(warm=0.0),
        IntuitiveSft(discount=0.0),
        IntuitiveSft(own=0.0),
    ):
        assert not torch.equal(ended(sft(loss)), plain), loss


@pytest.mark.parametrize("mode", ["cached", "second_model"])
def test_ld_dpo_without_a_discount_is_dpo(mode: str) -> None:
    given = {"reference_mode": mode}
    one, other, less = (
        ended(Method(Mix(lam=0.4), preference=loss), **given)
        for loss in (LdDpo(alpha=1.0), Dpo(), LdDpo(alpha=0.1))
    )
    assert torch.equal(one, other)
    assert not torch.equal(less, other)


@pytest.mark.parametrize("layout", ["padded", "shared"])
def test_tokens_beyond_the_other_response_count_less(layout: str) -> None:
    loss = LdDpo(alpha=0.3)
    run = begin(trainer(Method(Mix(), preference=loss), layout=layout))
    rows = np.array([2, 5, 1])
    items = [run.data.preference[int(row)] for row in rows]
    assert any(len(item.chosen) != len(item.rejected) for item in items)
    expected = torch.zeros(2, 3)
    for place, item in enumerate(items):
        common = min(len(item.chosen), len(item.rejected)) - item.start
        for side, tokens in enumerate((item.chosen, item.rejected)):
            logits = run.model(torch.from_numpy(tokens)[None]).logits[0].log_softmax(-1)
            each = logits[item.start - 1 : -1].gather(
                1, torch.from_numpy(tokens)[item.start :, None]
            )
            expected[side, place] = each[:common].sum() + 0.3 * each[common:].sum()
    _, found = run.scorer._responses(items, loss)
    torch.testing.assert_close(found.view(2, 3), expected, rtol=1e-5, atol=1e-4)
    # The reference is the policy before training, with the same weights of tokens.
    assert run.references is not None
    known = run.references.weighed.table[torch.from_numpy(rows)]
    torch.testing.assert_close(known.T, expected.detach(), rtol=1e-5, atol=1e-4)
    losses = run.scorer.pairs(items, rows, run.references.weighed, loss).loss
    torch.testing.assert_close(losses, torch.full((3,), np.log(2.0)).float(), rtol=1e-4, atol=1e-5)


def test_weighted_references_are_in_checkpoints(tmp_path: Path) -> None:
    method = Method(Mix(lam=0.5), preference=LdDpo())
    whole = trainer(method)
    whole.train(progress=False)
    first = trainer(method, output=tmp_path, callbacks=[stop_at(4, signal.SIGTERM)])
    assert first.train(progress=False).interrupted
    again = trainer(method, output=tmp_path)
    again.train(progress=False)
    for name, value in weights(whole).items():
        assert torch.equal(weights(again)[name], value)


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_what_is_read_is_what_the_loss_says(layout: str) -> None:
    rows = np.array([3, 0, 7])
    run = begin(trainer(sft(MaskedThought(rate=0.5, warm=0.0)), layout=layout))
    items = [run.data.sft[int(row)] for row in rows]
    assert run.readings is not None
    batch = run.readings.at(1, rows, collate(items, layout, run.scorer.pad))
    again = run.readings.at(1, rows, collate(items, layout, run.scorer.pad))
    other = run.readings.at(2, rows, collate(items, layout, run.scorer.pad))
    assert torch.equal(batch.tokens, again.tokens)
    assert not torch.equal(batch.tokens, other.tokens)
    plain = collate(items, layout, run.scorer.pad)
    changed = (batch.tokens != plain.tokens).flatten()
    assert changed.any()
    assert set(changed.nonzero()[:, 0].tolist()) <= set((plain.select + 1).tolist())
    assert torch.equal(batch.labels, plain.labels)
    # The loss is that of the tokens, read one demonstration at a time.
    expected = 0.0
    for item, row in zip(items, rows, strict=True):
        one = run.readings.at(1, np.array([row]), collate([item], "padded", run.scorer.pad))
        tokens = torch.from_numpy(item.tokens)
        logits = run.model(one.tokens).logits[0].log_softmax(-1)[item.start - 1 : -1]
        expected -= float(logits.gather(1, tokens[item.start :, None]).detach().sum())
    read = lambda given: run.readings.at(1, rows, given)  # noqa: E731
    found = run.scorer.sft(items, run.method.sft, read)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_own_predictions_are_mixed_into_what_is_read(layout: str) -> None:
    loss, rows = IntuitiveSft(own=0.3, discount=0.6), np.array([3, 0, 7])
    run = begin(trainer(sft(loss), layout=layout))
    items = [run.data.sft[int(row)] for row in rows]
    every = [run.data.sft[k] for k in range(len(run.data.sft))]
    lengths = [item.scored for item in every]
    raw = [np.cumsum(0.6 ** np.arange(n)) for n in lengths]
    embed, expected = run.model.get_input_embeddings(), 0.0
    for item, row in zip(items, rows, strict=True):
        tokens = torch.from_numpy(item.tokens)
        guess = run.model(tokens[None]).logits[0].argmax(-1)
        read = embed(tokens).detach().clone()
        for t in range(item.start, len(tokens)):
            read[t] = 0.7 * embed(tokens[t]) + 0.3 * embed(guess[t - 1])
        logits = run.model(inputs_embeds=read[None]).logits[0].log_softmax(-1)
        each = logits[item.start - 1 : -1].gather(1, tokens[item.start :, None])[:, 0]
        expected -= float(each.detach().numpy() @ (raw[row] / raw[row].mean()))
    run.policy.train()
    read = lambda given: run.readings.at(0, rows, given)  # noqa: E731
    found = run.scorer.sft(items, loss, read).detach()
    assert float(found) == pytest.approx(expected, rel=1e-4)
    assert run.policy.training


def test_weights_of_tokens_are_those_of_their_texts() -> None:
    loss = RationaleSft(pattern=LONG_RESPONSES, weight=0.0)
    run = begin(trainer(sft(loss)))
    rows = np.arange(4)
    items = [run.data.sft[int(row)] for row in rows]
    batch = run.readings.at(0, rows, collate(items, "padded", run.scorer.pad))
    assert (batch.weights == 0).any()
    ends = np.cumsum([item.scored for item in items]) - 1
    assert (batch.weights[ends] > 0).all()  # The end of a response is no rationale.
    for place, item in enumerate(items):
        own = batch.weights[batch.owner == place] > 0
        said = run.tokenizer.decode(
            item.tokens[item.start :][own.numpy()], skip_special_tokens=True
        )
        whole = run.tokenizer.decode(item.tokens[item.start :], skip_special_tokens=True)
        assert said.strip() == whole.split()[0]
    plain = replace(batch, weights=None)
    each = run.policy(plain)
    torch.testing.assert_close(
        run.scorer.sft(items, loss, lambda given: run.readings.at(0, rows, given)),
        -(each * batch.weights).sum(),
    )


def test_the_forward_pass_of_predictions_is_counted() -> None:
    found = []
    for loss in (PlainSft(), IntuitiveSft()):
        run = begin(trainer(sft(loss)))
        run.update()
        rows = dict(run.feed.followed)
        found.append((run.meter.flops, run.data.extent(SFT, rows[SFT]), run.costs))
        assert PREFERENCE in rows
    (plain, _, _), (fed_back, extent, costs) = found
    assert fed_back - plain == pytest.approx(costs.forward(*extent))
