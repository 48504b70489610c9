"""Rows that the tiny language model writes before training, judged by their answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tradeoff.arena.network_board import network_left_out
from tradeoff.data.synthetic import Language, generate
from tradeoff.data.synthetic.style import ELABORATION, OPENING
from tradeoff.data.tokenizer import train_tokenizer
from tradeoff.errors import InputError
from tradeoff.methods import Method
from tradeoff.methods.losses import OnlineDpo
from tradeoff.methods.transforms.written import (
    OwnSamples,
    PseudoLabels,
    S3Ft,
    SelfDistillation,
    Spin,
)
from tradeoff.networks import _written, generation
from tradeoff.networks._rollouts import answered
from tradeoff.networks.followed import Run
from tradeoff.networks.language_model import LanguageModel, LanguageModelConfig
from tradeoff.networks.language_task import LanguageTask
from tradeoff.networks.tasks import ANSWERS
from tradeoff.networks.train import train
from tradeoff.schedules import FORWARD, Mix

DATA = generate(
    Language(
        sft_rows=16,
        preference_rows=12,
        test_rows=8,
        documents=60,
        skills=("count", "sort"),
        preferences=("polite", "short"),
    )
)
TOKENIZER = train_tokenizer(DATA.corpus, 384)
SHAPE = LanguageModelConfig(vocabulary=len(TOKENIZER), width=8, layers=1, heads=2, hidden=12)
MODEL = LanguageModel(SHAPE, 3).double()
TASK = LanguageTask.of(MODEL, DATA, TOKENIZER, evaluation_rows=8)
LONGEST = int(TASK.sft.mask.sum(-1).max())
EOS = TOKENIZER.eos


def shown(task: LanguageTask) -> list[list[int]]:
    """Tokens of the responses of the demonstrations."""
    return [row[own].tolist() for row, own in zip(task.sft.tokens, task.sft.mask, strict=True)]


def prompts() -> list[list[int]]:
    starts = TASK.sft.mask.int().argmax(-1).tolist()
    return [row[:start].tolist() for row, start in zip(TASK.sft.tokens, starts, strict=True)]


def ended(*methods: Method) -> Any:
    settings = {"steps": 2, "learning_rate": 1e-2, "batch_size": 2, "evaluate_every": 2}
    return train(TASK, [Run(method, 0) for method in methods], **settings)


def with_answers(monkeypatch: pytest.MonkeyPatch, written: list[list[int]]) -> None:
    monkeypatch.setattr(_written, "answered", lambda *_, **__: written)


# ---------------------------------------------------------------------- what is taken


@given(st.integers(0, 99), st.floats(0, 1))
def test_the_first_accepted_response_is_taken(seed: int, error: float) -> None:
    rng = np.random.default_rng(seed)
    right, coins = rng.random((5, 2)) < 0.4, rng.random((5, 2))
    found = S3Ft(error=error).taken(right, coins)
    for row, place in enumerate(found.tolist()):
        accepted = [bool(right[row, k]) or coins[row, k] < error for k in range(2)]
        assert place == (accepted.index(True) if any(accepted) else -1)
    assert OwnSamples().taken(right, coins).tolist() == [0] * 5


@pytest.mark.parametrize("transform", [SelfDistillation(error=0.3), S3Ft(error=0.3)])
def test_draws_have_the_law_of_all_responses(transform: SelfDistillation) -> None:
    """A judge that only takes the demonstration, drawn often, and its law in closed form."""
    chance, count = 0.2, 200_000
    rng = np.random.default_rng(0)
    shape = (count, transform.attempts)
    right = rng.random(shape) < chance
    found = transform.taken(right, rng.random(shape))
    own = found >= 0
    is_gold = ~own | right[np.arange(count), np.maximum(found, 0)]
    passed = chance + (1 - chance) * 0.3
    wrong = sum((1 - passed) ** k for k in range(transform.attempts)) * (1 - chance) * 0.3
    assert 1 - is_gold.mean() == pytest.approx(wrong, abs=4e-3)


def test_the_judge_looks_at_answers_in_any_style(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = []
    for k, row in enumerate(DATA.sft_train):
        styles = [
            f"{row.answer}.",
            f"{OPENING}{row.answer}.{ELABORATION}",
            f"{OPENING}{row.answer} or so.",
            "",
        ]
        texts.append([*TOKENIZER.encode(styles[k % 4]), EOS])
    texts[4] = texts[4][:-1]  # It does not end.
    with_answers(monkeypatch, texts)
    found = shown(TASK.rewritten(SelfDistillation(error=0.0)))
    for k, own in enumerate(found):
        right = k % 4 < 2 and k != 4
        assert own == (texts[k] if right else shown(TASK)[k])
    assert shown(TASK.rewritten(SelfDistillation(error=1.0))) == texts


# ---------------------------------------------------------------------- what is written


def test_the_base_model_writes_once_for_all_runs() -> None:
    for transform in (SelfDistillation(error=1.0), OwnSamples()):
        temperature, top = transform.drawn_at
        wanted = answered(
            MODEL,
            prompts(),
            eos=EOS,
            longest=LONGEST,
            temperature=temperature,
            top=top,
            seed=ANSWERS,
        )
        found = TASK.rewritten(transform)
        assert shown(found) == wanted
        assert shown(TASK.rewritten(transform)) == wanted
        for k, own in enumerate(prompts()):
            assert found.sft.tokens[k, : len(own)].tolist() == own
        assert found.sizes == TASK.sizes
    two = answered(
        MODEL,
        [prompt for prompt in prompts() for _ in range(2)],
        eos=EOS,
        longest=LONGEST,
        temperature=1.0,
        seed=ANSWERS,
    )
    assert shown(TASK.rewritten(S3Ft(error=1.0))) == two[::2]


def test_nothing_accepted_is_sft_bit_for_bit() -> None:
    plain = Method(Mix(lam=0.4))
    strict = replace(plain, data=SelfDistillation(error=0.0))
    own = replace(plain, data=OwnSamples())
    done = ended(plain, strict, own)
    ends = torch.cat([value.flatten(1) for value in done.params.values()], dim=1)
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])
    # Losses are those of the rows as they are given.
    table = done.table[done.table["step"] == 0]
    assert table["sft_loss_train"].nunique() == 1


@given(st.integers(0, 99), st.floats(0.05, 1.0))
def test_draws_are_from_the_likeliest_tokens(seed: int, top: float) -> None:
    """The nucleus by its definition: the fewest likeliest tokens that have the share."""
    logits = torch.randn(3, 7, generator=torch.Generator().manual_seed(seed))
    drawn = [
        generation._pick(logits, 0.7, top, torch.Generator().manual_seed(k)) for k in range(40)
    ]
    weights = (logits / 0.7).softmax(-1)
    for row in range(3):
        nucleus, share = set(), 0.0
        for token in weights[row].argsort(descending=True).tolist():
            if share >= top - 1e-6:
                break
            nucleus.add(token)
            share += float(weights[row, token])
        assert {int(each[row]) for each in drawn} <= nucleus
    whole = generation._pick(logits, 0.7, 1.0, torch.Generator().manual_seed(seed))
    again = torch.multinomial(weights, 1, generator=torch.Generator().manual_seed(seed))[:, 0]
    assert torch.equal(whole, again)


def test_a_tiny_share_is_greedy() -> None:
    settings = {"eos": EOS, "max_new_tokens": 5}
    greedy = generation.generate(MODEL, prompts()[:4], **settings)
    drawn = generation.generate(MODEL, prompts()[:4], temperature=2.0, top=1e-9, **settings)
    assert drawn == greedy
    for top in (0.0, 1.5, float("nan")):
        with pytest.raises(InputError, match="share"):
            generation.generate(MODEL, prompts()[:1], temperature=1.0, top=top, **settings)


# ---------------------------------------------------------------------- SPIN


def test_spin_pairs_demonstrations_with_own_responses(monkeypatch: pytest.MonkeyPatch) -> None:
    written = [*shown(TASK)[1:], shown(TASK)[-1]]
    written[2] = shown(TASK)[2]
    with_answers(monkeypatch, written)
    found = TASK.rewritten(Spin())
    wanted = [k for k, (a, b) in enumerate(zip(shown(TASK), written, strict=True)) if a != b]
    assert len(TASK.sft) - 1 not in wanted
    assert found.sizes == (TASK.sizes[0], len(wanted))
    for place, k in enumerate(wanted):
        for side, response in enumerate((shown(TASK)[k], written[k])):
            tokens, mask = found.pairs.tokens[place, side], found.pairs.mask[place, side]
            assert tokens[mask].tolist() == response
            assert tokens[: int(mask.int().argmax())].tolist() == prompts()[k]
    assert shown(found) == shown(TASK)
    params = {name: value.detach() for name, value in MODEL.named_parameters()}
    index = torch.arange(len(wanted))
    for task in (found, replace(found, ragged=False)):
        log_probs = task.pair_log_probs(params, index)[0]
        sft = TASK.log_probs(params, TASK.sft, torch.tensor(wanted))
        torch.testing.assert_close(log_probs[:, 0], sft)
    with_answers(monkeypatch, shown(TASK))
    with pytest.raises(InputError, match="no pair is left"):
        TASK.rewritten(Spin())


def test_spin_trains_on_its_pairs_and_is_scored_on_the_given_ones() -> None:
    plain, spin = (Method(Mix(lam=0.9), data=data) for data in (Method(Mix()).data, Spin()))
    done = ended(plain, spin)
    table = done.table.set_index("step")
    assert table.loc[0, "preference_loss_train"].tolist() == pytest.approx([np.log(2)] * 2)
    for k in (0, 1):
        params = {name: value[[k]] for name, value in done.params.items()}
        reference = TASK.reference(TASK.initial([0]))
        wanted = TASK.evaluate(params, reference)["preference_loss_train"][0]
        assert table.loc[2, "preference_loss_train"].tolist()[k] == pytest.approx(wanted)
    assert not torch.equal(*done.params["embed_tokens.weight"])
    with pytest.raises(InputError, match="these pairs are replaced"):
        ended(replace(spin, preference=OnlineDpo()))


# ---------------------------------------------------------------------- cost and board


def test_writing_is_paid() -> None:
    """A third of a gradient for each response; where responses are listed, as before."""
    pair = 1.5
    for transform, sft, more in (
        (SelfDistillation(), 1 + FORWARD, 0.0),
        (S3Ft(), 1 + 2 * FORWARD, 0.0),
        (OwnSamples(), 1 + FORWARD, 0.0),
        (Spin(), 1.0, FORWARD),
    ):
        method = Method(Mix(), data=transform)
        assert method.updates(3000, pair=pair) == 1200
        assert method.updates(3000, pair=pair, response=1.1) == round(3000 / (sft + pair + more))


def test_they_take_their_place_on_the_language_board() -> None:
    for name in ("self_distillation", "s3ft", "own_samples", "spin"):
        assert network_left_out(name, "language") is None
        assert "none is written" in str(network_left_out(name, "policies"))
    assert "not all responses" in str(network_left_out("sdft", "language"))
    assert PseudoLabels().unsupported("networks") is not None
