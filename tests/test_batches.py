"""From rows to tensors: where the completion starts, what is cut, dropped and padded."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from tradeoff.data import Message, PreferenceRow, SftRow
from tradeoff.data.synthetic import Language, as_conversations, generate
from tradeoff.data.tokenizer import byte_tokenizer, train_tokenizer
from tradeoff.errors import InputError
from tradeoff.networks.batches import packed_batch, pair_batch, sft_batch, shared_prefix
from tradeoff.networks.language_model import LanguageModel, LanguageModelConfig, response_log_probs

BYTES = byte_tokenizer()
DATA = generate(Language(sft_rows=90, preference_rows=90, test_rows=9, documents=90))
# "abab" is one token and so is "ab", so a merge can cross the border of prompt and completion.
MERGING = train_tokenizer(["abab"] * 20, 263)


def test_the_completion_and_the_end_token_count() -> None:
    batch = sft_batch([SftRow("ab", "cd"), SftRow("a", "b")], BYTES)
    ids = [BYTES.encode(text) for text in ("abcd<eos>", "ab<eos><pad><pad>")]
    assert batch.tokens.tolist() == ids
    assert batch.mask.int().tolist() == [[0, 0, 1, 1, 1], [0, 1, 1, 0, 0]]
    assert (batch.kept.tolist(), batch.dropped, len(batch)) == ([0, 1], 0, 2)


def test_an_end_token_is_not_doubled() -> None:
    batch = sft_batch([SftRow("a", "b<eos>")], BYTES)
    assert batch.tokens.tolist() == [BYTES.encode("ab<eos>")]


def test_a_document_counts_from_its_second_token() -> None:
    assert sft_batch([SftRow("", "abc")], BYTES).mask.int().tolist() == [[0, 1, 1, 1]]


def test_a_token_across_the_border_belongs_to_the_completion() -> None:
    assert len(MERGING.encode("abab")) == 1
    batch = sft_batch([SftRow("xab", "abz")], MERGING)
    assert [MERGING.decode([i]) for i in batch.tokens[0].tolist()] == ["x", "abab", "z", "<eos>"]
    assert batch.mask.int().tolist() == [[0, 1, 1, 1]]


def test_a_pair_starts_at_the_shorter_of_both_prefixes() -> None:
    batch = pair_batch([PreferenceRow("xab", "abz", "z")], MERGING)
    assert [MERGING.decode([i]) for i in batch.tokens[0, 1].tolist()] == ["x", "ab", "z", "<eos>"]
    assert batch.mask.int().tolist() == [[[0, 1, 1, 1], [0, 1, 1, 1]]]


def test_long_rows_are_cut_and_full_prompts_dropped_and_counted() -> None:
    rows = [SftRow("ab", "cdefgh"), SftRow("abcdef", "g"), SftRow("abc", "d"), SftRow("abcd", "e")]
    batch = sft_batch(rows, BYTES, max_length=4)
    assert (batch.kept.tolist(), batch.dropped) == ([0, 2], 2)
    assert [BYTES.decode(row) for row in batch.tokens.tolist()] == ["abcd", "abcd"]
    assert batch.mask.int().tolist() == [[0, 0, 1, 1], [0, 0, 0, 1]]
    with pytest.raises(InputError, match="max_length"):
        sft_batch(rows, BYTES, max_length=2)
    with pytest.raises(InputError, match="no rows"):
        pair_batch([], BYTES)


def test_conversations_end_with_the_end_token() -> None:
    turns = (Message("user", "hi"),), (Message("assistant", "yo"),)
    batch = sft_batch([SftRow(*turns)], BYTES)
    assert BYTES.decode(batch.tokens[0].tolist()) == "<user>hi<assistant>yo<eos>"
    assert BYTES.decode(batch.tokens[0][batch.mask[0]].tolist()) == "yo<eos>"
    with pytest.raises(InputError, match="mixed"):
        sft_batch([SftRow(turns[0], "yo")], BYTES)


@pytest.mark.parametrize("conversational", [False, True])
def test_generated_rows_mask_exactly_their_responses(conversational: bool) -> None:
    data = as_conversations(DATA) if conversational else DATA
    tokenizer = train_tokenizer(DATA.corpus, 400)
    batch = pair_batch(data.preference_train, tokenizer)
    for row, pair, mask in zip(DATA.preference_train, batch.tokens, batch.mask, strict=True):
        texts = [tokenizer.decode(ids[m].tolist()) for ids, m in zip(pair, mask, strict=True)]
        assert texts == [f"{row.chosen}<eos>", f"{row.rejected}<eos>"]


@given(rows=st.lists(st.integers(0, 89), min_size=1, max_size=8))
def test_some_rows_are_those_rows_cut_to_the_longest(rows: list[int]) -> None:
    whole = sft_batch(DATA.sft_train, BYTES)
    part = whole.take(rows)
    alone = sft_batch([DATA.sft_train[row] for row in rows], BYTES)
    assert torch.equal(part.tokens, alone.tokens)
    assert torch.equal(part.mask, alone.mask)
    assert part.kept.tolist() == rows


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [False, True])
@given(rows=st.lists(st.integers(0, 89), min_size=1, max_size=8))
def test_ragged_rows_hold_every_token_up_to_the_last_that_counts(
    pairs: bool, rows: list[int]
) -> None:
    whole = pair_batch if pairs else sft_batch
    batch = whole(DATA.preference_train if pairs else DATA.sft_train, BYTES).take(rows)
    laid = batch.ragged(torch.arange(len(rows)))
    pieces = laid.tokens.tensor_split(laid.starts[1:-1])
    assert len(pieces) == len(laid.after) == len(rows) * (3 if pairs else 1)
    read = [
        torch.cat([pieces[root], piece]) if root >= 0 else piece
        for piece, root in zip(pieces, laid.after.tolist(), strict=True)
        if root >= 0 or not pairs
    ]
    rows_of = zip(batch.tokens.flatten(0, -2), batch.mask.flatten(0, -2), strict=True)
    for response, (tokens, mask) in enumerate(rows_of):
        end = int(mask.nonzero().max()) + 1
        assert torch.equal(read[response], tokens[:end])
        own = laid.owners == response
        assert torch.equal(laid.targets[own], tokens[mask])
        assert torch.equal(laid.tokens[laid.wanted[own]], tokens[:-1][mask[1:]])


def test_padding_and_order_leave_log_probabilities_alone() -> None:
    model = LanguageModel(LanguageModelConfig(vocabulary=len(BYTES), width=16, layers=2, heads=2))
    whole = sft_batch(DATA.sft_train[:12], BYTES)
    sums = response_log_probs(model(whole.tokens), whole.tokens, whole.mask)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    mixed = whole.take(order)
    assert_close(response_log_probs(model(mixed.tokens), mixed.tokens, mixed.mask), sums[order])
    for row in range(12):
        one = whole.take([row])
        assert_close(response_log_probs(model(one.tokens), one.tokens, one.mask)[0], sums[row])


def test_documents_are_packed_without_loss() -> None:
    batch = packed_batch(["abc", "de", "fghij"], BYTES, length=4)
    text = "".join(BYTES.decode(row) for row in batch.tokens.tolist())
    assert text == "abc<eos>de<eos>fghij"[: len(text)]
    assert batch.tokens.shape == (3, 4)
    assert not batch.mask[:, 0].any()
    assert batch.mask[:, 1:].all()
    with pytest.raises(InputError, match="at most 4"):
        packed_batch(["abc"], BYTES, length=5)


def test_moving_keeps_everything() -> None:
    batch = sft_batch([SftRow("ab", "cd")], BYTES).to("cpu")
    assert batch.tokens.shape == (1, 5)


def test_shared_prefix() -> None:
    assert shared_prefix([1, 2, 3], [1, 2, 4, 5]) == 2
    assert shared_prefix([], [1]) == 0
    assert shared_prefix([1], [1, 2]) == 1
